"""What is searched for: images, images of the index itself, and features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images.extract import Features
from hyperpq.images.nearest import Excluded, Part, SameFile
from hyperpq.images.results import Answer, Answers, QueryPart, Result
from hyperpq.images.sources import Combination, ImageLike, Source, as_sources, path_of
from hyperpq.utils.shown_names import quoted
from hyperpq.utils.validation import as_array, as_queries, as_weights

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

QueryLike: TypeAlias = ImageLike | Combination
"""An image, or several that are one query."""
LikeIds: TypeAlias = int | Sequence[int] | NDArray[np.int64] | Combination
"""An id of the index, or several: each a query, or all of them one."""
Read = Callable[[list[Source]], Features]
"""Decodes and encodes images."""


@dataclass(frozen=True)
class _Group:
    """The positions of the images of a query, and their weights if there are several."""

    members: tuple[int, ...]
    weights: NDArray[np.float64] | None = None


def _groups(
    images: QueryLike | Iterable[QueryLike],
) -> tuple[list[_Group], list[Source]]:
    """Queries, and the images that they consist of; one that several share is read once."""
    if not isinstance(images, Combination) and not (
        isinstance(images, (list, tuple)) and any(isinstance(i, Combination) for i in images)
    ):
        sources = as_sources(images)
        return [_Group((position,)) for position in range(len(sources))], sources
    queries: Sequence[QueryLike] = [images] if isinstance(images, Combination) else list(images)
    known: dict[object, int] = {}
    groups, sources = [], []
    for query in queries:
        several = query if isinstance(query, Combination) else None
        members = as_sources([query] if several is None else list(several.members))
        positions = []
        for source in members:
            key = source if isinstance(source, bytes) else id(source)
            if key not in known:
                known[key] = len(sources)
                sources.append(source)
            positions.append(known[key])
        weights = None if several is None else as_weights(several.weights, len(members))
        groups.append(_Group(tuple(positions), weights))
    return groups, sources


@dataclass(frozen=True)
class Queries:
    """Queries, and the features of those that have some.

    Attributes
    ----------
    paths : list of bytes
        Path of each query; empty for one that does not come from a file.
    rows : ndarray, shape (n,), int64
        Positions of the queries that have features.
    features : ndarray, shape (n, d), float32
        Their features.
    errors : dict of int to str
        Position of each other query, and why it has none.
    parts : list of list of Part
        The images that each query consists of; more than one in a `Combination`.
    weights : dict of int to list of float
        Position of each query that is a `Combination`, and the weights of its images.
    """

    paths: list[bytes]
    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    errors: dict[int, str] = field(default_factory=dict)
    parts: list[list[Part]] = field(default_factory=list)
    weights: dict[int, list[float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        index: IndexView,
        read: Read,
        *,
        images: QueryLike | Iterable[QueryLike] | None,
        like: LikeIds | None,
        vectors: ArrayLike | None,
    ) -> Queries:
        """The queries that `ImageIndex.query` is given, of exactly one kind.

        Raises
        ------
        InvalidInputError
            If there is none or more than one kind, or something is not what it should be.
        """
        given = {"images": images, "like": like, "vectors": vectors}
        kinds = [name for name, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise InvalidInputError(
                f"{' and '.join(kinds) or 'nothing'} given to search for; expected one of images, "
                "like (ids of the index) and vectors."
            )
        if images is not None:
            groups, sources = _groups(images)
            found = read(sources)
            names = [path_of(source) for source in sources]
            return cls._of_members(
                index, groups, names, found.rows, found.plain, dict(found.skipped)
            )
        if like is not None:
            return cls._of_ids(index, read, like)
        x = as_queries([] if vectors is None else vectors, index.d, "vectors")
        return cls([b""] * len(x), np.arange(len(x)), x)

    @classmethod
    def _of_ids(cls, index: IndexView, read: Read, like: LikeIds) -> Queries:
        """Images of the index: by their kept features, or else by their files."""
        given = as_array(like.members if isinstance(like, Combination) else like, "like")
        if given.ndim > 1 or (given.size and given.dtype.kind not in "iu"):
            raise InvalidInputError(
                f"like is {like!r}; expected the id of an image of the index, or a sequence of ids."
            )
        ids = dict(enumerate(given.reshape(-1).tolist()))
        known = [row for row, id in ids.items() if id in index]
        labels = np.array([ids[row] for row in known], np.int64)
        names = [b""] * len(ids)
        for row, path in zip(known, index.paths_of(labels), strict=True):
            names[row] = path
        errors = {
            row: f"the index has no image with the id {ids[row]}" for row in ids.keys() - set(known)
        }
        rows = np.array(known, np.int64)
        if index.has_features:
            features = index.features_of(labels)
        else:
            found = read([names[row] for row in known])
            errors |= {known[row]: reason for row, reason in found.skipped}
            rows, features = rows[found.rows], found.plain
        groups = (
            [_Group(tuple(ids), as_weights(like.weights, len(ids)))]
            if isinstance(like, Combination)
            else [_Group((row,)) for row in ids]
        )
        return cls._of_members(index, groups, names, rows, features, errors, ids)

    @classmethod
    def _of_members(
        cls,
        index: IndexView,
        groups: Sequence[_Group],
        names: Sequence[bytes],
        rows: NDArray[np.int64],
        features: NDArray[np.float32],
        failed: Mapping[int, str],
        ids: Mapping[int, int] | None = None,
    ) -> Queries:
        """Queries that consist of images, of which those at ``rows`` have features."""
        ids = ids or {}
        at = {row: number for number, row in enumerate(rows.tolist())}
        asked: dict[int, NDArray[np.float32]] = {}
        errors: dict[int, str] = {}
        for query, group in enumerate(groups):
            bad = next((member for member in group.members if member not in at), None)
            if bad is not None:
                # Which of them it is, unless the query is called by it, or the reason says it.
                other = names[bad] if bad != group.members[0] else b""
                name = f"{quoted(other)}: " if other else ""
                errors[query] = name + failed[bad]
                continue
            own = features[[at[member] for member in group.members]]
            try:
                asked[query] = (
                    own[0] if group.weights is None else index.combine(own, group.weights)
                )
            except InvalidInputError as error:
                errors[query] = str(error).rstrip(".")
        return cls(
            [names[group.members[0]] for group in groups],
            np.array(list(asked), np.int64),
            np.stack(list(asked.values())) if asked else np.empty((0, index.d), np.float32),
            errors,
            [
                [Part(names[member], ids.get(member)) for member in group.members]
                for group in groups
            ],
            {
                query: group.weights.tolist()
                for query, group in enumerate(groups)
                if group.weights is not None
            },
        )

    def excluded(self) -> list[Excluded]:
        """What excludes the images of each query that has features from its results."""
        same = SameFile()
        return [same.names_any(self.parts[row] if self.parts else []) for row in self.rows.tolist()]

    def answers(self, results: Sequence[list[Result]]) -> Answers:
        """The answers to all queries, given the results of those that have features."""
        found = dict(zip(self.rows.tolist(), results, strict=True))
        return Answers(
            Answer(os.fsdecode(path), found.get(row, []), self.errors.get(row), self._named(row))
            for row, path in enumerate(self.paths)
        )

    def _named(self, row: int) -> tuple[QueryPart, ...]:
        """The images of a query that is a `Combination`."""
        return (
            tuple(
                QueryPart(os.fsdecode(part.path), weight, part.id)
                for part, weight in zip(self.parts[row], self.weights[row], strict=True)
            )
            if row in self.weights
            else ()
        )
