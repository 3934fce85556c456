"""Files that survive a crash: write aside, fsync, rename, fsync the folder; and checked reads."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from hyperpq.errors import CorruptIndexError, IndexLockedError, StoreError

LOCK_NAME, HOLDER_NAME = ".lock", ".lock-holder"
_HOLDER = re.compile(r"process \d+ on [\w.-]* since [-: \d]+ UTC", re.ASCII)
CHECKED = 1 << 24
"""Bytes of a file that one checksum covers, so that damage can be located."""


@contextmanager
def os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` with the file and the system's reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: can't {action}: {reason}") from error


def temporary_path(path: Path) -> Path:
    """The name beside ``path`` that its next content is written under."""
    return path.with_name(f".{path.name}.tmp")


def fsync_folder(folder: Path, *, sync: bool = True) -> None:
    """Make the names in ``folder`` durable: without it, a rename can be lost in a power cut."""
    if not sync:
        return
    with os_errors("make durable", folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some network file systems can't fsync a folder, and say so.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def write_synced(
    path: Path,
    pieces: Iterable[tuple[int, bytes | np.ndarray]],
    size: int,
    mode: int = 0o666,
    *,
    sync: bool = True,
) -> tuple[str, ...]:
    """Write a new file and fsync it; whatever had its name before is removed first.

    Parameters
    ----------
    path : Path
        Usually a `temporary_path`, to be renamed once it is whole.
    pieces : iterable of (int, bytes or ndarray)
        Offset in the file and content. What no piece covers reads as zeros.
    size : int
        Length of the file in bytes.
    mode : int
        Permissions of the new file, before the umask.
    sync : bool
        False leaves out the fsync: what is written survives a kill, not a power cut.

    Returns
    -------
    tuple of str
        `checksums` of the file as read back.

    Raises
    ------
    StoreError
        If the system refuses (disk full, I/O error, permissions); the partial file is removed.
    """
    try:
        with os_errors("write", path):
            # Never through a file or link that is already there: it could point anywhere.
            with suppress(FileNotFoundError):
                os.unlink(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(path, flags, mode)
            try:
                os.ftruncate(handle, size)
                for offset, data in pieces:
                    _write_all(handle, data, offset)
                if sync:
                    os.fsync(handle)
                return _checksums_of_handle(handle)
            finally:
                os.close(handle)
    except BaseException:
        remove_quietly(path)
        raise


def _write_all(handle: int, data: bytes | np.ndarray, offset: int) -> None:
    if isinstance(data, np.ndarray):
        view = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    else:
        view = memoryview(data)
    while len(view):
        written = os.pwrite(handle, view[: 1 << 28], offset)
        view, offset = view[written:], offset + written


def rename_over(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, replacing what had it, in one step."""
    with os_errors("rename into place", target):
        os.replace(source, target)


def remove_quietly(path: Path) -> None:
    """Remove a file that is only garbage; that it can't be removed doesn't matter."""
    with suppress(OSError):
        os.unlink(path)


