"""Where the files of images are: in folders, tar shards, object storage; how any is opened.

The path alone says which source has a file, so that it is all that an index records of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import BinaryIO, Protocol, TypeVar

from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.datasets.remote_source import RemoteSource, in_parallel
from hyperpq.datasets.tar_source import TarSource, is_shard
from hyperpq.errors import ImageError
from hyperpq.utils.locations import is_remote

T = TypeVar("T")
_AT_ONCE = 1 << 12


class FileSource(Protocol):
    """Files by their paths; all errors are those of the system, `OSError`.

    Attributes
    ----------
    max_bytes : int
        Larger files are not read.
    """

    max_bytes: int

    def entries(self, root: bytes, found: Listing) -> Iterator[ImageFile]:
        """All files below a path, images or not; ``found`` gets what is no file, and why."""
        ...

    def open(self, path: bytes) -> BinaryIO:
        """Open a file for reading; it can be sought."""
        ...

    def start(self, path: bytes, size: int) -> bytes:
        """The first bytes of a file that is not empty, at most so many."""
        ...

    def status(self, path: bytes) -> ImageFile:
        """Size and time of a file."""
        ...


def shard_of(path: bytes) -> bytes | None:
    """The shard that a path is in: the regular file above it that ends with ``.tar``."""
    above = os.path.dirname(path)
    while above not in (b"", b"/"):
        try:
            status = os.stat(above)
        except (FileNotFoundError, NotADirectoryError):
            above = os.path.dirname(above)
            continue
        return above if is_shard(above, status) else None
    return None


def source_of(path: bytes) -> FileSource | None:
    """The source of a file that the system does not open by its path; None if there is none."""
    if is_remote(path):
        return RemoteSource()
    shard = shard_of(path)
    return None if shard is None else TarSource(shard)


def open_without_waiting(path: str, flags: int) -> int:
    """Opener for `open` that does not wait on a pipe without a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def open_file(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open a file of any source for reading.

    Raises
    ------
    ImageError
        If it is a pipe or a device.
    OSError
        If it cannot be opened.
    """
    if isinstance(path, str | bytes) and is_remote(path):
        return RemoteSource().open(os.fsencode(path))
    try:
        file: BinaryIO = open(path, "rb", opener=open_without_waiting)  # noqa: SIM115
    except NotADirectoryError:
        source = source_of(os.fsencode(path))
        if source is None:
            raise
        return source.open(os.fsencode(path))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError("not a regular file")
    return file


def file_status(path: bytes) -> ImageFile:
    """Size and time of a file of any source.

    Raises
    ------
    OSError
        If the system does not say.
    """
    if is_remote(path):
        return RemoteSource().status(path)
    try:
        status = os.stat(path)
    except NotADirectoryError:
        source = source_of(path)
        if source is None:
            raise
        return source.status(path)
    return ImageFile(path, status.st_size, status.st_mtime_ns)


def file_exists(path: bytes) -> bool:
    """Whether there is a file at a path; not so on a disk that is not mounted."""
    try:
        file_status(path)
    except OSError:
        return False
    return True


def for_each(do: Callable[[bytes], T], paths: Iterable[bytes]) -> Iterator[T]:
    """What a function returns for each path, in their order; URLs are asked for side by side."""
    waiting = iter(paths)
    while part := [*islice(waiting, _AT_ONCE)]:
        yield from in_parallel(do, part) if any(map(is_remote, part)) else map(do, part)


def may_exist(path: bytes) -> bool:
    """Whether there is a folder, a file or a link at a path, or the storage does not say."""
    return os.path.lexists(path) if not is_remote(path) else _is_folder(path) is not None


def is_folder(path: bytes) -> bool:
    """Whether a path is that of a folder, a shard, or a folder of object storage."""
    return bool(_is_folder(path)) if is_remote(path) else os.path.isdir(path) or is_shard(path)


def _is_folder(url: bytes) -> bool | None:
    """Whether a URL is that of a folder; None if there is nothing."""
    try:
        return RemoteSource().is_folder(url)
    except FileNotFoundError:
        return None
    except OSError:
        return True


def is_plain_file(path: bytes) -> bool:
    """Whether a path is that of a file by itself, which has links and can be moved."""
    return os.path.isabs(path) and shard_of(path) is None
