"""Putting one index directory in the place of another, whatever interrupts it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperpq.errors import IndexNotFoundError, StoreError
from hyperpq.store.manifest import MANIFEST_NAME
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.verify import foreign_files
from hyperpq.utils.files import fsync_folder, os_errors, writer_lock

FORMER_SUFFIX = ".old-hyperpq"


def replace_directory(new: str | os.PathLike[str], old: str | os.PathLike[str]) -> None:
    """Put the index ``new`` in the place of ``old``, which may exist, and remove the former.

    ``old`` steps aside as ``old.old-hyperpq``, ``new`` takes its name, the former is removed.
    After a crash in between, `recover_directory` undoes or finishes.

    Parameters
    ----------
    new : path-like
        A complete index directory beside ``old``, on the same file system.
    old : path-like
        The place. What is there must be an index, an empty folder or nothing.

    Raises
    ------
    StoreError
        If ``old`` holds files that are no part of an index (they would be lost), or if the
        system refuses; ``old`` is then as before.
    IndexLockedError
        If another process is writing to ``old``.
    """
    # A link keeps its place: its target is what steps aside.
    new, old = Path(os.path.abspath(new)), Path(os.path.realpath(old))
    read_manifest(new)
    with _folder_lock(old.parent):
        _recover(old)
        former = _former(old)
        if os.path.lexists(former):
            raise StoreError(f"{former}: left by an earlier replacement and in the way; remove it")
        if not os.path.lexists(old) or _is_empty_folder(old):
            with os_errors("rename into place", old):
                os.rename(new, old)
            fsync_folder(old.parent)
            return
        try:
            foreign = foreign_files(old, read_manifest(old))
        except IndexNotFoundError:
            raise StoreError(
                f"{old}: neither an index nor an empty folder, so nothing replaces it"
            ) from None
        if foreign:
            raise StoreError(
                f"{old}: holds {foreign[0]!r}, which is no part of the index and would be lost; "
                "move it away first"
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
    # Before anything of the former is removed, its successor must be there for good.
    fsync_folder(old.parent)


def recover_directory(old: str | os.PathLike[str]) -> None:
    """Undo or finish a replacement of ``old`` that was interrupted; does nothing otherwise.

    If ``old`` is missing, its former content gets its name back. If it is an index, the former
    content is removed; that this may fail on a read-only file system doesn't matter.

    Raises
    ------
    StoreError
        If ``old`` is missing and the system refuses to rename the former content back.
    """
    old = Path(os.path.realpath(old))
    if os.path.lexists(_former(old)):
        with _folder_lock(old.parent):
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


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Keep other replacements and recoveries in ``folder`` out; needs no file of its own."""
    with os_errors("open", folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems can't lock a folder; a replacement there is then alone at its
        # own risk, and still recoverable.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
