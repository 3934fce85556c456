"""`ServedIndex`: the index that a server shows, opened again when another takes its place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import HyperPQError, InvalidInputError, StoreError, UnknownIdError
from hyperpq.filters.where import Where
from hyperpq.images.image_reader import ImageReader
from hyperpq.images.metadata import ImageMetadata
from hyperpq.images.nearest import Wanted
from hyperpq.images.results import Answer
from hyperpq.images.sources import EncodedImage
from hyperpq.images.together import Query, answer_together
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.index.reader import IndexView
from hyperpq.index.recall import as_recall
from hyperpq.index.refine import Refine
from hyperpq.scan.scanner import Scanner
from hyperpq.utils.validation import as_queries, as_weights

# Any recall below 1 lets a search read or measure what all of them need.
_WARM_RECALL = 0.95


@dataclass(frozen=True, eq=False)
class Request:
    """One search, as a client asks for it.

    Attributes
    ----------
    images : tuple of EncodedImage and int
        The contents of image files, by the names that the client calls them, and ids of rows;
        several are one query.
    weights : tuple of float, optional
        A weight for each of them; by default all have the same.
    vector : ndarray, shape (d,), optional
        Features, or a vector like those of the index, in place of images.
    k : int
        Number of results.
    where : str, optional
        A condition that results fulfil.
    max_distance, min_similarity, existing
        See `ImageReader.query`.
    exclude_self : bool
        Whether rows with these ids are no results.
    refine : bool, optional
        Whether the best codes are ranked again; by default those of images are, if they can be.
    nprobe : int, optional
        Number of cells that are searched.
    recall : float, optional
        The share of the exact results that is to be found, in place of ``nprobe``.
    """

    images: tuple[EncodedImage | int, ...] = ()
    weights: tuple[float, ...] | None = None
    vector: NDArray[np.float32] | None = None
    k: int = 10
    where: str | None = None
    max_distance: float | None = None
    min_similarity: float | None = None
    existing: bool = False
    exclude_self: bool = False
    refine: bool | None = None
    nprobe: int | None = None
    recall: float | None = None

    def at(self, recall: float | None) -> Request:
        """The same with a recall, unless it says itself how much is searched."""
        asks = recall is None or self.nprobe is not None or self.recall is not None
        return self if asks else replace(self, recall=recall)


Reply: TypeAlias = bytes | HyperPQError
"""The JSON of an answer, or why there is none."""


class ServedImages:
    """Searches in an index of images.

    Parameters
    ----------
    reader : ImageReader
        The index.
    recall : float, optional
        The recall of searches that ask for none, while the index has cells.
    """

    kind = "images"

    def __init__(self, reader: ImageReader, recall: float | None = None) -> None:
        self.reader, self.index, self.recall = reader, reader.index, recall

    def load(self) -> None:
        """Load the network and what is known of cells, which a query would wait for otherwise."""
        _ = self.reader.backbone
        _warm(self.index)

    def answers(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer several searches with one run of the network."""
        view = self.index.view()
        recall = self.recall if view.nlist else None
        out: list[Reply | None] = [None] * len(requests)
        queries: dict[int, Query] = {}
        for number, request in enumerate(requests):
            try:
                queries[number] = _query(request.at(recall))
            except HyperPQError as error:
                out[number] = error
        found = answer_together(self.reader, list(queries.values()), rows=view)
        for number, outcome in zip(queries, found, strict=True):
            out[number] = outcome if isinstance(outcome, HyperPQError) else _reply(outcome)
        return [reply for reply in out if reply is not None]


def _query(request: Request) -> Query:
    refine: Refine = 0 if request.refine is False else "auto"
    wanted = Wanted(
        request.k,
        request.max_distance,
        request.min_similarity,
        request.existing,
        refine,
        request.nprobe,
        request.recall,
    )
    where = None if request.where is None else Where(request.where)
    return Query(
        request.images, request.weights, request.vector, wanted, where, request.exclude_self
    )


def _reply(answer: Answer) -> Reply:
    if answer.error is not None:
        return InvalidInputError(f"the image cannot be used: {answer.error}.")
    said = answer.to_dict()
    return json.dumps({name: value for name, value in said.items() if name != "error"}).encode()


