"""From features of queries to results: which of the nearest images are results, and what they are.

All that is read for one call belongs to one snapshot of the index.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.file_source import file_exists
from hyperpq.errors import InvalidInputError
from hyperpq.images.moves import HASH
from hyperpq.images.results import AttributeValue, Result
from hyperpq.index.calibration import EXACT
from hyperpq.index.recall import as_recall, check_one
from hyperpq.index.refine import Refine, as_refine
from hyperpq.store.columns import values_of
from hyperpq.utils.locations import absolute
from hyperpq.utils.validation import as_count, as_number

if TYPE_CHECKING:
    from hyperpq.filters.where import Where
    from hyperpq.index.reader import IndexView

Excluded = Callable[[int, bytes], bool]
"""Says whether the image with an id and a path is none of the results of a query."""

# Hits whose paths and attributes are in memory at once, beside the results.
_MAX_HITS = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What a query asks for, see `ImageIndex.query`.

    Raises
    ------
    InvalidInputError
        If a value is not possible.
    """

    k: int = 50
    max_distance: float | None = None
    min_similarity: float | None = None
    existing: bool = False
    refine: Refine = "auto"
    nprobe: int | None = None
    recall: float | None = None

    def __post_init__(self) -> None:
        as_count(self.k, "k")
        as_refine(self.refine)
        if self.nprobe is not None:
            as_count(self.nprobe, "nprobe")
        as_recall(self.recall)
        check_one(self.nprobe, self.recall)
        if self.max_distance is not None:
            as_number(self.max_distance, "max_distance")
        if self.min_similarity is not None:
            least = as_number(self.min_similarity, "min_similarity")
            if not 0 <= least <= 100:
                raise InvalidInputError(
                    f"min_similarity is {self.min_similarity!r}; expected a number from 0 to 100."
                )


@dataclass(frozen=True)
class _Details:
    """Path and attributes of images by their ids."""

    paths: dict[int, bytes]
    attributes: dict[int, dict[str, AttributeValue]]

    @classmethod
    def of(cls, rows: IndexView, ids: NDArray[np.int64]) -> _Details:
        labels = ids.tolist()
        columns = {
            name: values_of(column)
            for name, column in rows.attributes_of(ids).items()
            # It tells a moved file from a new one, and says nothing of an image.
            if name != HASH
        }
        values = zip(*columns.values(), strict=True) if columns else ((),) * len(labels)
        return cls(
            dict(zip(labels, rows.paths_of(ids), strict=True)),
            {
                label: dict(zip(columns, row, strict=True))
                for label, row in zip(labels, values, strict=True)
            },
        )


@dataclass(frozen=True)
class _Hits:
    """What `IndexReader.search_similar` returns for some queries, or some columns of it."""

    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    S: NDArray[np.float64]

    def columns(self, start: int, stop: int) -> _Hits:
        return _Hits(self.D[:, start:stop], self.I[:, start:stop], self.S[:, start:stop])

    def ids(self, queries: list[int]) -> NDArray[np.int64]:
        """The distinct ids that some queries have found."""
        ids = np.unique(self.I[queries])
        return ids[ids >= 0]

    def of_query(self, query: int) -> Iterable[tuple[float, int, float]]:
        """Distance, id and similarity of each hit of a query."""
        return zip(
            self.D[query].tolist(), self.I[query].tolist(), self.S[query].tolist(), strict=True
        )


