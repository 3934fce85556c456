"""The folders that an index of images records: which they are, where they are, which have moved."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperpq.datasets.listing import ImageFile, RootOptions
from hyperpq.images.changes import Entry, is_gone, state_of
from hyperpq.index.path_map import Root, is_at_or_below, parse_roots, relative_to, with_roots
from hyperpq.utils.locations import is_remote

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

log = logging.getLogger(__name__)

Roots: TypeAlias = tuple[Root, ...]
# Images of a folder by which its new place is looked for.
_SAMPLE = 1000


def recorded_roots(index: HiHPQIndex) -> Roots:
    """The folders that an index records, with the paths where they are now.

    A folder is where it was when it was last listed. If only the folder at the same place relative
    to the index exists, the index has been moved together with its images, and it is there.
    """
    return present_roots(index.metadata, index.path)


def present_roots(metadata: Mapping[str, Any], directory: Path | None) -> Roots:
    """`recorded_roots` of the metadata of an index in a directory."""
    return tuple(_at(root, root.present(directory)) for root in parse_roots(metadata))


def change_roots(index: HiHPQIndex, change: Callable[[Roots], Iterable[Root]]) -> None:
    """Record other folders, in one commit if anything differs.

    Parameters
    ----------
    index : HiHPQIndex
        An index of images.
    change : callable
        Called with the folders that are recorded, while no other process can change them; returns
        those to record.
    """
    with index.collection.exclusive():
        roots = change(recorded_roots(index))
        # The index may be at another place than when it was recorded.
        new = tuple(_placed(root, index.path) for root in roots)
        if new != parse_roots(index.metadata):
            index.metadata = with_roots(index.metadata, new)


def with_listed(
    roots: Sequence[Root], listed: Mapping[bytes, RootOptions], directory: Path | None
) -> Roots:
    """The folders of an index after others, or the same ones, were listed for it.

    Parameters
    ----------
    roots : sequence of Root
        The folders that it records.
    listed : mapping of bytes to RootOptions
        Absolute paths that were listed and have not lost their images, and how.
    directory : Path, optional
        Where the index is.
    """
    known = list(roots)
    for path in sorted(listed.keys() - {root.path for root in roots}):
        known.append(_placed(Root(path, _new_stored(path, known)), directory))
    for number, root in enumerate(known):
        if options := listed.get(root.path):
            known[number] = replace(
                root,
                exclude=options.exclude,
                include_hidden=options.include_hidden,
                mount=mount_point(root.path),
            )
    return tuple(sorted(known, key=lambda root: (root.path, root.stored)))


def without(roots: Sequence[Root], folders: Sequence[bytes]) -> Roots:
    """The folders of an index but for those at or below some paths."""
    return tuple(
        root for root in roots if not any(is_at_or_below(root.path, folder) for folder in folders)
    )


def moved_to(roots: Sequence[Root], places: Mapping[bytes, bytes]) -> Roots:
    """The folders of an index after some have moved, from a path to another.

    Two of them can have the same path then: rows of both are shown below it.
    """
    return tuple(
        replace(_at(root, places[root.path]), relative=None) if root.path in places else root
        for root in roots
    )


def is_mount_point(path: bytes) -> bool:
    """Whether a file system is mounted at a path."""
    return os.path.ismount(path)


def mount_point(path: bytes) -> bytes | None:
    """Mount point of the file system that a path leads to; None if there is nothing, or a URL."""
    if is_remote(path):
        return None
    place = os.path.realpath(path)
    if not os.path.exists(place):
        return None
    while not is_mount_point(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return place


def unmounted(roots: Iterable[Root]) -> set[bytes]:
    """Paths of the folders whose file systems are not mounted, or may not be; URLs have none.

    Nothing is known of the images there. Where the index does not say which file system a folder
    was on, that may be why it does not exist.
    """
    return {
        root.path
        for root in roots
        if not is_remote(root.path)
        and not (os.path.lexists(root.path) if root.mount is None else is_mount_point(root.mount))
    }


def gone_images(roots: Sequence[Root], entries: Iterable[Entry]) -> set[bytes]:
    """Recorded single images whose files have been removed or moved away, and not only their disks.

    Parameters
    ----------
    roots : sequence of Root
        The folders and images that the index records.
    entries : iterable of Entry
        What the index has; read only if one of the roots is gone.

    See Also
    --------
    hyperpq.images.changes.is_gone : When the file of an image is gone.
    """
    away = unmounted(roots)
    gone = {root.path for root in roots if is_gone(root.path, away)}
    return gone & {path for path, *_ in entries} if gone else gone


def find_moved_roots(
    roots: Sequence[Root], entries: Iterable[Entry], listed: Iterable[ImageFile]
) -> dict[bytes, bytes]:
    """Recorded folders that do not exist any more, and where their images are now.

    A folder has moved if at least half of its images are in another folder by the same names, with
    the same sizes and times. It must be all of them if its file system may not be mounted, see
    `unmounted`: half of them may be a copy, and the others are still where they were. No file is
    read. A folder in object storage cannot be moved, only its objects can.

    Parameters
    ----------
    roots : sequence of Root
        The folders that the index records.
    entries : iterable of Entry
        What the index has.
    listed : iterable of ImageFile
        The files that have been listed.

    Returns
    -------
    dict of bytes to bytes
        Former and present path.
    """
    gone = [r.path for r in roots if not (is_remote(r.path) or os.path.lexists(r.path))]
    if not gone:
        return {}
    images: dict[bytes, dict[bytes, tuple[int, int]]] = {path: {} for path in gone}
    known = set()
    for path, state, _ in entries:
        known.add(path)
        for root in gone:
            if is_at_or_below(path, root) and path != root:
                images[root][path[len(root) :].lstrip(b"/")] = state
    files = {file.path: file for file in listed}
    by_state: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
    for path, file in files.items():
        if path not in known:
            by_state[state_of(file)].append(path)
    found, may_be_away = {}, unmounted(roots)
    for root, names in images.items():
        place, same = _best_place(names, by_state, files)
        if 2 * same < len(names) or not same:
            continue
        if same < len(names) and root in may_be_away:
            log.warning(
                "%s does not exist, and %s has %s of its %s images. They are taken for copies, as "
                "its disk may not be mounted, and its images are kept; if it has moved, remove "
                "them with `hyperpq forget %s`.",
                *(os.fsdecode(root), os.fsdecode(place), f"{same:,}", f"{len(names):,}"),
                os.fsdecode(root),
            )
        else:
            found[root] = place
    return found


def _best_place(
    names: Mapping[bytes, tuple[int, int]],
    by_state: Mapping[tuple[int, int], Sequence[bytes]],
    files: Mapping[bytes, ImageFile],
) -> tuple[bytes, int]:
    """The folder that has most of some images, and how many.

    Parameters
    ----------
    names : mapping of bytes to (size, time)
        The images, by their paths in their former folder.
    by_state : mapping of (size, time) to sequence of bytes
        Paths of listed files that are not in the index.
    files : mapping of bytes to ImageFile
        All listed files.
    """
    step = -(-len(names) // _SAMPLE) or 1
    votes: Counter[bytes] = Counter()
    for name in sorted(names)[::step]:
        end = b"/" + name
        for path in by_state.get(names[name], ()):
            if path.endswith(end):
                votes[path[: -len(end)] or b"/"] += 1
    best, most = b"", 0
    # Of folders with as many images, the first by name.
    for place, _ in sorted(votes.most_common(3), key=lambda vote: (-vote[1], vote[0])):
        same = sum(
            file is not None and state_of(file) == state
            for name, state in names.items()
            for file in [files.get(os.path.join(place, name))]
        )
        if same > most:
            best, most = place, same
    return best, most


def _at(root: Root, path: bytes) -> Root:
    """A root at another place, if it is not the one that it had."""
    return root if path == root.path else replace(root, path=path, mount=mount_point(path))


def _placed(root: Root, directory: Path | None) -> Root:
    """A root with its path relative to the index, unless neither says where it is."""
    if directory is None or (root.relative is not None and not os.path.lexists(root.path)):
        return root
    return replace(root, relative=relative_to(root.path, directory))


def _new_stored(path: bytes, roots: Sequence[Root]) -> bytes:
    """What the stored paths of a new folder begin with, so that no other folder has them.

    That is its path, unless a folder that has moved away was there.
    """
    stored = path
    moved = [root.stored for root in roots if root.stored != root.path]
    taken = {root.stored for root in roots}
    while stored in taken or any(
        is_at_or_below(stored, other) or is_at_or_below(other, stored) for other in moved
    ):
        stored = b":" + stored
    return stored
