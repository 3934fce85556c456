"""How an index of images differs from a listing of folders, and what of it may be removed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from hyperpq.datasets.folder import ImageFile
from hyperpq.errors import CorruptIndexError
from hyperpq.store import Categories
from hyperpq.store.columns import TIME

if TYPE_CHECKING:
    from hyperpq.index import collection as index_collection

Entry: TypeAlias = tuple[bytes, tuple[int, int], int]
"""Path, (size, `stored_time`) and id of an image in an index."""

_FIRST, _LAST = -(2**63) + 1, 2**63 - 1  # -2**63 is a missing time
_FOLDED = 2**41


def entries(collection: index_collection.Collection) -> Iterator[Entry]:
    """Path, (size, `stored_time`) and id of every image in the rows of an index.

    Raises
    ------
    CorruptIndexError
        If the rows have no such columns.
    """
    for rows in collection.view().batches():
        paths, sizes, times = rows.paths, rows.attribute("size"), rows.attribute("mtime")
        if (
            paths is None
            or isinstance(sizes, Categories)
            or isinstance(times, Categories)
            or sizes.dtype.kind != "i"
            or times.dtype != TIME
        ):
            raise CorruptIndexError(
                f"{collection.path} has no path, no whole number size or no time mtime for "
                "each image; it was not written by hyperpq, so do not trust its source."
            )
        columns = sizes.tolist(), times.view(np.int64).tolist(), rows.ids.tolist()
        for path, size, time, id in zip(paths, *columns, strict=True):
            yield path, (size, time), id


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
    kept : int
        Number of images that are not listed but may still be there.
    """

    unchanged: set[bytes] = field(default_factory=set)
    outdated: dict[bytes, int] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    kept: int = 0


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
        See `datasets.folder.Listing`: what is at or below these paths is not missing.

    Returns
    -------
    Changes
    """
    changes = Changes()
    roots = tuple(os.path.join(folder, b"") for folder in folders)
    for path, state, id in entries:
        file = listed.get(path)
        if file is None:
            if not is_below(path, roots):
                continue
            if is_unknown(path, unknown):
                changes.kept += 1
            else:
                changes.missing.append(id)
        elif (file.size, stored_time(file.mtime_ns)) == state:
            changes.unchanged.add(path)
        else:
            changes.outdated[path] = id
    return changes


def is_below(path: bytes, roots: tuple[bytes, ...]) -> bool:
    """Whether a path is one of the roots, given with a slash at their end, or below one of them."""
    return path.startswith(roots) or path + b"/" in roots


def is_unknown(path: bytes, unknown: Collection[bytes]) -> bool:
    """Whether a path is at or below one of the paths that could not be examined."""
    if not unknown:
        return False
    if path in unknown:
        return True
    at = path.rfind(b"/")
    while at > 0:
        if path[:at] in unknown:
            return True
        at = path.rfind(b"/", 0, at)
    return b"/" in unknown


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
