"""How an index of images differs from a listing of folders, and what of it may be removed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hyperpq.datasets.file_source import FileSource, source_of
from hyperpq.datasets.listing import ImageFile
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.errors import CorruptIndexError
from hyperpq.store import Categories
from hyperpq.store.columns import TIME
from hyperpq.utils.locations import is_absolute, is_remote

if TYPE_CHECKING:
    from hyperpq.index import collection as index_collection
    from hyperpq.index.view import RowView
    from hyperpq.progress import Phase

Entry: TypeAlias = tuple[bytes, tuple[int, int], int]
"""Path, (size, `stored_time`) and id of an image in an index."""

# Rows that are read at once.
_BATCH = 1 << 16
_FIRST, _LAST = -(2**63) + 1, 2**63 - 1  # -2**63 is a missing time
_FOLDED = 2**41


def entries(collection: index_collection.Collection, phase: Phase | None = None) -> Iterator[Entry]:
    """Path, (size, `stored_time`) and id of every image in the rows of an index.

    Parameters
    ----------
    collection : Collection
        The rows.
    phase : Phase, optional
        Where to report the rows that have been read.

    Raises
    ------
    CorruptIndexError
        If the rows have no such columns.
    """
    return entries_of(collection.view(), collection.path, phase)


def entries_of(view: RowView, path: object, phase: Phase | None = None) -> Iterator[Entry]:
    """`entries` of the rows of one snapshot; ``path`` of the index is for errors."""
    for rows in view.batches(_BATCH):
        paths, sizes, times = rows.paths, rows.attribute("size"), rows.attribute("mtime")
        if (
            paths is None
            or isinstance(sizes, Categories)
            or isinstance(times, Categories)
            or sizes.dtype.kind != "i"
            or times.dtype != TIME
        ):
            raise CorruptIndexError(
                f"{path} has no path, no whole number size or no time mtime for "
                "each image; it was not written by hyperpq, so do not trust its source."
            )
        columns = sizes.tolist(), times.view(np.int64).tolist(), rows.ids.tolist()
        for name, size, time, id in zip(paths, *columns, strict=True):
            yield name, (size, time), id
        if phase is not None:
            phase.advance(rows.n)


def folder_names(paths: Iterable[bytes]) -> Categories:
    """Names of the folders that contain images, the attribute ``folder``."""
    names = (os.path.basename(os.path.dirname(path)) for path in paths)
    # A filter is text, so bytes that are not UTF-8 are written as \xNN.
    return Categories.from_strings(name.decode("utf-8", "backslashreplace") for name in names)


@dataclass
class Changes:
    """How an index differs from a listing.

    Attributes
    ----------
    unchanged : set of bytes
        Paths of images that the index has as they are.
    outdated : dict of bytes to int
        Path and id of images whose files have changed.
    missing : list of int
        Ids of images whose files are gone.
    former : list of Entry
        Images that a listed file may be, as its size is that of one: the outdated, the missing and
        the kept ones, and those of folders that the listing does not cover.
    kept : set of int
        Ids of images below the folders that are not listed but may still be there.
    """

    unchanged: set[bytes] = field(default_factory=set)
    outdated: dict[bytes, int] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    former: list[Entry] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)

    def move(self, moved: Mapping[bytes, int]) -> None:
        """Follow images, path and id of each, that have been given the paths of listed files."""
        ids = set(moved.values())
        self.unchanged |= moved.keys()
        self.kept -= ids
        # Another image was there, which may be elsewhere now.
        replaced = [self.outdated.pop(path) for path in moved.keys() & self.outdated.keys()]
        self.outdated = {path: id for path, id in self.outdated.items() if id not in ids}
        self.missing = [id for id in self.missing + sorted(replaced) if id not in ids]


def compare(
    entries: Iterable[Entry],
    listed: Mapping[bytes, ImageFile],
    folders: Collection[bytes],
    unknown: Collection[bytes] = (),
) -> Changes:
    """Compare an index with a listing.

    Parameters
    ----------
    entries : iterable of `Entry`
        What the index has.
    listed : mapping of bytes to ImageFile
        The files that exist, by their paths.
    folders : collection of bytes
        Absolute paths of the roots that the listing covers. What is elsewhere does not change.
    unknown : collection of bytes
        See `datasets.listing.Listing`: what is at or below these paths is not missing.

    Returns
    -------
    Changes
    """
    changes = Changes()
    roots = tuple(os.path.join(folder, b"") for folder in folders)
    # An array, as most of millions of sizes differ.
    sizes = np.unique(np.fromiter((file.size for file in listed.values()), np.int64, len(listed)))

    def is_size_of_listed(size: int) -> bool:
        at = int(np.searchsorted(sizes, size))
        return at < len(sizes) and int(sizes[at]) == size

    for path, state, id in entries:
        file = listed.get(path)
        if file is None:
            is_covered = is_below(path, roots)
            if is_covered and is_unknown(path, unknown):
                changes.kept.add(id)
            elif is_covered:
                changes.missing.append(id)
            if is_size_of_listed(state[0]):
                changes.former.append((path, state, id))
        elif state_of(file) == state:
            # The bytes of the listing, so that those of the index need not be kept.
            changes.unchanged.add(file.path)
        else:
            if path in changes.outdated:
                changes.missing.append(changes.outdated[path])
            changes.outdated[path] = id
            if is_size_of_listed(state[0]):
                changes.former.append((path, state, id))
    # An update that was killed while images exchanged their paths leaves two of one path.
    for path in changes.outdated.keys() & changes.unchanged:
        changes.missing.append(changes.outdated.pop(path))
    return changes


def state_of(file: ImageFile) -> tuple[int, int]:
    """Size and `stored_time` of a file, as an `Entry` has them."""
    return file.size, stored_time(file.mtime_ns)


def is_gone(path: bytes, unmounted: Collection[bytes] = ()) -> bool:
    """Whether a file or folder has been removed or moved away, and not only its disk.

    It is not gone if the system does not say so, at or below a folder whose file system may not be
    mounted (see `roots.unmounted`), and neither if the deepest folder of its path that exists is
    empty, as a folder is that a disk is mounted at. A name that is no absolute path is that of an
    image that was added without a file, and never gone. An object is gone if the storage says so,
    and has something above it: its folder, or its bucket, which may be empty.
    """
    if not is_absolute(path) or is_unknown(path, unmounted):
        return False
    if is_remote(path):
        return _is_no_object(path)
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        if (source := source_of(path)) is not None:
            return _has_lost(source, path)
    except OSError:
        return False
    else:
        return False
    folder = os.path.dirname(path)
    while True:
        try:
            with os.scandir(folder) as entries:
                return next(entries, None) is not None
        except FileNotFoundError:
            # A broken link may lead to a disk that is away.
            if os.path.lexists(folder) or folder == os.path.dirname(folder):
                return False
            folder = os.path.dirname(folder)
        except NotADirectoryError:
            return True
        except OSError:
            return False


def _is_no_object(path: bytes) -> bool:
    """Whether there is nothing at a URL, and something above it."""
    source, is_there = RemoteSource(), False
    while b"/" in path.partition(b"://")[2]:
        try:
            source.is_folder(path)
        except FileNotFoundError:
            path = os.path.dirname(path)
        except OSError:
            return False
        else:
            return is_there
        is_there = True
    try:
        source.is_folder(path)
    except OSError:
        return False
    return is_there


def _has_lost(source: FileSource, path: bytes) -> bool:
    """Whether a source that can be read does not have a file."""
    try:
        source.status(path)
    except FileNotFoundError:
        return True
    except OSError:
        pass
    return False


def is_below(path: bytes, roots: tuple[bytes, ...]) -> bool:
    """Whether a path is one of the roots, given with a slash at their end, or below one of them."""
    return path.startswith(roots) or path + b"/" in roots


def is_unknown(path: bytes, unknown: Collection[bytes]) -> bool:
    """Whether a path is at or below one of the paths that could not be examined."""
    return bool(unknown) and any(folder in unknown for folder in ancestors(path))


def ancestors(path: bytes) -> Iterator[bytes]:
    """A path and all folders above it."""
    yield path
    at = path.rfind(b"/")
    while at > 0:
        yield path[:at]
        at = path.rfind(b"/", 0, at)
    if at == 0 and path != b"/":
        yield b"/"


def stored_time(mtime_ns: int) -> int:
    """The time that an index keeps for the time of the last change of a file.

    64 bits of nanoseconds since 1970 reach from 1677 to 2262. A file system may have other times
    (ext4 up to 2446). They are moved into the first or last 37 minutes of that range, with their
    last 41 bits, so that a changed time is still seen to be another one: all whole seconds within
    136 years differ.

    Parameters
    ----------
    mtime_ns : int
        Nanoseconds since 1970, of any size.

    Returns
    -------
    int
        Nanoseconds since 1970 that a ``datetime64[ns]`` can hold.
    """
    if mtime_ns > _LAST:
        return _LAST - _FOLDED + 1 + mtime_ns % _FOLDED
    if mtime_ns < _FIRST:
        return _FIRST + mtime_ns % _FOLDED
    return mtime_ns
