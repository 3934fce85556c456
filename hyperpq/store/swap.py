"""Replacing one index directory by another, whatever interrupts that."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from hyperpq.errors import IndexNotFoundError, StoreError
from hyperpq.store.lock import folder_lock, writer_lock
from hyperpq.store.manifest import MANIFEST_NAME, Manifest
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.place import (
    BUILDING,
    DISCARDED,
    FINETUNED,
    SAVING,
    Place,
    find_place,
    former_of,
    is_vacant,
)
from hyperpq.store.publish import publish_inside
from hyperpq.store.verify import foreign_files
from hyperpq.utils.files import fsync_folder, os_errors

# Why a folder cannot be renamed although files can be made in it: it is a mount point, it comes
# from the image of a container, or the folder above it cannot be written.
_NOT_RENAMED = frozenset((errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES))

_PUBLISHED = ".published-hyperpq"
# Folders in an index that were renamed so in order to be removed.
_DONE = (DISCARDED, BUILDING + _PUBLISHED, FINETUNED)


def replace_directory(
    new: str | os.PathLike[str], old: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Put the index ``new`` in the place of ``old``, which may exist, and remove the former index.

    First ``old`` is renamed to ``old.old-hyperpq``, then ``new`` gets its name, then the former
    index is removed. After a crash in between, `recover_directory` undoes or finishes that.

    Where that cannot be, see `find_place`, the files of ``new`` are linked into ``old`` beside its
    own, the manifest is replaced, and the former files are removed. After a crash in between
    ``old`` is one of the two indexes, and this function can be called again.

    Parameters
    ----------
    new : path-like
        A complete index directory, mostly in `Place.working_directory`. It is gone afterwards.
    old : path-like
        The place. It must hold an index, be free, or not exist.
    overwrite : bool
        False refuses to replace an index.

    Raises
    ------
    StoreError
        If there is an index and ``overwrite`` is False, if ``old`` holds files that do not belong
        to an index and would be lost, or if the system refuses; ``old`` is then as before.
    IndexLockedError
        If another process is writing to ``old``.
    """
    # A link stays, and its target is replaced.
    new, place = Path(os.path.realpath(new)), find_place(old)
    read_manifest(new)
    recover_directory(place.path)
    try:
        if _can_be_renamed(new, place):
            _replace_by_name(new, place, overwrite=overwrite)
            return
    except StoreError as error:
        if error.errno not in _NOT_RENAMED or not place.path.is_dir():
            raise
    if not place.is_free():
        _check_is_index(place)
    publish_inside(new, place, overwrite=overwrite)
    _remove(new)


def check_replaceable(new: str | os.PathLike[str], old: str | os.PathLike[str]) -> None:
    """Raise, before any work, if `replace_directory` would refuse because of what is in ``old``.

    Parameters
    ----------
    new : path-like
        Where the new index will be made; it need not exist.
    old : path-like
        The place.

    Raises
    ------
    StoreError
        If ``old`` holds anything but an index, or files that would be lost with it.
    CorruptIndexError
        If the manifest of the index in it is torn or altered.
    """
    place = find_place(old)
    if _can_be_renamed(Path(os.path.realpath(new)), place):
        if not is_vacant(place.path):
            _check_holds_only_an_index(place)
    elif not place.is_free():
        _check_is_index(place)


def _can_be_renamed(new: Path, place: Place) -> bool:
    if place.inside or new.is_relative_to(place.path):
        return False
    # What a free folder may hold, such as a lock, would be in the way of the new name.
    return is_vacant(place.path) or not place.is_free()


def _replace_by_name(new: Path, place: Place, *, overwrite: bool) -> None:
    old = place.path
    with folder_lock(old.parent):
        _recover(old)
        if not overwrite:
            place.check_free()
        former = former_of(old)
        if os.path.lexists(former):
            raise StoreError(
                f"{former}: this folder, left by an earlier replacement, is in the way; remove it."
            )
        if is_vacant(old):
            with os_errors("rename into place", old):
                os.rename(new, old)
            fsync_folder(old.parent)
            return
        _check_holds_only_an_index(place)
        with writer_lock(old):
            _swap(new, old, former)
        shutil.rmtree(former, ignore_errors=True)


def _check_is_index(place: Place) -> Manifest:
    try:
        return read_manifest(place.path)
    except IndexNotFoundError:
        place.check_free()
        raise


def _check_holds_only_an_index(place: Place) -> None:
    if foreign := foreign_files(place.path, _check_is_index(place)):
        raise StoreError(
            f"{place.path}: the folder has {foreign[0]!r}, which is no part of the index and would "
            "be lost; move it away first."
        )


def _swap(new: Path, old: Path, former: Path) -> None:
    with os_errors("move aside", old):
        os.rename(old, former)
    try:
        with os_errors("rename into place", old):
            os.rename(new, old)
    except BaseException:
        with os_errors("rename back", old):
            os.rename(former, old)
        raise
    # Before anything of the former index is removed, the new one must be durable.
    fsync_folder(old.parent)


def _remove(folder: Path) -> None:
    """Remove a folder in one step, so that half of an index is not taken for one."""
    aside = folder.with_name(folder.name + _PUBLISHED)
    shutil.rmtree(aside, ignore_errors=True)
    with os_errors("remove", folder):
        os.rename(folder, aside)
    # A power cut must not undo the rename and keep the removals.
    fsync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_directory(old: str | os.PathLike[str]) -> None:
    """Undo or finish a replacement of ``old`` that was interrupted, if there was one.

    Every writer does this before it changes an index; readers read what is whole, and change
    nothing. If ``old`` is missing or an empty folder, the former index gets its name back. If
    ``old`` is an index, the former one is removed, and so are working directories in it that nobody
    needs any more; it does not matter if that fails.

    Raises
    ------
    StoreError
        If the system refuses to look into ``old``, or to rename the former index back to it.
    """
    old = Path(os.path.realpath(old))
    if os.path.lexists(former_of(old)):
        with folder_lock(old.parent):
            _recover(old)
    _remove_abandoned(old)


def _remove_abandoned(old: Path) -> None:
    """Remove what a killed build or save has left inside an index; a build can be resumed."""
    if not os.path.lexists(old / MANIFEST_NAME):
        return
    for name in _DONE:
        _remove_folder(old / name)
    saving = old / SAVING
    if saving.is_dir() and not saving.is_symlink():
        # Whoever saves holds this lock. The rename keeps a save that begins now out of the removal.
        with suppress(StoreError, OSError), writer_lock(saving):
            os.rename(saving, old / _DONE[0])
        _remove_folder(old / _DONE[0])


def _remove_folder(folder: Path) -> None:
    if os.path.lexists(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _recover(old: Path) -> None:
    former = former_of(old)
    if not os.path.lexists(former):
        return
    if is_vacant(old):
        with os_errors(f"bring back after an interrupted replacement, from {former.name}", old):
            os.rename(former, old)
            fsync_folder(old.parent)
    elif os.path.lexists(old / MANIFEST_NAME):
        # The new name may not be durable: who gave it was killed.
        with suppress(StoreError):
            fsync_folder(old.parent)
            shutil.rmtree(former, ignore_errors=True)
