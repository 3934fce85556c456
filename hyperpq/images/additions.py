"""`ImageIndex.add`: images that are given one by one, with or without files."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.file_source import file_status, for_each
from hyperpq.datasets.listing import ImageFile
from hyperpq.errors import InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images.changes import entries, state_of
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.extract import Features, ReadOptions, stream_groups
from hyperpq.images.relearning import warn_of_growth
from hyperpq.images.sources import EncodedImage, ImageLike, Source, as_sources
from hyperpq.images.updater import SEGMENT_SIZE, Updater, has_hashes
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store.columns import TIME
from hyperpq.utils.locations import absolute, is_absolute

if TYPE_CHECKING:
    from PIL import Image

    from hyperpq.backbones.base import Backbone
    from hyperpq.images.image_index import ImageIndex

# Names that are looked up one by one, which takes 20 ms each in 10 million rows; more of them are
# found in a pass over all rows, which takes 10 s.
_FEW = 64


@dataclass(frozen=True)
class Added:
    """What `ImageIndex.add` has added.

    Attributes
    ----------
    ids : ndarray, shape (n,), int64
        Id of each of the n images that were given; -1 for those that could not be read.
    skipped : dict of int to str
        Which images could not be read, counted from 0, and why.
    """

    ids: NDArray[np.int64]
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """Images that are added in one transaction, with their names."""

    start: int
    sources: list[Source]
    names: list[bytes]


@dataclass(frozen=True)
class _Batch:
    """A part, of which some rows are read, and what the files of all rows were before."""

    part: _Part
    rows: list[int]
    files: dict[int, ImageFile]


class Additions:
    """Images on their way into an index.

    Parameters
    ----------
    images : ImageIndex
        The index.
    given : image, or iterable of images
        The images, see `ImageIndex.add`; those of an iterator are asked for in parts.
    names : str or iterable of str, optional
        Their names, see `ImageIndex.add`.

    Raises
    ------
    InvalidInputError
        If an image has no name, or that of another one. For an iterator `add` raises it.
    """

    def __init__(
        self,
        images: ImageIndex,
        given: ImageLike | Iterable[ImageLike | Iterable[ImageLike]],
        names: str | Iterable[str | None] | None,
    ) -> None:
        self._images, self._index = images, images.index
        self._total: int | None = None
        self._parts: Iterator[_Part]
        # An open file is one image, although it is an iterator of lines.
        if isinstance(given, Iterator) and not hasattr(given, "read"):
            self._parts = _streamed(given, names)
            return
        sources = as_sources(given)
        whole = _Part(0, sources, _as_names(sources, names))
        self._total = len(sources)
        self._parts = (_slice(whole, start) for start in range(0, self._total, SEGMENT_SIZE))

    def add(self, workers: WorkersLike = 0, progress: ProgressLike = None) -> Added:
        """Read, encode and add the images."""
        self._index.collection.check_writable()
        before = len(self._images)
        options = ReadOptions(workers, self._images.max_megapixels, hashes=has_hashes(self._images))
        ids, skipped = [np.empty(0, np.int64)], dict[int, str]()
        with as_progress(progress).phase("encode", self._total) as phase:
            network = self._images.backbone
            waiting: deque[_Batch] = deque()

            def groups() -> Iterator[list[Source]]:
                for part in self._parts:
                    ids.append(np.full(len(part.sources), -1, np.int64))
                    batch = self._batch(part, ids[-1])
                    phase.advance(len(part.sources) - len(batch.rows))
                    waiting.append(batch)
                    yield [part.sources[row] for row in batch.rows]

            about = SEGMENT_SIZE if self._total is None else self._total
            added = 1
            for features in stream_groups(groups(), network, options, about, phase):
                self._add_batch(waiting.popleft(), features, ids[added], skipped, network)
                added += 1
        warn_of_growth(self._index, before)
        return Added(np.concatenate(ids), skipped)

    def _batch(self, part: _Part, ids: NDArray[np.int64]) -> _Batch:
        """Which images are to be read, with what their files are before that."""
        rows = range(len(part.sources))
        files = dict(enumerate(_files(part)))
        for row, (id, state) in self._known(part, rows).items():
            if isinstance(part.sources[row], bytes) and state_of(files[row]) == state:
                ids[row] = id
        return _Batch(part, np.flatnonzero(ids < 0).tolist(), files)

    def _add_batch(
        self,
        batch: _Batch,
        features: Features,
        ids: NDArray[np.int64],
        skipped: dict[int, str],
        network: Backbone,
    ) -> None:
        new = batch.rows
        skipped.update({batch.part.start + new[row]: reason for row, reason in features.skipped})
        readable = [new[row] for row in features.rows]
        if readable:
            ids[readable] = self._store(batch, readable, features, network)

    def _store(
        self, batch: _Batch, rows: Sequence[int], features: Features, network: Backbone
    ) -> NDArray[np.int64]:
        """Add images that have been read in one commit; their ids."""
        encoded, part = self._index.encoded(features.plain), batch.part
        # What was open is measured once it has been read.
        present = [
            batch.files[row]
            if isinstance(source := part.sources[row], bytes)
            else _content(source, part.names[row])
            for row in rows
        ]
        with self._index.collection.exclusive():
            self._images.check_backbone(network)
            old = [id for id, _ in self._known(part, rows).values()]
            first = self._index.next_id
            Updater(self._images).add_encoded(
                present, encoded, features.sizes, features.hashes, remove=old
            )
        return np.arange(first, first + len(rows))

    def _known(self, part: _Part, rows: Sequence[int]) -> dict[int, tuple[int, tuple[int, int]]]:
        """Id, size and time of the images that the index has by the names of some rows."""
        names = {part.names[row]: row for row in rows}
        if len(names) > _FEW:
            return {
                names[path]: (id, state)
                for path, state, id in entries(self._index.collection)
                if path in names
            }
        view = self._index.view()
        found: dict[int, tuple[int, tuple[int, int]]] = {}
        for name, row in names.items():
            for id in view.select(where=Where(f"path == {os.fsdecode(name)!r}")).tolist():
                columns = view.attributes_of([id])
                mtime = columns["mtime"].astype(TIME).view(np.int64)
                found[row] = id, (int(columns["size"][0]), int(mtime[0]))
        return found


def _files(part: _Part) -> Iterator[ImageFile]:
    """What the index records of each image."""
    states = for_each(_state, (source for source in part.sources if isinstance(source, bytes)))
    for source, name in zip(part.sources, part.names, strict=True):
        if isinstance(source, bytes):
            yield replace(next(states), path=name)
        else:
            yield _content(source, name)


def _state(path: bytes) -> ImageFile:
    """Size and time of a file. One that is not there will be found out."""
    try:
        return file_status(path)
    except OSError:
        return ImageFile(path, 0, 0)


def _content(source: EncodedImage | Image.Image, name: bytes) -> ImageFile:
    """What the index records of an image that is no file."""
    size = source.size if isinstance(source, EncodedImage) else 0
    return ImageFile(name, size, time.time_ns())


def _slice(whole: _Part, start: int) -> _Part:
    rows = slice(start, start + SEGMENT_SIZE)
    return _Part(start, whole.sources[rows], whole.names[rows])


def _streamed(
    given: Iterator[ImageLike | Iterable[ImageLike]], names: str | Iterable[str | None] | None
) -> Iterator[_Part]:
    """The images of an iterator, which are not together in memory, as parts."""
    own = None if names is None else iter([names] if isinstance(names, str) else names)
    start = 0
    for sources in _in_parts(given):
        given_names = None if own is None else [*islice(own, len(sources))]
        yield _Part(start, sources, _as_names(sources, given_names, start))
        start += len(sources)
    if own is not None and (left := [*islice(own, 1)]):
        raise InvalidInputError(
            f"names has {left[0]!r} behind the names of all {start} images; expected one name for "
            "each image."
        )


def _in_parts(given: Iterator[ImageLike | Iterable[ImageLike]]) -> Iterator[list[Source]]:
    """Images and batches of images as parts of `SEGMENT_SIZE`; the last one may be smaller."""
    waiting: list[Source] = []
    for images in given:
        waiting += as_sources(images)
        while len(waiting) >= SEGMENT_SIZE:
            yield waiting[:SEGMENT_SIZE]
            waiting = waiting[SEGMENT_SIZE:]
    if waiting:
        yield waiting


def _as_names(
    sources: list[Source], names: str | Iterable[str | None] | None, start: int = 0
) -> list[bytes]:
    """The name of each image: the given one, or the absolute path of its file.

    The first image has the number ``start``.
    """
    if names is None or isinstance(names, str):
        given: list[str | None] = [names] if names is not None else [None] * len(sources)
    else:
        given = list(names)
    if len(given) != len(sources):
        raise InvalidInputError(
            f"names has {start + len(given)} names; expected {start + len(sources)}, one for each "
            "image."
        )
    out: dict[bytes, int] = {}
    for row, (source, name) in enumerate(zip(sources, given, strict=True), start):
        if name is None and isinstance(source, bytes):
            path = absolute(source)
        elif isinstance(name, str) and name and "\0" not in name:
            path = os.fsencode(name)
        elif name is None:
            raise InvalidInputError(
                f"images[{row}] is not given by a path and has no name; expected a text in names."
            )
        else:
            raise InvalidInputError(f"names[{row}] is {name!r}; expected a text that is not empty.")
        if path.startswith(b":") and is_absolute(path.lstrip(b":")):
            raise InvalidInputError(
                f"names[{row}] is {name!r}; expected no colon before a / or a URL at its "
                "beginning, as the index stores paths of its own in this way."
            )
        if path in out:
            raise InvalidInputError(
                f"images[{out[path]}] and images[{row}] have the name {os.fsdecode(path)!r}; "
                "expected names that differ."
            )
        out[path] = row
    return list(out)
