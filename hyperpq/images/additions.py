"""`ImageIndex.add`: images that are given one by one, with or without files."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.listing import ImageFile
from hyperpq.errors import InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images.changes import entries, state_of
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.extract import Features, ReadOptions, stream_groups
from hyperpq.images.relearning import warn_of_growth
from hyperpq.images.sources import EncodedImage, Source
from hyperpq.images.updater import SEGMENT_SIZE, Updater, has_hashes
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store.columns import TIME

if TYPE_CHECKING:
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
class _Batch:
    """Images that are read: their rows, and what the files of all rows were before."""

    rows: list[int]
    files: dict[int, ImageFile]


class Additions:
    """Images on their way into an index.

    Parameters
    ----------
    images : ImageIndex
        The index.
    sources : list of n sources
        The images.
    names : str or sequence of str, optional
        Their names, see `ImageIndex.add`.

    Raises
    ------
    InvalidInputError
        If an image has no name, or that of another one.
    """

    def __init__(
        self,
        images: ImageIndex,
        sources: list[Source],
        names: str | Sequence[str | None] | None,
    ) -> None:
        self._images, self._index, self._sources = images, images.index, sources
        self._names = _as_names(sources, names)

    def add(self, workers: WorkersLike = 0, progress: ProgressLike = None) -> Added:
        """Read, encode and add the images."""
        self._index.collection.check_writable()
        before = len(self._images)
        added = Added(np.full(len(self._sources), -1, np.int64))
        options = ReadOptions(workers, self._images.max_megapixels, hashes=has_hashes(self._images))
        with as_progress(progress).phase("encode", len(self._sources)) as phase:
            network = self._images.backbone
            waiting: deque[_Batch] = deque()

            def groups() -> Iterator[list[Source]]:
                for start in range(0, len(self._sources), SEGMENT_SIZE):
                    rows = range(start, min(start + SEGMENT_SIZE, len(self._sources)))
                    batch = self._batch(rows, added)
                    phase.advance(len(rows) - len(batch.rows))
                    waiting.append(batch)
                    yield [self._sources[row] for row in batch.rows]

            for features in stream_groups(groups(), network, options, len(self._sources), phase):
                self._add_batch(waiting.popleft(), features, added, network)
        warn_of_growth(self._index, before)
        return added

    def _batch(self, rows: Sequence[int], added: Added) -> _Batch:
        """Which images are to be read, with what their files are before that."""
        files = {row: self._file(row) for row in rows}
        for row, (id, state) in self._known(rows).items():
            if isinstance(self._sources[row], bytes) and state_of(files[row]) == state:
                added.ids[row] = id
        return _Batch([row for row in rows if added.ids[row] < 0], files)

    def _add_batch(
        self, batch: _Batch, features: Features, added: Added, network: Backbone
    ) -> None:
        new = batch.rows
        added.skipped.update({new[row]: reason for row, reason in features.skipped})
        readable = [new[row] for row in features.rows]
        if readable:
            added.ids[readable] = self._store(readable, features, batch.files, network)

    def _store(
        self,
        rows: Sequence[int],
        features: Features,
        files: dict[int, ImageFile],
        network: Backbone,
    ) -> NDArray[np.int64]:
        """Add images that have been read in one commit; their ids."""
        encoded = self._index.encoded(features.plain)
        # What was open is measured once it has been read.
        present = [
            files[row] if isinstance(self._sources[row], bytes) else self._file(row) for row in rows
        ]
        with self._index.collection.exclusive():
            self._images.check_backbone(network)
            old = [id for id, _ in self._known(rows).values()]
            first = self._index.next_id
            Updater(self._images).add_encoded(
                present, encoded, features.sizes, features.hashes, remove=old
            )
        return np.arange(first, first + len(rows))

    def _file(self, row: int) -> ImageFile:
        """What the index records of an image. One that is not there will be found out."""
        source, name = self._sources[row], self._names[row]
        if isinstance(source, bytes):
            try:
                status = os.stat(source)
                return ImageFile(name, status.st_size, status.st_mtime_ns)
            except OSError:
                return ImageFile(name, 0, 0)
        size = source.size if isinstance(source, EncodedImage) else 0
        return ImageFile(name, size, time.time_ns())

    def _known(self, rows: Sequence[int]) -> dict[int, tuple[int, tuple[int, int]]]:
        """Id, size and time of the images that the index has by the names of some rows."""
        names = {self._names[row]: row for row in rows}
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


def _as_names(sources: list[Source], names: str | Sequence[str | None] | None) -> list[bytes]:
    """The name of each image: the given one, or the absolute path of its file."""
    if names is None or isinstance(names, str):
        given: list[str | None] = [names] if names is not None else [None] * len(sources)
    else:
        given = list(names)
    if len(given) != len(sources):
        raise InvalidInputError(
            f"names has {len(given)} names; expected {len(sources)}, one for each image."
        )
    out: dict[bytes, int] = {}
    for row, (source, name) in enumerate(zip(sources, given, strict=True)):
        if name is None and isinstance(source, bytes):
            path = os.path.abspath(source)
        elif isinstance(name, str) and name and "\0" not in name:
            path = os.fsencode(name)
        elif name is None:
            raise InvalidInputError(
                f"images[{row}] is not given by a path and has no name; expected a text in names."
            )
        else:
            raise InvalidInputError(f"names[{row}] is {name!r}; expected a text that is not empty.")
        if path.startswith(b":") and path.lstrip(b":").startswith(b"/"):
            raise InvalidInputError(
                f"names[{row}] is {name!r}; expected no colon before a / at its beginning, as the "
                "index stores paths of its own in this way."
            )
        if path in out:
            raise InvalidInputError(
                f"images[{out[path]}] and images[{row}] have the name {os.fsdecode(path)!r}; "
                "expected names that differ."
            )
        out[path] = row
    return list(out)
