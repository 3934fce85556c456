"""What is searched for: images, images of the index itself, and features."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images.extract import Features
from hyperpq.images.results import Answer, Answers, Result
from hyperpq.images.sources import ImageLike, Source, as_sources, path_of
from hyperpq.utils.validation import as_array, as_queries

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

Read = Callable[[list[Source]], Features]
"""Decodes and encodes images."""


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
    ids : dict of int to int
        Position and id of the queries that are images of the index.
    """

    paths: list[bytes]
    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    errors: dict[int, str] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        index: IndexView,
        read: Read,
        *,
        images: ImageLike | Iterable[ImageLike] | None,
        like: int | Sequence[int] | NDArray[np.int64] | None,
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
            sources = as_sources(images)
            found = read(sources)
            paths = [path_of(source) for source in sources]
            return cls(paths, found.rows, found.plain, dict(found.skipped))
        if like is not None:
            return cls._of_ids(index, read, like)
        x = as_queries([] if vectors is None else vectors, index.d, "vectors")
        return cls([b""] * len(x), np.arange(len(x)), x)

    @classmethod
    def _of_ids(
        cls, index: IndexView, read: Read, like: int | Sequence[int] | NDArray[np.int64]
    ) -> Queries:
        """Images of the index: by their kept features, or else by their files."""
        given = as_array(like, "like")
        if given.ndim > 1 or (given.size and given.dtype.kind not in "iu"):
            raise InvalidInputError(
                f"like is {like!r}; expected the id of an image of the index, or a sequence of ids."
            )
        ids = dict(enumerate(given.reshape(-1).tolist()))
        known = [row for row, id in ids.items() if id in index]
        labels = np.array([ids[row] for row in known], np.int64)
        paths = [b""] * len(ids)
        for row, path in zip(known, index.paths_of(labels), strict=True):
            paths[row] = path
        errors = {
            row: f"the index has no image with the id {ids[row]}" for row in ids.keys() - set(known)
        }
        if index.has_features:
            return cls(paths, np.array(known, np.int64), index.features_of(labels), errors, ids)
        found = read([paths[row] for row in known])
        errors |= {known[row]: reason for row, reason in found.skipped}
        rows = np.array([known[row] for row in found.rows], np.int64)
        return cls(paths, rows, found.plain, errors, ids)

    def answers(self, results: Sequence[list[Result]]) -> Answers:
        """The answers to all queries, given the results of those that have features."""
        found = dict(zip(self.rows.tolist(), results, strict=True))
        return Answers(
            Answer(os.fsdecode(path), found.get(row, []), self.errors.get(row))
            for row, path in enumerate(self.paths)
        )
