"""Images that are in an index already, by another path or with another time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.listing import ImageFile
from hyperpq.images.changes import Changes, Entry, is_gone, state_of
from hyperpq.images.decoders import Workers, WorkersLike
from hyperpq.index.view import RowView
from hyperpq.progress import Progress
from hyperpq.utils.locations import is_remote

HASH = "content_hash"
"""Attribute of the images of an index: `content_hash` of their files."""
_SECOND = 10**9


def find_moves(
    changes: Changes,
    listed: Mapping[bytes, ImageFile],
    rows: RowView,
    unmounted: Collection[bytes],
    workers: WorkersLike,
    progress: Progress,
) -> dict[bytes, int]:
    """Listed files that are images of the index by another path or with another time.

    In an index with `HASH` these are the files with the content of an image whose own file is gone
    or has changed; they are read for it if their size is that of such an image. In an index without
    it they have the size and the time of one such image, and its name or a time of less than whole
    seconds. A copy, whose image is still there, is a new image.

    Parameters
    ----------
    changes : Changes
        How the index differs from the listing.
    listed : mapping of bytes to ImageFile
        The files that have been listed.
    rows : RowView
        The rows that have been compared.
    unmounted : collection of bytes
        Folders whose images are not gone, see `roots.unmounted`.
    workers : int
        Number of threads that read; 0 means one per core.
    progress : Progress
        Where to report.

    Returns
    -------
    dict of bytes to int
        Path of each of the files, and id of the image that it is.
    """
    files = [file for path, file in listed.items() if path not in changes.unchanged]
    sizes = {file.size for file in files}
    known = {*changes.missing, *changes.outdated.values()}
    # What the listing does not cover is looked up; for an object that would take a request.
    former = [
        entry
        for entry in changes.former
        if entry[1][0] in sizes
        and (entry[2] in known or (not is_remote(entry[0]) and is_gone(entry[0], unmounted)))
    ]
    if HASH not in rows.attribute_names:
        return _by_time(files, former)
    sizes = {size for _, (size, _), _ in former}
    candidates = [file.path for file in files if file.size in sizes]
    if not candidates:
        return {}
    ids = np.array([id for _, _, id in former], np.int64)
    recorded = rows.attributes_of(ids)[HASH].tolist()
    images: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry, value in zip(former, recorded, strict=True):
        images[value].append(entry)
    paths: defaultdict[int, list[bytes]] = defaultdict(list)
    for path, value in _hashes(candidates, workers, progress).items():
        paths[value].append(path)
    moves: dict[bytes, int] = {}
    for value in paths.keys() & images.keys() - {0}:
        moves |= _paired(paths[value], images[value])
    return moves


def _by_time(new: Iterable[ImageFile], former: Iterable[Entry]) -> dict[bytes, int]:
    """Moves by size and time, which are those of one file and one image alone."""
    files: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
    images: defaultdict[tuple[int, int], list[Entry]] = defaultdict(list)
    for file in new:
        files[state_of(file)].append(file.path)
    for entry in former:
        images[entry[1]].append(entry)
    moves = {}
    for state in files.keys() & images.keys():
        pairs = _paired(files[state], images[state])
        is_one = len(files[state]) == len(images[state]) == 1
        names = {id: os.path.basename(path) for path, _, id in images[state]}
        for path, id in pairs.items():
            same_name = os.path.basename(path) == names[id]
            # Many archives and disks have times of whole seconds, which many files share.
            if same_name or (is_one and state[1] % _SECOND):
                moves[path] = id
    return moves


def _paired(files: Sequence[bytes], images: Sequence[Entry]) -> dict[bytes, int]:
    """Files with the content of as many images: of the same path first, then of the same name."""
    left = {id: path for path, _, id in sorted(images)}
    pairs: dict[bytes, int] = {}

    def pair(key: Callable[[bytes], bytes]) -> None:
        ids: defaultdict[bytes, list[int]] = defaultdict(list)
        for id, path in reversed(left.items()):
            ids[key(path)].append(id)
        for path in sorted(set(files) - pairs.keys()):
            if found := ids[key(path)]:
                pairs[path] = found.pop()
                del left[pairs[path]]

    pair(lambda path: path)
    pair(os.path.basename)
    pair(lambda path: b"")
    return pairs


def _hashes(paths: Sequence[bytes], workers: WorkersLike, progress: Progress) -> dict[bytes, int]:
    """`content_hash` of files, read in threads."""
    found = {}
    with (
        progress.phase("check", len(paths)) as phase,
        ThreadPoolExecutor(Workers.of(workers).count, thread_name_prefix="check") as pool,
    ):
        for path, value in zip(paths, pool.map(content_hash, paths), strict=True):
            found[path] = value
            phase.advance()
    return found
