"""`Updater`: what changes the rows of an `ImageIndex`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.images import skipped as skipped_files
from hyperpq.images.changes import (
    Changes,
    compare,
    entries,
    folder_names,
    stored_time,
)
from hyperpq.images.decoders import WorkersLike
from hyperpq.images.extract import Features, ReadOptions, stream_groups
from hyperpq.images.listing import PathLike
from hyperpq.images.moves import HASH, find_moves
from hyperpq.images.results import UpdateReport
from hyperpq.images.roots import (
    recorded_roots,
    unmounted,
)
from hyperpq.progress import Progress, ProgressLike, as_progress
from hyperpq.store.columns import TIME
from hyperpq.utils.locations import absolute

if TYPE_CHECKING:
    from hyperpq.datasets.listing import ImageFile
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.index.encoded import EncodedVectors

SEGMENT_SIZE = 4096
"""Images of one segment and one commit: at 160 images a second, a kill loses half a minute."""


class Updater:
    """Changes the rows of an index of images; its methods are those of `ImageIndex`.

    Parameters
    ----------
    images : ImageIndex
        The index.
    """

    def __init__(self, images: ImageIndex) -> None:
        self._images, self._index = images, images.index

    def update(
        self,
        files: Sequence[ImageFile],
        *,
        remove_below: Sequence[PathLike] = (),
        unknown: Collection[bytes] = (),
        skipped: dict[bytes, str] | None = None,
        workers: WorkersLike = 0,
        progress: ProgressLike = None,
    ) -> UpdateReport:
        """Bring the index in line with a listing: add new and changed images, remove missing ones.

        Parameters
        ----------
        files : sequence of ImageFile
            The images that exist. An image with the size and mtime that the index has recorded is
            not read again, and one that has been moved or touched is not encoded again, see
            `find_moves`.
        remove_below : sequence of path-like
            Folders that the listing covers: images of the index that are below one of them and
            not in the listing are removed.
        unknown : collection of bytes
            Paths that the listing could not examine, see `datasets.listing.Listing`: images at or
            below them are kept.
        skipped : dict, optional
            Paths that the listing skipped, with the reasons, for ``skipped.csv``.
        workers : int or str
            Number of workers that decode images, 0 for one per core; or their kind:
            ``"threads"``, ``"processes"`` or ``"device"`` (the GPU decodes JPEG files), also with
            their number, such as ``"processes:8"``. By default processes read many files for a
            network on a GPU, and threads everything else.
        progress : Progress or bool, optional
            Where to report progress.

        Returns
        -------
        UpdateReport

        Notes
        -----
        A changed image that cannot be read now keeps its row, and the next update tries again. Its
        row is removed if the file can be read and is no image any more. Size and mtime are
        those of before the file was read, so what changes while it is read counts as changed in the
        next update. Other content with the same size and mtime is not noticed.
        """
        self._index.collection.check_writable()
        progress = as_progress(progress)
        folders = [absolute(root) for root in remove_below]
        listed = {file.path: file for file in files}
        difference = _Difference(self._images, listed, folders, unknown)
        changes = difference.find(progress)
        report = UpdateReport(unchanged=len(changes.unchanged), skipped=dict(skipped or {}))
        rows = self._index.collection.view()
        moves = find_moves(
            changes, listed, rows, unmounted(recorded_roots(self._index)), workers, progress
        )
        report.moved = self._relabel(difference, moves)
        changes = difference.changes
        report.kept = len(changes.kept)
        new_paths = sorted(path for path in listed if path not in changes.unchanged)
        new = [listed[path] for path in new_paths]
        if changes.missing:
            report.removed = self._index.remove_ids(changes.missing)
        options = ReadOptions(workers, self._images.max_megapixels, hashes=has_hashes(self._images))
        if new:
            # The network is loaded before the first image is waited for.
            with progress.phase("load", None, ""):
                network = self._images.backbone
        batches = [new[start : start + SEGMENT_SIZE] for start in range(0, len(new), SEGMENT_SIZE)]
        with progress.phase("encode", len(new)) as phase:
            groups = ([file.path for file in batch] for batch in batches)
            stream = stream_groups(groups, network, options, len(new), phase) if new else ()
            for batch, features in zip(batches, stream, strict=True):
                encoded = self._index.encoded(features.plain)
                with difference.newest() as changes:
                    self._images.check_backbone(network)
                    self._add_batch(batch, features, encoded, changes, report)
        skipped_files.update_report(self._index.collection, report.skipped, listed.keys(), folders)
        return report

    def _relabel(self, difference: _Difference, moves: Mapping[bytes, int]) -> int:
        """Give images the paths and times of their files, in batches; how many there were."""
        paths, count = sorted(moves), 0
        for start in range(0, len(paths), SEGMENT_SIZE):
            with difference.newest() as changes:
                # Another process may have done so, or have removed them, meanwhile.
                known = {id for _, _, id in changes.former} | set(changes.outdated.values())
                batch = {
                    path: moves[path]
                    for path in paths[start : start + SEGMENT_SIZE]
                    if moves[path] in known and path not in changes.unchanged
                }
                if not batch:
                    continue
                files = [difference.listed[path] for path in batch]
                self._index.collection.relabel(
                    np.array([*batch.values()], np.int64),
                    paths=[*batch],
                    attributes=_attributes(files),
                )
                changes.move(batch)
                count += len(batch)
        return count

    def _add_batch(
        self,
        batch: list[ImageFile],
        features: Features,
        encoded: EncodedVectors,
        changes: Changes,
        report: UpdateReport,
    ) -> None:
        """Add images that have been read and remove the rows that they replace; for `update`."""
        kept = {batch[row].path for row in features.unavailable} & changes.outdated.keys()
        old = [
            changes.outdated[file.path]
            for file in batch
            if file.path in changes.outdated and file.path not in kept
        ]
        new = np.array([batch[row].path not in changes.unchanged for row in features.rows], bool)
        readable = [batch[row] for row in features.rows[new]]
        if readable or old:
            self.add_encoded(
                readable, encoded[new], features.sizes[new], features.hashes[new], remove=old
            )
        report.added += len(readable)
        report.removed += len(old)
        report.kept += len(kept)
        report.skipped |= {batch[row].path: why for row, why in features.skipped}

    def add_features(
        self,
        files: Sequence[ImageFile],
        features: NDArray[np.float32],
        sizes: NDArray[np.int32],
        hashes: NDArray[np.int64] | None = None,
        *,
        remove: Sequence[int] = (),
    ) -> None:
        """Encode features of images and add them in one commit, which may be without images.

        Parameters
        ----------
        files : sequence of ImageFile
            The n images.
        features : ndarray, shape (n, d), float32
            Their features.
        sizes : ndarray, shape (n, 2), int32
            Their width and height.
        hashes : ndarray, shape (n,), int64, optional
            `content_hash` of the files.
        remove : sequence of int
            Ids of images to remove in the same commit.
        """
        encoded = self._index.encoded(features)
        # What to add and remove was decided by looking at the rows.
        with self._index.collection.on_this_snapshot():
            self.add_encoded(files, encoded, sizes, hashes, remove=remove)

    def add_encoded(
        self,
        files: Sequence[ImageFile],
        encoded: EncodedVectors,
        sizes: NDArray[np.int32],
        hashes: NDArray[np.int64] | None = None,
        *,
        remove: Sequence[int] = (),
    ) -> None:
        """Add encoded images in one commit; the parameters are those of `add_features`."""
        attributes = _attributes(files)
        attributes |= {"width": sizes[:, 0], "height": sizes[:, 1]}
        if has_hashes(self._images):
            attributes[HASH] = np.zeros(len(files), np.int64) if hashes is None else hashes
        self._index.add_encoded(
            encoded,
            attributes=attributes,
            paths=[file.path for file in files],
            remove=np.array(remove, np.int64),
        )


def has_hashes(images: ImageIndex) -> bool:
    """Whether an index has the column `HASH`; it gets one with its first images."""
    names = images.index.collection.view().attribute_names
    return not names or HASH in names


def _attributes(files: Sequence[ImageFile]) -> dict[str, Any]:
    """The attributes that say where a file is and when it was changed."""
    times = np.array([stored_time(file.mtime_ns) for file in files], np.int64)
    return {
        "folder": folder_names(file.path for file in files),
        "size": np.array([file.size for file in files], np.int64),
        "mtime": times.view(TIME),
    }


class _Difference:
    """How an index differs from a listing, found again if another process changes the index."""

    def __init__(
        self,
        images: ImageIndex,
        listed: Mapping[bytes, ImageFile],
        folders: Sequence[bytes],
        unknown: Collection[bytes],
    ) -> None:
        self._collection = images.index.collection
        self.listed, self._folders, self._unknown = listed, folders, unknown
        self.changes = Changes()

    def find(self, progress: Progress) -> Changes:
        """Compare the index with the listing."""
        with progress.phase("compare", self._collection.ntotal) as phase:
            known = entries(self._collection, phase)
            self.changes = compare(known, self.listed, self._folders, self._unknown)
        return self.changes

    @contextmanager
    def newest(self) -> Iterator[Changes]:
        """Keep other writers out; how the rows differ from the listing now."""
        with self._collection.exclusive() as changed:
            if changed:
                known = entries(self._collection)
                self.changes = compare(known, self.listed, self._folders, self._unknown)
            yield self.changes
