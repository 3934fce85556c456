"""Images that are in an index already, by another path or with another time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.folder import ImageFile
from hyperpq.images.changes import Changes, Entry, is_gone, state_of
from hyperpq.index.view import RowView
from hyperpq.progress import Progress
from hyperpq.utils.devices import default_threads

HASH = "content_hash"
"""Attribute of the images of an index: `content_hash` of their files."""
_SECOND = 10**9


def find_moves(
    changes: Changes,
    listed: Mapping[bytes, ImageFile],
    rows: RowView,
    workers: int,
    progress: Progress,
) -> dict[bytes, int]:
    """Listed files that are images of the index by another path or with another time.

    In an index with `HASH` these are the files with the content of an image that is gone, or that
    was at the same path; they are read for it if their size is that of such an image. In an index
    without it they have the size and the time of one image that is gone, and its name or a time of
    less than whole seconds. A copy, whose image is still there, is a new image.

    Parameters
    ----------
    changes : Changes
        How the index differs from the listing.
    listed : mapping of bytes to ImageFile
        The files that have been listed.
    rows : RowView
        The rows that have been compared.
    workers : int
        Number of threads that read; 0 means one per core.
    progress : Progress
        Where to report.

    Returns
    -------
    dict of bytes to int
        Path of each of the files, and id of the image that it is.
    """
    new = [
        file
        for path, file in listed.items()
        if path not in changes.unchanged and path not in changes.outdated
    ]
    sizes = {file.size for file in new}
    missing = set(changes.missing)
    former = [entry for entry in changes.former if entry[1][0] in sizes]
    # What the listing does not cover is looked up.
    former = [entry for entry in former if entry[2] in missing or is_gone(entry[0])]
    if HASH not in rows.attribute_names:
        return _by_time(new, former)
    touched = {path: changes.outdated[path] for path in changes.touched}
    sizes = {size for _, (size, _), _ in former}
    candidates = [file.path for file in new if file.size in sizes] + sorted(touched)
    if not candidates:
        return {}
    ids = np.array([*(id for _, _, id in former), *touched.values()], np.int64)
    known = dict(zip(ids.tolist(), rows.attributes_of(ids)[HASH].tolist(), strict=True))
    hashes = _hashes(candidates, workers, progress)
    moves = {path: id for path, id in touched.items() if hashes[path] == known[id] != 0}
    by_hash: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in former:
        by_hash[known[entry[2]]].append(entry)
    files: defaultdict[int, list[bytes]] = defaultdict(list)
    for path in candidates:
        if path not in touched:
            files[hashes[path]].append(path)
    for value in files.keys() & by_hash.keys() - {0}:
        moves |= _paired(files[value], by_hash[value])
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
    """Files with the content of as many images, those of the same name first."""
    by_name: defaultdict[bytes, list[int]] = defaultdict(list)
    for path, _, id in sorted(images, reverse=True):
        by_name[os.path.basename(path)].append(id)
    pairs, others = {}, []
    for path in sorted(files):
        if ids := by_name.get(os.path.basename(path)):
            pairs[path] = ids.pop()
        else:
            others.append(path)
    left = sorted(id for ids in by_name.values() for id in ids)
    return pairs | dict(zip(others, left, strict=False))


def _hashes(paths: Sequence[bytes], workers: int, progress: Progress) -> dict[bytes, int]:
    """`content_hash` of files, read in threads."""
    found = {}
    with (
        progress.phase("check", len(paths)) as phase,
        ThreadPoolExecutor(workers or default_threads(), thread_name_prefix="check") as pool,
    ):
        for path, value in zip(paths, pool.map(content_hash, paths), strict=True):
            found[path] = value
            phase.advance()
    return found
