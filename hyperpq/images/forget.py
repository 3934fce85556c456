"""What removes images from an index that are gone, or not wanted any more; no file is touched."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, islice
from typing import TYPE_CHECKING

from hyperpq.datasets.file_source import file_exists, for_each
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.errors import InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.images import skipped as skipped_files
from hyperpq.images.changes import ancestors, entries, is_below, is_gone, is_unknown
from hyperpq.images.listing import PathLike, as_roots
from hyperpq.images.roots import Roots, change_roots, recorded_roots, unmounted, without
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.utils.locations import bucket_of, is_absolute, is_remote

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

_AT_ONCE = 1 << 12


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


def forget_paths(
    index: HiHPQIndex,
    paths: PathLike | Sequence[PathLike] | None,
    *,
    missing: bool,
    progress: ProgressLike = None,
) -> ForgetReport:
    """Remove folders with their images, or images whose files are gone; see `ImageIndex.forget`.

    A folder that does not exist any more is no longer recorded either, if ``missing`` is given. An
    image is kept whose file may be on a disk that is not mounted, see `images.changes.is_gone`.
    """
    index.collection.check_writable()
    roots = recorded_roots(index)
    folders = [] if paths is None else as_roots(paths)
    collection, found = index.collection, dict.fromkeys(folders, 0)
    ends = [(folder, (os.path.join(folder, b""),)) for folder in found]
    images: dict[int, bytes] = {}
    away, kept = unmounted(roots), 0

    def meant() -> Iterator[tuple[int, bytes]]:
        """Id and path of the images that are looked at."""
        for path, _, id in entries(collection, phase):
            below = [folder for folder, end in ends if is_below(path, end)]
            for folder in below:
                found[folder] += 1
            if below or (paths is None and is_absolute(path)):
                yield id, path

    with as_progress(progress).phase("check", index.ntotal) as phase:
        if not missing:
            images = dict(meant())
        for part in _parts(meant()) if missing else ():
            away |= _unreachable(part.values(), away)
            states = for_each(partial(_state, away=away), part.values())
            for (id, path), (gone, there) in zip(part.items(), states, strict=True):
                if gone:
                    images[id] = path
                kept += not (gone or there)
    for folder, count in found.items():
        is_recorded = len(without(roots, [folder])) < len(roots)
        if paths is not None and not count and not is_recorded:
            raise InvalidInputError(
                f"{os.fsdecode(folder)} has no image in {index.path}; expected a folder or an "
                "image of which the index has any."
            )
    if missing:
        # A recorded folder that is gone would have to be named in every later update.
        inside = set(roots) if paths is None else set(roots) - set(without(roots, folders))
        folders = [root.path for root in inside if is_gone(root.path, away)]
    with collection.exclusive() as changed:
        if changed:
            # Another process may have found where an image is now.
            images = {i: path for path, _, i in entries(collection) if images.get(i) == path}
        removed = index.remove_ids(sorted(images)) if images else 0
        change_roots(index, lambda roots: without(roots, folders))
        if not missing:
            skipped_files.update_report(collection, {}, (), folders)
    return ForgetReport(removed, kept, _listed_again(recorded_roots(index), images))


def _parts(images: Iterator[tuple[int, bytes]]) -> Iterator[dict[int, bytes]]:
    while part := dict(islice(images, _AT_ONCE)):
        yield part


def _unreachable(paths: Iterable[bytes], known: Collection[bytes]) -> set[bytes]:
    """Buckets of some paths that cannot be asked now, so that each object is not waited for."""
    found = set()
    for bucket in {bucket_of(path) for path in paths if is_remote(path)} - set(known):
        try:
            RemoteSource().is_folder(bucket)
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:
            found.add(bucket)
    return found


def _state(path: bytes, away: Collection[bytes]) -> tuple[bool, bool]:
    """Whether an image is gone, and whether it is there; it may be neither."""
    if is_remote(path) and is_unknown(path, away):
        return False, False
    gone = is_gone(path, away)
    return gone, not gone and (os.path.lexists(path) or file_exists(path))


def forget_where(index: HiHPQIndex, where: str | Where) -> ForgetReport:
    """Remove the images that fulfil a condition; see `ImageIndex.forget`."""
    index.collection.check_writable()
    with index.collection.exclusive():
        view = index.collection.view()
        ids = view.select(where=where)
        images = dict(zip(ids.tolist(), view.paths_of(ids), strict=True))
        removed = index.remove_ids(ids) if images else 0
    return ForgetReport(removed, 0, _listed_again(recorded_roots(index), images))


def _listed_again(roots: Roots, removed: Mapping[int, bytes]) -> dict[bytes, int]:
    """Recorded folders, and how many of the removed images are still in each."""
    recorded = {root.path for root in roots}
    below = []
    for path in removed.values():
        # Of two folders, the one that is in the other.
        folder = next((folder for folder in ancestors(path) if folder in recorded), None)
        if folder is not None:
            below.append((path, folder))
    there = for_each(file_exists, (path for path, _ in below))
    return dict(sorted(Counter(compress((folder for _, folder in below), there)).items()))
