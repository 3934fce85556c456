"""`answer_together`: queries of any kinds in one run of the network, and in as few scans as can be.

A service gets queries one by one, each with its own k and condition. The network and the scan take
several at once in less time than one after the other, and the answers are the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import HyperPQError, UnknownIdError
from hyperpq.filters.where import Where
from hyperpq.images.image_reader import ImageReader
from hyperpq.images.nearest import Excluded, Part, SameFile, Search, Wanted
from hyperpq.images.results import Answer, QueryPart
from hyperpq.images.sources import EncodedImage, Source
from hyperpq.index.reader import IndexView
from hyperpq.utils.shown_names import quoted
from hyperpq.utils.validation import as_queries, as_weights


@dataclass(frozen=True, eq=False)
class Query:
    """One query: images or a vector, and what its results are.

    Attributes
    ----------
    images : tuple of EncodedImage and int
        The contents of image files, and ids of images of the index; several are one query, as a
        `Combination`.
    weights : tuple of float, optional
        A weight for each of them; by default all have the same.
    vector : ndarray, shape (d,), optional
        Features, in place of images.
    wanted : Wanted
        Number of results, and which images are results.
    where : Where, optional
        A condition that results fulfil.
    exclude_self : bool
        Whether images with these ids are no results. What is uploaded has a name, and no file.
    """

    images: tuple[EncodedImage | int, ...] = ()
    weights: tuple[float, ...] | None = None
    vector: NDArray[np.float32] | None = None
    wanted: Wanted = field(default_factory=Wanted)
    where: Where | None = None
    exclude_self: bool = False


Outcome: TypeAlias = Answer | HyperPQError
"""The answer to a query, or why there is none."""


def answer_together(
    reader: ImageReader,
    queries: Sequence[Query],
    threads: int | None = None,
    *,
    rows: IndexView | None = None,
) -> list[Outcome]:
    """Answer several queries, each as `ImageReader.query` would answer it alone.

    Parameters
    ----------
    reader : ImageReader
        The index; all answers are of one snapshot.
    queries : sequence of Query
        The queries. Those with the same condition and limits share a scan, also where their numbers
        of results differ by less than ten times.
    threads : int, optional
        Number of threads of the scan.
    rows : IndexView, optional
        The snapshot; by default the index as it is now.

    Returns
    -------
    list of Answer or HyperPQError
        For each query its answer, whose ``error`` says why an image cannot be read, or the error
        that this query alone would raise.
    """
    rows = reader.index.view() if rows is None else rows
    features = _Features.of(reader, rows, queries)
    out: list[Outcome] = [
        features.failed.get(number, Answer(features.path(number))) for number in range(len(queries))
    ]
    for numbers in _shared(queries, features):
        shared = queries[numbers[0]]
        wanted = replace(shared.wanted, k=max(queries[n].wanted.k for n in numbers))
        search = Search(rows, wanted, shared.where, threads)
        try:
            found = search.results(
                np.stack([features.vectors[n] for n in numbers]),
                [features.excluded(n, queries[n]) for n in numbers],
            )
        except HyperPQError as error:
            for number in numbers:
                out[number] = error
            continue
        for number, results in zip(numbers, found, strict=True):
            query = queries[number]
            parts = features.parts(number, query)
            out[number] = Answer(features.path(number), results[: query.wanted.k], parts=parts)
    return out


@dataclass(frozen=True)
class _Features:
    """What is searched for: features, paths of images and errors by the numbers of the queries."""

    vectors: dict[int, NDArray[np.float32]]
    members: dict[int, list[bytes]]
    failed: dict[int, Outcome]

    @classmethod
    def of(cls, reader: ImageReader, rows: IndexView, queries: Sequence[Query]) -> _Features:
        found = cls({}, {}, {})
        # Features of each image of each query, and what is to be read for those that have none.
        own: dict[int, dict[int, NDArray[np.float32]]] = {}
        to_read: dict[tuple[int, int], Source] = {}
        for number, query in enumerate(queries):
            try:
                if query.vector is not None:
                    found.vectors[number] = as_queries(query.vector, rows.d, "vector")[0]
                    continue
                paths, own[number] = found.members.setdefault(number, []), {}
                for place, image in enumerate(query.images):
                    if isinstance(image, EncodedImage):
                        paths.append(image.name)
                        to_read[number, place] = image
                        continue
                    paths += _paths_of(rows, image)
                    if rows.has_features:
                        own[number][place] = rows.features_of([image])[0]
                    else:
                        to_read[number, place] = paths[-1]
            except HyperPQError as error:
                found.failed[number] = error
        to_read = {place: to_read[place] for place in to_read if place[0] not in found.failed}
        if to_read:
            found._read(reader, rows, to_read, own)
        for number in own.keys() - found.failed.keys():
            try:
                found.vectors[number] = _combined(rows, queries[number], own[number])
            except HyperPQError as error:
                found.failed[number] = error
        return found

    def _read(
        self,
        reader: ImageReader,
        rows: IndexView,
        sources: dict[tuple[int, int], Source],
        own: dict[int, dict[int, NDArray[np.float32]]],
    ) -> None:
        places = list(sources)
        read = reader._features(list(sources.values()), rows, "query", 0, None)
        for row, vector in zip(read.rows.tolist(), read.plain, strict=True):
            number, place = places[row]
            own[number][place] = vector
        for row, reason in read.skipped:
            number, place = places[row]
            names = self.members[number]
            # Which of several it is.
            which = f"{quoted(names[place])}: " if names[place] and len(names) > 1 else ""
            self.failed.setdefault(number, Answer(self.path(number), error=which + reason))

    def path(self, number: int) -> str:
        """Path of the first image of a query; empty if it has none."""
        return os.fsdecode(next(iter(self.members.get(number, ())), b""))

    def parts(self, number: int, query: Query) -> tuple[QueryPart, ...]:
        """The images of a query that has several, or weights."""
        if len(query.images) < 2 and query.weights is None:
            return ()
        weights = query.weights or (1.0,) * len(query.images)
        return tuple(
            QueryPart(os.fsdecode(path), weight, image if isinstance(image, int) else None)
            for path, image, weight in zip(self.members[number], query.images, weights, strict=True)
        )

    def excluded(self, number: int, query: Query) -> Excluded | None:
        parts = [
            Part(path, image)
            for path, image in zip(self.members.get(number, ()), query.images, strict=True)
            if isinstance(image, int)
        ]
        return SameFile().names_any(parts) if query.exclude_self and parts else None


def _paths_of(rows: IndexView, id: int) -> list[bytes]:
    try:
        return rows.paths_of([id])
    except UnknownIdError:
        raise UnknownIdError(
            f"the index has no image with the id {id}; expected the id of a result."
        ) from None


def _combined(
    rows: IndexView, query: Query, own: dict[int, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The vector that a query searches for, given those of its images."""
    weights = as_weights(query.weights, len(query.images))
    if len(own) == 1:
        return own[0]
    return rows.combine(np.stack([own[place] for place in range(len(own))]), weights)


def _shared(queries: Sequence[Query], features: _Features) -> list[list[int]]:
    """The numbers of the queries that have features, in groups that share a scan."""
    groups: dict[object, list[int]] = {}
    for number in features.vectors:
        query = queries[number]
        # One query for many results would read as many paths for each of the others.
        k = 10 ** len(str(query.wanted.k - 1))
        key = replace(query.wanted, k=k), None if query.where is None else query.where.text
        groups.setdefault(key, []).append(number)
    return list(groups.values())
