"""Locks of index directories; the kernel frees them when their process ends, however it ends.

Everything here is `fcntl.flock`: it works on folders too and leaves nothing behind after a kill.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import random
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from hyperpq.errors import IndexLockedError, StoreError
from hyperpq.utils.files import make_folder, os_errors, read_regular, remove_quietly

LOCK_NAME, HOLDER_NAME = ".lock", ".lock-holder"
_HOLDER = re.compile(r"process \d+ on [\w.-]* since [-: \d]+ UTC", re.ASCII)
# Some file systems report EACCES where another process holds the lock.
_TAKEN = frozenset((errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK))
# Seconds between two tries while another writer holds the lock, at most. Between two small commits
# of a busy writer the lock is free for a millisecond only: of four writers one waited up to 3.8 s
# with pauses of 0.1 s, and 1.7 s with these.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.02


@contextmanager
def writer_lock(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the writer lock of an index directory.

    The lock belongs to the open file, so that two threads of one process keep each other out as
    two processes do. A forked child does not hold the lock of its parent.

    Parameters
    ----------
    folder : Path
        The directory; the lock file in it is made if it is missing, and stays.
    wait : float
        Seconds to wait for another writer to finish. An interrupt ends the wait at once.

    Raises
    ------
    IndexLockedError
        If another writer still holds the lock after that; the message says who.
    StoreError
        If the file system refuses: it is read-only, or has no locks, as some network file systems.
    """
    path, holder = folder / LOCK_NAME, folder / HOLDER_NAME
    with os_errors("lock", path):
        handle = _locked_within(path, wait)
    if handle is None:
        waited = f", and has not finished within {wait:g} s" if wait > 0 else ""
        raise IndexLockedError(
            f"{folder}: another process is writing to this index{_holder(holder)}{waited}; try "
            "again when it has finished, or, if that process has ended and a network file system "
            f"still keeps its lock, remove {path}."
        )
    owner = os.getpid()
    with _kept(handle):
        try:
            _name_holder(holder)
            yield
        finally:
            if os.getpid() == owner:
                remove_quietly(holder)


@contextmanager
def working_folder(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Make a working directory, hold its lock, and remove the directory if it is empty then.

    What the block leaves in the directory stays there with it. The lock is in the directory that
    is removed, so nothing else may remove it: another process may have locked a new file there, and
    then the directory is not empty.

    Parameters
    ----------
    folder : Path
        The directory; it may exist.
    wait : float
        See `writer_lock`.

    Raises
    ------
    IndexLockedError, StoreError
        As `writer_lock`, or if the directory cannot be made.
    """
    owner = os.getpid()
    make_folder(folder.parent)
    with ExitStack() as lock:
        while True:
            with os_errors("create", folder), suppress(FileExistsError):
                os.mkdir(folder)
            try:
                lock.enter_context(writer_lock(folder, wait=wait))
                break
            except StoreError as error:
                # Who held the lock has removed the directory meanwhile.
                if error.errno != errno.ENOENT or folder.is_symlink():
                    raise
        try:
            yield
        finally:
            if os.getpid() == owner:
                remove_quietly(folder / HOLDER_NAME)
                remove_quietly(folder / LOCK_NAME)
                with suppress(OSError):
                    os.rmdir(folder)


# Descriptors of the locks that this process holds.
_held: set[int] = set()


def _close_inherited() -> None:
    """Leave the locks to the parent: a child that lives on would hold them as long."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_inherited)


@contextmanager
def _kept(handle: int) -> Iterator[None]:
    """Free the lock of a descriptor and close it at the end; a forked child has closed it."""
    owner = os.getpid()
    _held.add(handle)
    try:
        yield
    finally:
        if os.getpid() == owner:
            _held.discard(handle)
            # To close it is not enough if another thread forked before it was noted as held.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def _locked_within(path: Path, wait: float) -> int | None:
    """As `_locked`, tried again for ``wait`` seconds.

    The system's own wait for a lock knows no limit, and a signal that ends it can come too early.
    """
    end, pause = time.monotonic() + wait, _FIRST_PAUSE
    while (handle := _locked(path)) is None:
        left = end - time.monotonic()
        if left <= 0:
            return None
        # Not in step with other waiting writers.
        time.sleep(min(pause * random.uniform(0.5, 1), left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return handle


def _locked(path: Path) -> int | None:
    """Descriptor of the locked file, or None if another one holds the lock."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _has_name(handle, path):
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in _TAKEN:
                return None
            raise
        # The file was removed after it had been opened: another writer may lock the next one.
        os.close(handle)


def _has_name(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _name_holder(path: Path) -> None:
    """Say who holds the lock. Only a message depends on it, so it may fail."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    # The lock keeps others out, and a name beside it is never a way out of the folder.
    remove_quietly(path)
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(path, flags, 0o666)
        try:
            os.write(handle, f"process {os.getpid()} on {platform.node()} since {now} UTC".encode())
        finally:
            os.close(handle)


def _holder(path: Path) -> str:
    """Who holds the lock, in parentheses; nothing if that is not known."""
    try:
        text = read_regular(path, limit=1000).decode("ascii", "replace")
    except StoreError:
        return ""
    return f" ({text})" if _HOLDER.fullmatch(text) else ""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder itself and hold it; no file is made for it.

    A forked child does not hold the lock of its parent.

    Where the file system cannot lock a folder, as some network file systems, the block runs
    without a lock.

    Raises
    ------
    StoreError
        If the folder cannot be opened.
    """
    with os_errors("open", folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with _kept(handle):
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
