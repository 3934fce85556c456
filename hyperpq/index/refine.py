"""`Refinement`: the best codes of a search are ranked again by the features that the index keeps.

`docs/method/refine.md` has the reasons and what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codec.feature_products import Pairs
from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.index.calibration import Sampled
from hyperpq.utils.devices import default_threads
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_space import FeatureSpace
    from hyperpq.index.view import RowView

Refine = int | Literal["auto"] | None
"""How many of the best codes are ranked again: ``"auto"`` for `AUTO`, None or 0 for none."""

AUTO = 200
"""Candidates of a query unless a number is given."""

# Pairs of a query and a candidate that are in memory at once.
_PAIRS = 1 << 15
_LARGEST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float64).min)


@dataclass(frozen=True, eq=False)
class Refinement:
    """Ranks the best codes of each query again, by the kept features of these rows alone.

    The refined distance of a row is that of its code plus ``factor`` times the squared chord of its
    features to the query, see `FeatureSpace`. For plain codebooks it is the exact distance, as in
    ``faiss.IndexRefineFlat``. Rows after the candidates keep the order of their codes. Their
    distance is that of their code plus the largest difference that refinement made to a candidate
    of the query. So the results for a k are the first of those for any larger one.

    Attributes
    ----------
    rows : RowView
        The rows.
    space : FeatureSpace
        How their features are compared.
    factor : float or None
        Weight of the distance of features; None where it replaces the distance of the code.
    count : int
        Number of candidates.
    """

    rows: RowView
    space: FeatureSpace
    factor: float | None
    count: int

    @classmethod
    def of(cls, rows: RowView, codec: Codec, refine: Refine) -> Refinement | None:
        """What ``refine`` of a search asks for; None if that is nothing.

        Raises
        ------
        InvalidInputError
            If it is no number of candidates, or the rows keep no features.
        """
        count = as_refine(refine)
        if not count:
            return None
        if rows.feature_codec is None:
            raise InvalidInputError(
                f"refine is {refine!r}, but the index keeps no features to rank by; expected an "
                "index that does; make it with HiHPQIndex(d, features='int8') or hyperpq build, or "
                "leave refine out."
            )
        space = codec.feature_space()
        return cls(rows, space, Sampled.of(rows, codec).factor, count)

    def search(
        self,
        queries: NDArray[np.float32],
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        width: int,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`scan.search_segments` with ``width`` results, of which the first are ranked again.

        Parameters
        ----------
        queries : ndarray, shape (nq, d), float32
            Queries.
        tables : ndarray, shape (nq, M, K), float32
            Their tables.
        segments : sequence of CodeSegment
            The rows that are searched.
        width : int
            Number of results.
        threads : int, optional
            Number of threads of the scan, one for each core by default.

        Returns
        -------
        D, I : ndarray, shape (nq, width)
            Refined distances and ids.
        """
        n = sum(segment.codes.n for segment in segments)
        found = scan.search_segments(
            tables, segments, max(width, min(self.count, n)), threads=threads
        )
        D, I = self.ranked(queries, *found, threads)  # noqa: E741
        return D[:, :width], I[:, :width]

    def ranked(
        self,
        queries: NDArray[np.float32],
        D: NDArray[np.float32],
        I: NDArray[np.int64],  # noqa: E741
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rank the first results of queries (nq, d) again.

        Parameters
        ----------
        queries : ndarray, shape (nq, d), float32
            Queries.
        D, I : ndarray, shape (nq, width)
            All their results, or at least as many as there are candidates, by (D, I).
        threads : int, optional
            Number of threads, one for each core by default.

        Returns
        -------
        D, I : ndarray, shape (nq, width)
        """
        refined, order = D.copy(), I.copy()
        first = slice(0, min(self.count, D.shape[1]))
        step = max(1, _PAIRS // max(first.stop, 1))
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            ids, behind = I[some, first], D[some, first.stop :]
            is_row = ids >= 0
            near = np.where(is_row, D[some, first], 0)
            wide = self._distances(queries[some], near, ids, threads)
            shift = (wide - near).max(1, where=is_row, initial=_LEAST, keepdims=True)
            rounded = np.where(is_row, _as_float32(wide), np.inf)
            by_distance = np.lexsort((ids, rounded))
            refined[some, first] = np.take_along_axis(rounded, by_distance, 1)
            order[some, first] = np.take_along_axis(ids, by_distance, 1)
            if behind.shape[1]:
                # By as much as the shift was rounded, they could lie before the last candidate.
                moved = np.maximum(_as_float32(behind + shift), refined[some, first][:, -1:])
                refined[some, first.stop :] = np.where(np.isfinite(behind), moved, np.inf)
        return refined, order

    def distances(
        self, query: NDArray[np.float32], D: NDArray[np.float32], ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Refined distances (n,) of rows with some ids, whose codes are at the distances D (n,)."""
        return _as_float32(self._distances(query[None], D[None], ids[None], None)[0])

    def to_self(
        self, queries: NDArray[np.float32], d_self: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Refined distance (nq,) of each query to itself, whose code is at the distance d_self."""
        if self.factor is not None:
            return d_self.astype(np.float64)
        return np.concatenate([self.space.distances(x, x[None]) for x in queries])

    def _distances(
        self,
        queries: NDArray[np.float32],
        D: NDArray[np.float32],
        ids: NDArray[np.int64],
        threads: int | None,
    ) -> NDArray[np.float64]:
        """Refined distances (nq, n) of rows at the distances D (nq, n); of any value without id."""
        asked = np.flatnonzero(ids.ravel() >= 0)
        # Rows are read in the order in which they are stored, one of several queries once.
        labels = ids.ravel()[asked]
        order = np.argsort(labels)
        asked, labels = asked[order], labels[order]
        which = asked // max(ids.shape[1], 1)
        out = np.zeros(ids.size)
        found = self.rows.features_at(labels)
        several = [Pairs(features, rows, which[at]) for features, rows, at in found]
        positions = np.concatenate([np.empty(0, np.int64), *(asked[at] for *_, at in found)])
        out[positions] = self.space.between(
            self.space.probes(queries),
            several,
            self.rows.kept_by(),
            default_threads() if threads is None else threads,
        )
        between = out.reshape(ids.shape)
        return between if self.factor is None else D + self.factor * between


def as_refine(refine: object) -> int:
    """Number of candidates that ``refine`` of a search stands for; 0 for no refinement.

    Raises
    ------
    InvalidInputError
        If it stands for none.
    """
    if refine is None:
        return 0
    if isinstance(refine, str):
        if refine != "auto":
            raise InvalidInputError(
                f"refine is {refine!r}; expected 'auto', or how many of the best codes are ranked "
                "again, such as 200."
            )
        return AUTO
    return as_count(refine, "refine", 0)


def _as_float32(D: NDArray[np.float64]) -> NDArray[np.float32]:
    """Distances rounded as the scan does it: those of rows are finite."""
    return D.clip(-_LARGEST, _LARGEST).astype(np.float32)
