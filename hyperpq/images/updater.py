"""`Updater`: what changes the rows of an `ImageIndex`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images import skipped as skipped_files
from hyperpq.images.changes import (
    Changes,
    ancestors,
    compare,
    entries,
    file_exists,
    folder_names,
    is_below,
    is_gone,
    stored_time,
)
from hyperpq.images.extract import Features, ReadOptions, extract_features
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.moves import HASH, find_moves
from hyperpq.images.results import UpdateReport
from hyperpq.images.roots import (
    Roots,
    change_roots,
    present_roots,
    recorded_roots,
    unmounted,
    without,
)
from hyperpq.progress import Progress, ProgressLike, as_progress
from hyperpq.store.columns import TIME

if TYPE_CHECKING:
    from hyperpq.datasets.listing import ImageFile
    from hyperpq.images.image_index import ImageIndex
    from hyperpq.index.encoded import EncodedVectors

SEGMENT_SIZE = 4096
"""Images of one segment and one commit: at 160 images a second, a kill loses half a minute."""


@dataclass(frozen=True)
class ForgetReport:
    """What `ImageIndex.forget` did.

    Attributes
    ----------
    removed : int
        Number of images that the index has no longer.
    kept : int
        Number of images whose files are not there, but may be on a disk that is not mounted.
    again : dict of bytes to int
        Recorded folders that have removed images, and how many: the next update adds them again,
        unless they are excluded there or moved away.
    """

    removed: int
    kept: int = 0
    again: dict[bytes, int] = field(default_factory=dict)


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
        workers: int = 0,
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
        workers : int
            Number of decoding threads; 0 means one per core.
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
        folders = [os.path.abspath(os.fsencode(root)) for root in remove_below]
        listed = {file.path: file for file in files}
        difference = _Difference(self._images, listed, folders, unknown)
        changes = difference.find(progress)
        report = UpdateReport(unchanged=len(changes.unchanged), skipped=dict(skipped or {}))
        rows = self._index.collection.view()
        moves = find_moves(changes, listed, rows, self._unmounted(), workers, progress)
        report.moved = self._relabel(difference, moves)
        changes = difference.changes
        report.kept = len(changes.kept)
        new = [file for path, file in sorted(listed.items()) if path not in changes.unchanged]
        if changes.missing:
            report.removed = self._index.remove_ids(changes.missing)
        options = ReadOptions(workers, self._images.max_megapixels, hashes=has_hashes(self._images))
        if new:
            # The network is loaded before the first image is waited for.
            with progress.phase("load", None, ""):
                network = self._images.backbone
        with progress.phase("encode", len(new)) as phase:
            for start in range(0, len(new), SEGMENT_SIZE):
                batch = new[start : start + SEGMENT_SIZE]
                features = extract_features([file.path for file in batch], network, options, phase)
                encoded = self._index.encoded(features.plain)
                with difference.newest() as changes:
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

    def forget(
        self,
        paths: PathLike | Sequence[PathLike] | None = None,
        *,
        missing: bool = False,
        progress: ProgressLike = None,
    ) -> ForgetReport:
        """Remove images from the index, in one transaction; no file is touched.

        Parameters
        ----------
        paths : path-like or sequence of path-like, optional
            Folders or images, which need not exist any more: the images at or below them are
            removed, and what of them is a recorded folder is not brought up to date by later
            updates. Images that are still below another recorded folder are added again by the
            next update of that one, see `ForgetReport.again`.
        missing : bool
            Whether to remove only images whose files are gone, of all folders or of ``paths``. A
            folder that does not exist any more may be among them. An image is kept whose file may
            be on a disk that is not mounted: if the file system that its recorded folder was on is
            not mounted, if the system does not say that it is gone, if it is at or below a broken
            link, or if the deepest folder of its path that exists is empty.
        progress : Progress or bool, optional
            Where to report progress.

        Returns
        -------
        ForgetReport

        Raises
        ------
        InvalidInputError
            If neither argument is given, or the index has neither an image nor a folder at or below
            one of the paths; nothing was changed.
        """
        self._index.collection.check_writable()
        if paths is None and not missing:
            raise InvalidInputError(
                "neither paths nor missing is given; expected folders or images, or missing=True."
            )
        folders = [b"/"] if paths is None else as_roots(paths)
        collection, found = self._index.collection, dict.fromkeys(folders, 0)
        ends = [(folder, (os.path.join(folder, b""),)) for folder in found]
        images: dict[int, bytes] = {}
        away, kept = self._unmounted(), 0
        with as_progress(progress).phase("check", len(self._images)) as phase:
            for path, _, id in entries(collection, phase):
                below = [folder for folder, end in ends if is_below(path, end)]
                for folder in below:
                    found[folder] += 1
                if below and missing and not is_gone(path, away):
                    kept += not os.path.lexists(path)
                elif below:
                    images[id] = path
        roots = recorded_roots(self._index)
        for folder, count in found.items():
            is_recorded = len(without(roots, [folder])) < len(roots)
            if paths is not None and not count and not is_recorded:
                raise InvalidInputError(
                    f"{os.fsdecode(folder)} has no image in {self._index.path}; expected a folder "
                    "or an image of which the index has any."
                )
        if missing:
            # A recorded folder that is gone would have to be named in every later update.
            inside = set(roots) - set(without(roots, folders))
            folders = [root.path for root in inside if is_gone(root.path, away)]
        with collection.exclusive() as changed:
            if changed:
                # Another process may have found where an image is now.
                images = {i: path for path, _, i in entries(collection) if images.get(i) == path}
            removed = self._index.remove_ids(sorted(images)) if images else 0
            change_roots(self._index, lambda roots: without(roots, folders))
            if not missing:
                skipped_files.update_report(collection, {}, (), folders)
        return ForgetReport(removed, kept, _listed_again(recorded_roots(self._index), images))

    def _unmounted(self) -> set[bytes]:
        """The recorded folders of whose images nothing is known now."""
        return unmounted(present_roots(self._index.metadata, self._index.path))

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


def _listed_again(roots: Roots, removed: Mapping[int, bytes]) -> dict[bytes, int]:
    """Recorded folders, and how many of the removed images are still in each."""
    count: Counter[bytes] = Counter()
    recorded = {root.path for root in roots}
    for path in removed.values():
        # Of two folders, the one that is in the other.
        folder = next((folder for folder in ancestors(path) if folder in recorded), None)
        if folder is not None and file_exists(path):
            count[folder] += 1
    return dict(sorted(count.items()))


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