@dataclass(frozen=True)
class Search:
    """A search in one snapshot.

    Attributes
    ----------
    rows : IndexView
        The index at one moment.
    wanted : Wanted
        Which images are results.
    where : Where, optional
        A condition that results fulfil.
    threads : int, optional
        Number of threads of the scan.
    """

    rows: IndexView
    wanted: Wanted
    where: Where | None = None
    threads: int | None = None

    def results(
        self, queries: NDArray[np.float32], excluded: Sequence[Excluded | None]
    ) -> list[list[Result]]:
        """The results of each query.

        Parameters
        ----------
        queries : ndarray, shape (n, d), float32
            Features of the queries.
        excluded : sequence of n callables
            Which images are no results of each query; None where all may be.

        Raises
        ------
        InvalidInputError
            If a smallest similarity is asked for, and the index cannot tell similarities.
        """
        least = self.wanted.min_similarity
        if least is not None and self.rows.calibration is None:
            raise InvalidInputError(
                f"min_similarity is {least!r}, but the index has {self.rows.ntotal:,} images, too "
                "few or too equal for a similarity; expected at least 20 different ones; leave it "
                "out."
            )
        refine = self.wanted.refine
        if refine == "auto" and not self.rows.can_refine:
            refine = None
        found: list[list[Result]] = [[] for _ in queries]
        # As a rule one image is left out, the query itself.
        seen, width = 0, max(1, min(self.wanted.k + any(excluded), self.rows.ntotal))
        waiting = list(range(len(queries)))
        while waiting:
            short: list[int] = []
            for batch in _batches(waiting, width):
                hits = self.rows.search_similar(
                    queries[batch],
                    width,
                    where=self.where,
                    refine=refine,
                    nprobe=self.wanted.nprobe,
                    recall=self.wanted.recall,
                    threads=self.threads,
                )
                short += self._take(batch, _Hits(*hits), seen, found, excluded)
            # Some were left out, and there may be more.
            waiting, seen, width = short, width, min(4 * width, self.rows.ntotal)
        return found

    def _take(
        self,
        batch: list[int],
        hits: _Hits,
        seen: int,
        found: list[list[Result]],
        excluded: Sequence[Excluded | None],
    ) -> list[int]:
        """Add what a search found from column ``seen`` on; which queries may have more results."""
        open_rows = list(range(len(batch)))
        step, width = max(1, _MAX_HITS // len(batch)), hits.I.shape[1]
        for start in range(seen, width, step):
            some = hits.columns(start, start + step)
            details = _Details.of(self.rows, some.ids(open_rows))
            open_rows = [
                row
                for row in open_rows
                if self._add(found[batch[row]], some.of_query(row), details, excluded[batch[row]])
            ]
            if not open_rows:
                break
        return [batch[row] for row in open_rows if width < self.rows.ntotal]

    def _add(
        self,
        results: list[Result],
        hits: Iterable[tuple[float, int, float]],
        details: _Details,
        is_excluded: Excluded | None,
    ) -> bool:
        """Add hits to the results of a query; whether later hits may be results, too."""
        wanted = self.wanted
        for distance, id, similarity in hits:
            if id < 0 or (wanted.min_similarity or 0) > similarity:
                return False
            if wanted.max_distance is not None and distance > wanted.max_distance:
                if similarity < EXACT:
                    return False
                continue  # copies come first, also before what is a little nearer
            path = details.paths[id]
            if is_excluded is not None and is_excluded(id, path):
                continue
            # A name that is no absolute path is that of an image without a file. An object would
            # take a request, which a search never sends.
            if wanted.existing and os.path.isabs(path) and not file_exists(path):
                continue
            rank = len(results) + 1
            results.append(
                Result(
                    rank,
                    distance,
                    None if math.isnan(similarity) else similarity,
                    id,
                    os.fsdecode(path),
                    details.attributes[id],
                )
            )
            if rank == wanted.k:
                return False
        return True


def _batches(rows: list[int], width: int) -> list[list[int]]:
    size = max(1, _MAX_HITS // width)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class Part(NamedTuple):
    """An image of a query: its path, which may be empty, and its id if it is one of the index."""

    path: bytes
    id: int | None = None


class SameFile:
    """Whether paths of an index name the file of a query, whatever links lead to it.

    Two paths name one file if they are equal without links, or if both exist and have the same
    device and inode, as those of a hard link and of a folder that is mounted twice have.
    """

    def __init__(self) -> None:
        self._identities: dict[bytes, tuple[int, int] | None] = {}

    def names_any(self, parts: Sequence[Part]) -> Excluded:
        """A function that says whether an image is one of several of which a query consists."""
        each = [self.names(part.path, part.id) for part in parts]
        return each[0] if len(each) == 1 else lambda id, path: any(is_(id, path) for is_ in each)

    def names(self, query: bytes, query_id: int | None = None) -> Excluded:
        """A function that says whether an image is the file ``query``, if that is not empty.

        The image of the index that the query is has ``query_id``.
        """
        if not query:
            return lambda id, path: id == query_id
        own, identity = {absolute(query), os.path.realpath(query)}, self._identity(query)
        return lambda id, path: (
            id == query_id
            or path in own
            or (identity is not None and self._identity(path) == identity)
        )

    def _identity(self, path: bytes) -> tuple[int, int] | None:
        if path not in self._identities:
            try:
                status = os.stat(path)
                self._identities[path] = (status.st_dev, status.st_ino)
            except OSError:
                self._identities[path] = None
        return self._identities[path]
