"""Replacing one index directory by another, whatever interrupts that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hyperpq.errors import IndexNotFoundError, StoreError
from hyperpq.store.lock import folder_lock, writer_lock
from hyperpq.store.manifest import MANIFEST_NAME
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.verify import foreign_files
from hyperpq.utils.files import fsync_folder, os_errors

FORMER_SUFFIX = ".old-hyperpq"


def replace_directory(new: str | os.PathLike[str], old: str | os.PathLike[str]) -> None:
    """Put the index ``new`` in the place of ``old``, which may exist, and remove the former index.

    First ``old`` is renamed to ``old.old-hyperpq``, then ``new`` gets its name, then the former
    index is removed. After a crash in between, `recover_directory` undoes or finishes that.

    Parameters
    ----------
    new : path-like
        A complete index directory beside ``old``, on the same file system.
    old : path-like
        The place. It must hold an index, be an empty folder, or not exist.

    Raises
    ------
    StoreError
        If ``old`` holds files that do not belong to an index and would be lost, or if the system
        refuses; ``old`` is then as before.
    IndexLockedError
        If another process is writing to ``old``.
    """
    # A link stays, and its target is replaced.
    new, old = Path(os.path.abspath(new)), Path(os.path.realpath(old))
    read_manifest(new)
    with folder_lock(old.parent):
        _recover(old)
        former = _former(old)
        if os.path.lexists(former):
            raise StoreError(
                f"{former}: this folder, left by an earlier replacement, is in the way; remove it."
            )
        if not os.path.lexists(old) or _is_empty_folder(old):
            with os_errors("rename into place", old):
                os.rename(new, old)
            fsync_folder(old.parent)
            return
        try:
            foreign = foreign_files(old, read_manifest(old))
        except IndexNotFoundError:
            raise StoreError(
                f"{old}: this is neither an index nor an empty folder; give another place."
            ) from None
        if foreign:
            raise StoreError(
                f"{old}: the folder has {foreign[0]!r}, which is no part of the index and would be "
                "lost; move it away first."
            )
        with writer_lock(old):
            _swap(new, old, former)
        shutil.rmtree(former, ignore_errors=True)


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


def recover_directory(old: str | os.PathLike[str]) -> None:
    """Undo or finish a replacement of ``old`` that was interrupted, if there was one.

    If ``old`` is missing, the former index gets its name back. If ``old`` is an index, the former
    one is removed; it does not matter if that fails, as on a read-only file system.

    Raises
    ------
    StoreError
        If ``old`` is missing and the system refuses to rename the former index back.
    """
    old = Path(os.path.realpath(old))
    if os.path.lexists(_former(old)):
        with folder_lock(old.parent):
            _recover(old)


def _recover(old: Path) -> None:
    former = _former(old)
    if not os.path.lexists(former):
        return
    if not os.path.lexists(old) or _is_empty_folder(old):
        with os_errors(f"bring back after an interrupted replacement, from {former.name}", old):
            os.rename(former, old)
            fsync_folder(old.parent)
    elif os.path.lexists(old / MANIFEST_NAME):
        shutil.rmtree(former, ignore_errors=True)


def _former(old: Path) -> Path:
    return old.with_name(old.name + FORMER_SUFFIX)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None
