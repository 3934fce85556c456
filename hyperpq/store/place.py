"""Where an index may lie: which folder is read, and where a new index for its place is made.

Mostly a new index is made beside its place and renamed. A folder cannot be renamed if it is a mount
point, such as the volume of a container, or if the folder above it cannot be written; and if it is
the current directory, the shell would be left in the folder that is removed. Then the new index is
made inside the folder, and `swap.replace_directory` publishes it by the manifest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperpq.errors import StoreError
from hyperpq.store.leftovers import UNPUBLISHED_NAME, unpublished_names
from hyperpq.store.lock import HOLDER_NAME, LOCK_NAME
from hyperpq.store.manifest import FOLDERS, FORMAT, MANIFEST_NAME
from hyperpq.utils.files import os_errors

FORMER_SUFFIX = ".old-hyperpq"
BUILDING, DISCARDED, SAVING = ".building", ".building-done", ".saving-hyperpq"
FINETUNING, FINETUNED, PULLING = ".finetuning", ".finetuning-done", ".pulling-hyperpq"
WORKING_SUFFIXES = (BUILDING, DISCARDED, SAVING, FINETUNING, FINETUNED, PULLING)
"""Endings of working directories; inside a place they are the whole name."""
LOST_AND_FOUND = "lost+found"
"""A folder that file systems have at their top, and that is no part of what a user puts there."""
# Keys are sorted, and before this one there are only the names of a few files.
_FORMAT = re.compile(rb'"format"\s*:\s*"%s"' % FORMAT.encode())
_HEAD = 1 << 16
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Place:
    """The place of an index, which may not exist yet, and how a new index gets there.

    Attributes
    ----------
    path : Path
        The directory of the index, without links.
    inside : bool
        Whether a new index is made inside the directory, because it must not be renamed.
    """

    path: Path
    inside: bool

    def working_directory(self, suffix: str) -> Path:
        """Where a new index is made: ``INDEX.building`` or ``INDEX/.building``, for example.

        Parameters
        ----------
        suffix : str
            One of `WORKING_SUFFIXES`.

        Returns
        -------
        Path
            On the file system of the place, if that exists. If there is a directory that was begun
            where `inside` was another one, it is that.
        """
        places = [self.path.with_name(self.path.name + suffix), self.path / suffix]
        wanted, other = reversed(places) if self.inside else places
        return other if os.path.isdir(other) and not os.path.isdir(wanted) else wanted

    def is_free(self) -> bool:
        """Whether there is nothing in the place that would be in the way of an index.

        The folder may hold the lock, empty folders of an index beside it, working directories, what
        an interrupted `swap.replace_directory` has left, and the folder ``lost+found`` of a file
        system. A place whose index stands aside during a replacement is not free.

        Raises
        ------
        StoreError
            If it is a file, or the system refuses to list it.
        """
        return not self._in_the_way()

    def check_free(self, begun: Iterable[str] = ()) -> None:
        """Raise `StoreError` unless the place is free; the message says what is in the way.

        Parameters
        ----------
        begun : iterable of str
            Names of files that may be in the place beside a lock, as an interrupted
            `IndexStore.create` with these files leaves them.
        """
        if names := self._in_the_way(begun):
            what = "already an index" if MANIFEST_NAME in names else f"not empty ({min(names)})"
            raise StoreError(
                f"{self.path}: the folder is {what}; choose another place or remove it first."
            )

    def _in_the_way(self, begun: Iterable[str] = ()) -> set[str]:
        whole = whole_directory(self.path)
        if not os.path.lexists(whole):
            return set()
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(
                f"{self.path}: this is a file, and an index is a folder; choose another place."
            )
        with os_errors("list", whole):
            names = set(os.listdir(whole))
            folders = [name for name in FOLDERS if os.path.isdir(whole / name)]
            empty = [name for name in folders if not os.listdir(whole / name)]
        if MANIFEST_NAME not in names:
            unpublished = unpublished_names(whole)
            if unpublished is not None:
                names -= {UNPUBLISHED_NAME, *unpublished, *FOLDERS}
            elif LOCK_NAME in names:
                names -= {*begun, *empty}
        names -= {LOCK_NAME, HOLDER_NAME, LOST_AND_FOUND, *WORKING_SUFFIXES}
        return {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}


def find_place(path: str | os.PathLike[str]) -> Place:
    """Decide, before any work, where a new index for a place is made and how it gets there.

    Nothing is made or changed.

    Parameters
    ----------
    path : path-like
        The directory of the index, or where it will be. A link stays, and its target is meant.

    Returns
    -------
    Place

    Raises
    ------
    StoreError
        If neither the directory nor the folder above it can be written, a link leads to a folder
        that does not exist, or the system refuses to look there.
    """
    place = Path(os.path.realpath(path))
    with os_errors("look into", place):
        try:
            status = os.stat(place)
        except FileNotFoundError:
            _check_links(Path(os.path.abspath(path)))
            return Place(place, inside=False)
        if not stat.S_ISDIR(status.st_mode) or _can_be_renamed(place, status):
            return Place(place, inside=False)
    if not _is_writable(place):
        raise StoreError(
            f"{place}: neither this folder nor the one above it can be written; get the right to "
            "write to one of them, or choose another place."
        )
    return Place(place, inside=True)


def _check_links(path: Path) -> None:
    """Refuse a link to a folder that does not exist: that may be on a disk that is not mounted.

    Of the last link the target may be missing, as an index that is not there yet is, but not the
    folder above it.
    """
    for link in (path, *path.parents):
        if not link.is_symlink():
            continue
        target = Path(os.path.realpath(link))
        if not os.path.lexists(target.parent if link == path else target):
            raise StoreError(
                f"{link}: the link leads to {target}, which does not exist; check that its disk "
                "is mounted, or remove the link."
            )


def _can_be_renamed(folder: Path, status: os.stat_result) -> bool:
    parent = os.stat(folder.parent)
    is_mine = os.geteuid() in (0, status.st_uid, parent.st_uid)
    return (
        _is_writable(folder.parent)
        and (is_mine or not parent.st_mode & stat.S_ISVTX)
        and not _is_current(folder)
        and not _is_mount_point(folder)
    )


def _is_writable(folder: Path) -> bool:
    return os.access(
        folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
    )


def _is_current(folder: Path) -> bool:
    """Whether the current directory of this process lies in a folder."""
    try:
        return Path(os.getcwd()).is_relative_to(folder)
    except FileNotFoundError:
        return False


def _is_mount_point(folder: Path) -> bool:
    if os.path.ismount(folder):
        return True
    # A folder that is mounted from the same file system shows only in the list of the system.
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return False
    mounted = (line.split()[4] for line in lines)
    return any(_OCTAL.sub(_character, name) == os.fsencode(folder) for name in mounted)


def _character(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])


def former_of(place: Path) -> Path:
    """Where `swap.replace_directory` keeps the former index of a place, given without links."""
    return place.with_name(place.name + FORMER_SUFFIX)


def holds_index(folder: bytes) -> bool:
    """Whether a folder has a manifest of an index of hyperpq; False if that cannot be read."""
    try:
        # A pipe of that name is not waited for.
        descriptor = os.open(
            os.path.join(folder, MANIFEST_NAME.encode()), os.O_RDONLY | os.O_NONBLOCK
        )
        try:
            return _FORMAT.search(os.read(descriptor, _HEAD)) is not None
        finally:
            os.close(descriptor)
    except OSError:
        return False


def is_vacant(place: Path) -> bool:
    """Whether a place is missing or an empty folder, as an interrupted replacement leaves it.

    Raises
    ------
    StoreError
        If the system refuses to list the folder.
    """
    if not os.path.lexists(place):
        return True
    with os_errors("list", place):
        return place.is_dir() and next(place.iterdir(), None) is None


def whole_directory(path: Path) -> Path:
    """The folder to read for the index ``path``; nothing is changed.

    Between the two renames of `swap.replace_directory` the place is vacant, and the former index
    beside it is the one that is whole.
    """
    if not os.path.lexists(path / MANIFEST_NAME):
        real = Path(os.path.realpath(path))
        former = former_of(real)
        if os.path.lexists(former / MANIFEST_NAME) and is_vacant(real):
            return former
    return path