class ServedVectors:
    """Searches in an index of vectors.

    Parameters
    ----------
    index : HiHPQIndex
        The index.
    recall : float, optional
        The recall of searches that ask for none, while the index has cells.
    """

    kind = "vectors"

    def __init__(self, index: HiHPQIndex, recall: float | None = None) -> None:
        self.index, self.recall = index, recall

    def load(self) -> None:
        """Make the tables of the codec, which the first query would wait for otherwise."""
        _warm(self.index)

    def answers(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer several searches; those with the same condition and cells share a scan."""
        view = self.index.view()
        recall = self.recall if view.nlist else None
        requests = [request.at(recall) for request in requests]
        out: list[Reply | None] = [None] * len(requests)
        groups: dict[object, dict[int, NDArray[np.float32]]] = {}
        for number, request in enumerate(requests):
            try:
                vector = _vector(view, request)
            except HyperPQError as error:
                out[number] = error
                continue
            # As for images: one query for many results is not to make the others dear.
            how = request.where, request.refine, request.nprobe, request.recall
            key = len(str(request.k - 1)), *how
            groups.setdefault(key, {})[number] = vector
        for group in groups.values():
            shared = requests[next(iter(group))]
            # The query itself may be among the results, and is left out below.
            k = max(requests[n].k + len(_excluded(requests[n])) for n in group)
            try:
                D, I = view.search(  # noqa: E741
                    np.stack(list(group.values())),
                    k,
                    where=shared.where,
                    refine="auto" if shared.refine else None,
                    nprobe=shared.nprobe,
                    recall=shared.recall,
                )
            except HyperPQError as error:
                for number in group:
                    out[number] = error
                continue
            for row, number in enumerate(group):
                out[number] = _found(requests[number], D[row].tolist(), I[row].tolist())
        return [reply for reply in out if reply is not None]


def _vector(view: IndexView, request: Request) -> NDArray[np.float32]:
    for name in ("max_distance", "min_similarity"):
        if getattr(request, name) is not None:
            raise InvalidInputError(
                f"{name} is for an index of images, and this one has vectors; leave it out."
            )
    if request.vector is not None:
        return as_queries(request.vector, view.d, "vector")[0]
    ids = [image for image in request.images if isinstance(image, int)]
    if len(ids) < len(request.images):
        raise InvalidInputError(
            f"the index has vectors of {view.d} numbers; expected a vector or ids, and no image."
        )
    for id in ids:
        if id not in view:
            raise UnknownIdError(
                f"the index has no vector with the id {id}; expected the id of a result."
            )
    weights = as_weights(request.weights, len(ids))
    found = view.features_of(ids)
    return found[0] if len(ids) == 1 else view.combine(found, weights)


def _excluded(request: Request) -> set[int]:
    """The ids that are no results."""
    if not request.exclude_self:
        return set()
    return {image for image in request.images if isinstance(image, int)}


def _found(request: Request, distances: list[float], ids: list[int]) -> bytes:
    own = _excluded(request)
    hits = [(d, id) for d, id in zip(distances, ids, strict=True) if id >= 0 and id not in own]
    results = [
        {"rank": rank, "distance": distance, "id": id}
        for rank, (distance, id) in enumerate(hits[: request.k], 1)
    ]
    said: dict[str, object] = {"query": next(iter(request.images), None)}
    if request.weights is not None:
        said["parts"] = [
            {"id": id, "weight": weight}
            for id, weight in zip(request.images, request.weights, strict=True)
        ]
    return json.dumps({**said, "results": results}).encode()


def _warm(index: HiHPQIndex) -> None:
    """Search once, so that the codec, the cells and their recall are in memory."""
    view = index.view()
    if view.ntotal:
        query = np.zeros((1, view.d), np.float32)
        view.search(query, 1)
        if view.nlist:
            view.search(query, 1, recall=_WARM_RECALL)


Served: TypeAlias = ServedImages | ServedVectors


class ServedIndex:
    """The index in a directory as it is now.

    A search uses what `current` is when it begins, also if another index takes its place meanwhile.

    Parameters
    ----------
    path : path-like
        The directory.
    device : str
        Device of the network and of the codec.
    backbone : str, optional
        The network, if the index cannot name it itself.
    max_megapixels : float, optional
        Larger images are not decoded.
    scanner : Scanner, optional
        What scans the codes, such as a cluster; by default the device. Searches of some cells are
        scanned by this process anyway.
    recall : float, optional
        The share of the exact results that searches find that ask for none, see
        `HiHPQIndex.search`; by default they are exact. They are exact, too, if an index without
        cells takes the place of this one.

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
    InvalidInputError
        If a recall is given that is not possible, or the index has no cells.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        backbone: str | None = None,
        max_megapixels: float = float("inf"),
        scanner: Scanner | None = None,
        recall: float | None = None,
    ) -> None:
        self.path, self._scanner, self._recall = Path(path), scanner, as_recall(recall)
        self._device, self._backbone, self._limit = device, backbone, max_megapixels
        self.current = self._open()
        if recall is not None and not self.current.index.nlist:
            raise InvalidInputError(
                f"recall is {recall}, but {self.path} has no cells; make them with `hyperpq "
                "compact --cells auto`, or leave the recall out."
            )

    @property
    def kind(self) -> str:
        """``images`` or ``vectors``; an index of the other kind never takes its place."""
        return self.current.kind

    def reload(self) -> bool:
        """Show what has been stored since; whether there was anything.

        Raises
        ------
        HyperPQError
            If what is there now cannot be used. What was shown before is still shown.
        """
        try:
            is_new = self.current.index.refresh()
        except StoreError:
            # Another index may have taken its place.
            opened = self._open()
        else:
            if is_new:
                # Fine-tuning may have changed the network.
                self.current.load()
            return is_new
        if opened.kind != self.kind:
            raise InvalidInputError(
                f"{self.path} is an index of {opened.kind} now, and the server was started with "
                f"one of {self.kind}; start it again."
            )
        opened.load()
        self.current = opened
        return True

    def _open(self) -> Served:
        index = HiHPQIndex.load(self.path, device=self._device, read_only=True)
        if self._scanner is not None:
            index.scanner = self._scanner
        if ImageMetadata.from_index(index.metadata) is None:
            return ServedVectors(index, self._recall)
        reader = ImageReader(index)
        if self._backbone is not None:
            reader = ImageReader.open(
                self.path, device=self._device, backbone=self._backbone, read_only=True
            )
        if self._scanner is not None:
            reader.index.scanner = self._scanner
        reader.max_megapixels = min(reader.max_megapixels, self._limit)
        return ServedImages(reader, self._recall)
