"""Files that survive a crash, and files from strangers: durable writing and checked reading.

A file is written under a temporary name, synced, renamed into place, and then its folder is synced.
What is read must be a regular file of the expected length; checksums are XXH3-128.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hyperpq.errors import CorruptIndexError, StoreError

CHECKSUM_BLOCK = 1 << 24
"""Bytes of a file that one checksum covers, so that damage can be located."""
_MAX_WRITE = 1 << 28  # bytes handed to the system at once


@contextmanager
def os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` with the file and the system's reason.

    Parameters
    ----------
    action : str
        What the block does, an infinitive such as ``"write"``.
    path : Path
        What it does that to.

    Raises
    ------
    StoreError
        With the ``errno`` of the system's error. A `StoreError` of the block stays as it is.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        refused = StoreError(f"{path}: cannot {action}: {error.strerror or error}.")
        refused.errno = error.errno
        raise refused from error


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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; it may exist.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    with os_errors("create", folder):
        made = [missing for missing in (folder, *folder.parents) if not missing.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    for new in made:
        fsync_folder(new.parent)


def write_synced(
    path: Path,
    blocks: Iterable[tuple[int, bytes | np.ndarray]],
    size: int,
    mode: int = 0o666,
    *,
    sync: bool = True,
) -> tuple[str, ...]:
    """Write a new file and fsync it; a file that had its name before is removed first.

    Parameters
    ----------
    path : Path
        Usually a `temporary_path`, to be renamed once the file is whole.
    blocks : iterable of (int, bytes or ndarray)
        Offset in the file and content. Bytes that no block covers read as zeros.
    size : int
        Length of the file in bytes.
    mode : int
        Permissions of the new file, before the umask.
    sync : bool
        False leaves out the fsync: the file then survives a kill, but not a power cut.

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
                for offset, data in blocks:
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
        written = os.pwrite(handle, view[:_MAX_WRITE], offset)
        view, offset = view[written:], offset + written


def rename_over(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, replacing what had it, in one step.

    Raises
    ------
    StoreError
        If the system refuses, or ``target`` is a device, a pipe or a socket.
    """
    with os_errors("rename into place", target), suppress(FileNotFoundError):
        mode = os.lstat(target).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            raise StoreError(
                f"{target} is a device, a pipe or a socket; expected the name of a regular file."
            )
    with os_errors("rename into place", target):
        os.replace(source, target)


def remove_quietly(path: Path) -> None:
    """Remove a file that is only garbage; it does not matter if that fails."""
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
        Whether the caller holds a lock that keeps other writers of ``path`` out. The temporary
        file then has a fixed name, so that the next write removes what a kill has left.
    sync : bool
        See `write_synced`.

    Raises
    ------
    StoreError
        If the system refuses; ``path`` is then as before, unless only the last step, making the
        folder durable, failed.
    """
    path = Path(path)
    # With a name of its own, each of two writers writes a whole file, and the last one stays.
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
def open_regular(path: Path, size: int | None = None) -> Iterator[int]:
    """Open a file of an index for reading and yield its descriptor.

    Links, pipes and devices are refused, because an index from a stranger may hold them.

    Parameters
    ----------
    path : Path
        The file.
    size : int or None
        Length in bytes that the file must have, checked before anything is read.

    Raises
    ------
    CorruptIndexError
        If the file is missing, is not a regular file, or has another length.
    StoreError
        If the system refuses to open it.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os_errors("read", path):
        try:
            handle = os.open(path, flags)
        except FileNotFoundError as error:
            raise missing_file(path) from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise irregular_file(path) from error
            raise
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise irregular_file(path)
            if size is not None and status.st_size != size:
                raise wrong_length(path, status.st_size, size)
            yield handle
        finally:
            os.close(handle)


def missing_file(path: Path) -> CorruptIndexError:
    """The error for a file that an index names and does not have."""
    return CorruptIndexError(
        f"{path}: this file of the index is missing; restore it from a copy or build the index "
        "again."
    )


def irregular_file(path: Path) -> CorruptIndexError:
    """The error for a link, a folder or a device in the place of a file."""
    return CorruptIndexError(
        f"{path}: this is not a regular file; an index holds no links or devices, so do not trust "
        "its source."
    )


def wrong_length(path: Path, found: int, expected: int) -> CorruptIndexError:
    """The error for a file with another length than the manifest says."""
    return torn_file(path, f"the file has {found} bytes; the manifest says {expected}")


def torn_file(path: Path | str, what: str) -> CorruptIndexError:
    """The error for a file with other content than it was written with."""
    return CorruptIndexError(
        f"{path}: {what}; the file is torn or altered, so restore it from a copy or build the "
        "index again."
    )


def read_regular(path: Path, size: int | None = None, limit: int | None = None) -> bytes:
    """Read a whole file of an index; see `open_regular`.

    Parameters
    ----------
    path : Path
        The file.
    size : int or None
        Length in bytes that the file must have.
    limit : int or None
        Length in bytes above which the file is refused.

    Returns
    -------
    bytes

    Raises
    ------
    CorruptIndexError, StoreError
        As `open_regular`; a file above the limit is corrupt.
    """
    with open_regular(path, size) as handle, os_errors("read", path):
        length = os.fstat(handle).st_size
        if limit is not None and length > limit:
            raise torn_file(path, f"the file has {length} bytes; expected at most {limit}")
        return read_handle(handle, length)


def read_checked(path: Path, size: int, expected: tuple[str, ...]) -> bytes:
    """Read a whole file of an index and compare its length and its checksums.

    Parameters
    ----------
    path : Path
        The file.
    size : int
        Length in bytes that it must have.
    expected : tuple of str
        The `checksums` that it must have.

    Returns
    -------
    bytes

    Raises
    ------
    CorruptIndexError, StoreError
        As `open_regular`; a file with other checksums is corrupt.
    """
    data = read_regular(path, size)
    if checksums(data) != expected:
        raise torn_file(path, "the checksum is wrong")
    return data


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
    """XXH3-128 of each `CHECKSUM_BLOCK` bytes of ``data``, at least one."""
    starts = range(0, max(len(data), 1), CHECKSUM_BLOCK)
    return tuple(checksum(data[start : start + CHECKSUM_BLOCK]) for start in starts)


def checksums_of_file(path: Path, size: int) -> tuple[str, ...]:
    """`checksums` of a file that must be ``size`` bytes long, read block by block."""
    with open_regular(path, size) as handle, os_errors("read", path):
        return _checksums_of_handle(handle)


def _checksums_of_handle(handle: int) -> tuple[str, ...]:
    import xxhash

    out, offset, state = [], 0, xxhash.xxh3_128()
    quarter = CHECKSUM_BLOCK // 4  # so that a file takes little memory
    while data := os.pread(handle, min(quarter, CHECKSUM_BLOCK - offset % CHECKSUM_BLOCK), offset):
        state.update(data)
        offset += len(data)
        if offset % CHECKSUM_BLOCK == 0:
            out.append(state.hexdigest())
            state.reset()
    if offset % CHECKSUM_BLOCK or not out:
        out.append(state.hexdigest())
    return tuple(out)