def atomic_write(
    path: str | os.PathLike[str], data: bytes, *, alone: bool = False, sync: bool = True
) -> None:
    """Write a whole file or nothing: after a crash ``path`` has the old content or the new.

    Parameters
    ----------
    path : path-like
        The file; replaced if it exists. Its folder must exist.
    data : bytes
        The new content.
    alone : bool
        Whether the caller holds a lock that keeps other writers of ``path`` out. What a kill
        leaves then has a fixed name, and the next write removes it.
    sync : bool
        See `write_synced`.

    Raises
    ------
    StoreError
        If the system refuses; ``path`` is as before, unless only the last step, making the
        folder durable, failed.
    """
    path = Path(path)
    # A name of its own: two writers at once each write a whole file, and the last one stays.
    own = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    aside = temporary_path(path) if alone else own
    write_synced(aside, [(0, data)], len(data), sync=sync)
    try:
        rename_over(aside, path)
    except StoreError:
        remove_quietly(aside)
        raise
    fsync_folder(path.parent, sync=sync)


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the writer lock of an index directory; the kernel frees it if the process dies.

    Raises
    ------
    IndexLockedError
        If another writer holds it; the message says who.
    StoreError
        If the lock file can't be made, as on a read-only file system.
    """
    import filelock

    path, holder = folder / LOCK_NAME, folder / HOLDER_NAME
    lock = filelock.FileLock(path, timeout=0)
    with os_errors("lock", path):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise IndexLockedError(
                f"{folder}: another process is writing to this index{_holder(holder)}; try again "
                "when it has finished. The lock ends with its process; if that has ended and a "
                f"network file system still keeps the lock, remove {path}"
            ) from error
    try:
        _name_holder(holder)
        yield
        remove_quietly(holder)
    finally:
        lock.release()


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
    try:
        text = read_regular(path, limit=1000).decode("ascii", "replace")
    except StoreError:
        return ""
    return f" ({text})" if _HOLDER.fullmatch(text) else ""


@contextmanager
def open_regular(path: Path, size: int | None = None) -> Iterator[int]:
    """Open a file of an index for reading and give its descriptor.

    Links, pipes and devices are refused, because an index from a stranger may hold them.

    Parameters
    ----------
    path : Path
        The file.
    size : int or None
        Length in bytes that it must have, checked before anything is read.

    Raises
    ------
    CorruptIndexError
        If it is missing, isn't a regular file, or has another length.
    StoreError
        If the system refuses to open it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os_errors("read", path):
        try:
            handle = os.open(path, flags)
        except FileNotFoundError as error:
            raise CorruptIndexError(f"{path}: this file of the index is missing") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise _not_regular(path) from error
            raise
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(path)
            if size is not None and status.st_size != size:
                raise CorruptIndexError(
                    f"{path}: {status.st_size} bytes long, the manifest says {size}; "
                    "the file is torn or altered"
                )
            yield handle
        finally:
            os.close(handle)


def _not_regular(path: Path) -> CorruptIndexError:
    return CorruptIndexError(f"{path}: not a regular file; an index holds no links or devices")


def read_regular(path: Path, size: int | None = None, limit: int | None = None) -> bytes:
    """Read a whole file of an index; see `open_regular`. ``limit`` refuses a longer one."""
    with open_regular(path, size) as handle, os_errors("read", path):
        length = os.fstat(handle).st_size
        if limit is not None and length > limit:
            raise CorruptIndexError(f"{path}: {length} bytes long, at most {limit} expected")
        return read_handle(handle, length)


def read_handle(handle: int, length: int) -> bytes:
    """Read the first ``length`` bytes of a file, or all if it has become shorter."""
    blocks, offset = [], 0
    while offset < length and (block := os.pread(handle, length - offset, offset)):
        blocks.append(block)
        offset += len(block)
    return b"".join(blocks)


def checksum(data: bytes) -> str:
    """XXH3-128 of ``data``, 32 hexadecimal digits."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)


def checksums(data: bytes) -> tuple[str, ...]:
    """XXH3-128 of each `CHECKED` bytes of ``data``, at least one."""
    starts = range(0, max(len(data), 1), CHECKED)
    return tuple(checksum(data[start : start + CHECKED]) for start in starts)


def checksums_of_file(path: Path, size: int) -> tuple[str, ...]:
    """`checksums` of a file that must be ``size`` bytes long, read block by block."""
    with open_regular(path, size) as handle, os_errors("read", path):
        return _checksums_of_handle(handle)


def _checksums_of_handle(handle: int) -> tuple[str, ...]:
    import xxhash

    out, offset, state = [], 0, xxhash.xxh3_128()
    # Whole pieces are read in quarters, so that a file takes little memory.
    while block := os.pread(handle, min(CHECKED // 4, CHECKED - offset % CHECKED), offset):
        state.update(block)
        offset += len(block)
        if offset % CHECKED == 0:
            out.append(state.hexdigest())
            state.reset()
    if offset % CHECKED or not out:
        out.append(state.hexdigest())
    return tuple(out)
