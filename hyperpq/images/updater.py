"""`Updater`: what changes the rows of an `ImageIndex`."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images import skipped as skipped_files
from hyperpq.images.changes import Changes, compare, entries, folder_names, is_below, stored_time
from hyperpq.images.extract import Features, ReadOptions, extract_features
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.results import UpdateReport
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store.columns import TIME

if TYPE_CHECKING:
    from hyperpq.datasets.folder import ImageFile
    from hyperpq.images.image_index import ImageIndex

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
        workers: int = 0,
        progress: ProgressLike = None,
    ) -> UpdateReport:
        """See `ImageIndex.update`."""
        self._index.collection.check_writable()
        listed = {file.path: file for file in files}
        folders = [os.path.abspath(os.fsencode(root)) for root in remove_below]
        changes = compare(entries(self._index.collection), listed, folders, unknown)
        report = UpdateReport(
            unchanged=len(changes.unchanged), kept=changes.kept, skipped=dict(skipped or {})
        )
        new = [file for path, file in sorted(listed.items()) if path not in changes.unchanged]
        if changes.missing:
            report.removed = self._index.remove_ids(changes.missing)
        options = ReadOptions(workers, self._images.max_megapixels)
        with as_progress(progress).phase("encode", len(new)) as phase:
            for start in range(0, len(new), SEGMENT_SIZE):
                batch = new[start : start + SEGMENT_SIZE]
                features = extract_features(
                    [f.path for f in batch], self._images.backbone, options, phase
                )
                codes = self._index.encode(features.plain)
                with self._index.collection.exclusive() as changed:
                    if changed:
                        # Another process may have added some of these images meanwhile.
                        changes = compare(entries(self._index.collection), listed, folders, unknown)
                    self._add_batch(batch, features, codes, changes, report)
        skipped_files.update_report(self._index.collection, report.skipped, listed.keys(), folders)
        return report

    def _add_batch(
        self,
        batch: list[ImageFile],
        features: Features,
        codes: NDArray[np.uint8],
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
            self._add_codes(readable, codes[new], features.sizes[new], old)
        report.added += len(readable)
        report.removed += len(old)
        report.kept += len(kept)
        report.skipped |= {batch[row].path: why for row, why in features.skipped}

    def remove(self, below: PathLike | Sequence[PathLike]) -> int:
        """See `ImageIndex.remove`."""
        folders = as_roots(below)
        ids: set[int] = set()
        counts = dict.fromkeys(folders, 0)
        ends = [(folder, (os.path.join(folder, b""),)) for folder in counts]
        for path, _, id in entries(self._index.collection):
            for folder, end in ends:
                if is_below(path, end):
                    counts[folder] += 1
                    ids.add(id)
        for folder, count in counts.items():
            if not count:
                raise InvalidInputError(
                    f"{os.fsdecode(folder)} has no image in {self._index.path}; expected a folder "
                    "or an image of which the index has any."
                )
        removed = self._index.remove_ids(sorted(ids))
        skipped_files.update_report(self._index.collection, {}, (), folders)
        return removed

    def add_features(
        self,
        files: Sequence[ImageFile],
        features: NDArray[np.float32],
        sizes: NDArray[np.int32],
        *,
        remove: Sequence[int] = (),
    ) -> None:
        """See `ImageIndex.add_features`."""
        codes = self._index.encode(features)
        # What to add and remove was decided by looking at the rows.
        with self._index.collection.on_this_snapshot():
            self._add_codes(files, codes, sizes, remove)

    def _add_codes(
        self,
        files: Sequence[ImageFile],
        codes: NDArray[np.uint8],
        sizes: NDArray[np.int32],
        remove: Sequence[int],
    ) -> None:
        """Add encoded images in one commit, see `add_features`."""
        times = np.array([stored_time(file.mtime_ns) for file in files], np.int64)
        self._index.collection.add(
            codes,
            attributes={
                "folder": folder_names(file.path for file in files),
                "size": np.array([file.size for file in files], np.int64),
                "mtime": times.view(TIME),
                "width": sizes[:, 0],
                "height": sizes[:, 1],
            },
            paths=[file.path for file in files],
            remove=np.array(remove, np.int64),
        )
