"""`TarSource`: the members of an uncompressed tar file, read where they lie in it.

A shard counts as a folder: its member ``a/0.jpg`` has the path ``/data/shard.tar/a/0.jpg``.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.utils.forks import ForkSafeLock

ENDING = b".tar"
COMPRESSED = (b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tar.xz", b".txz", b".tar.zst")
"""Endings of tar files whose members have no place in the file, as it is compressed as a whole."""

_BLOCK = tarfile.BLOCKSIZE
# Members of all shards that are remembered, about 250 bytes of each.
_MAX_MEMBERS = 250_000


def is_shard_name(path: bytes) -> bool:
    """Whether a path has the ending of a shard."""
    return path[-len(ENDING) :].lower() == ENDING


def is_shard(path: bytes, status: os.stat_result | None = None) -> bool:
    """Whether there is a shard at a path; ``status`` is what the system says of it, if known."""
    if not is_shard_name(path):
        return False
    return os.path.isfile(path) if status is None else stat.S_ISREG(status.st_mode)


OpenFile: TypeAlias = BinaryIO | io.FileIO


@dataclass
class Members:
    """What is in a shard.

    Attributes
    ----------
    places : dict of bytes to (int, int)
        Name of each regular file, with where its content begins and how long it is. Of several with
        one name the last one counts, as for tar.
    skipped : dict of bytes to str
        Names of members that are not read, with the reason.
    fault : str
        Why what follows the members is not known; empty if there is nothing.
    """

    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[bytes, str] = field(default_factory=dict)
    fault: str = ""


def read_members(file: OpenFile, size: int) -> Members:
    """Find the members of a tar file by their headers.

    Parameters
    ----------
    file : binary file
        Seekable.
    size : int
        Its length, bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    found, end, fault = Members(), 0, ""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                # It would keep all of them.
                tar.members = []  # type: ignore[attr-defined]
                if tar.offset <= end:
                    raise tarfile.ReadError("a member ends before it begins")
                end = tar.offset
                _add(found, member, size)
            # tarfile takes a damaged header for the end, and needs no mark of it.
            file.seek(tar.offset)
            block = file.read(_BLOCK)
            if block.strip(b"\0"):
                raise tarfile.ReadError("a header is damaged")
            if not block:
                raise tarfile.ReadError("the mark of its end is missing")
    except RecursionError:
        # tarfile calls itself for each header that another one follows, such as a long name.
        fault = "too many headers for one member"
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        fault = str(error) or type(error).__name__
    if fault:
        count = len(found.places)
        found.fault = f"damaged after {count:,} members ({fault})" if count else f"no tar ({fault})"
    return found


def _add(found: Members, member: tarfile.TarInfo, size: int) -> None:
    if member.isdir():
        return
    name = os.fsencode(member.name)
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    name = b"/".join(parts)
    if not parts or b".." in parts or b"\0" in name:
        found.skipped[os.fsencode(member.name).replace(b"\0", b"") or b"?"] = (
            "its name leads out of the shard"
        )
    elif member.issparse() or not member.isreg():
        found.skipped[name] = "not a regular file"
    elif member.offset_data + member.size > size:
        found.skipped[name] = "truncated"
    else:
        found.skipped.pop(name, None)
        found.places[name] = member.offset_data, member.size


Identity: TypeAlias = tuple[int | str, ...]
"""What differs after a shard has been written again."""


class MembersCache:
    """The members of the shards that were read last, by path and state."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[Identity, Members]] = OrderedDict()
        self._count = 0
        self._lock = ForkSafeLock()
        self._reading: dict[bytes, ForkSafeLock] = {}

    def members(self, path: bytes, identity: Identity, read: Callable[[], Members]) -> Members:
        """The members of a shard; ``read`` is called by one thread if they are not known."""
        if (known := self._get(path, identity)) is not None:
            return known
        with self._lock:
            reading = self._reading.setdefault(path, ForkSafeLock())
        with reading:
            if (known := self._get(path, identity)) is None:
                known = read()
                self._put(path, identity, known)
        with self._lock:
            self._reading.pop(path, None)
        return known

    def _get(self, path: bytes, identity: Identity) -> Members | None:
        with self._lock:
            known = self._known.get(path)
            if known is None or known[0] != identity:
                return None
            self._known.move_to_end(path)
            return known[1]

    def _put(self, path: bytes, identity: Identity, members: Members) -> None:
        with self._lock:
            if (old := self._known.pop(path, None)) is not None:
                self._count -= len(old[1].places)
            self._known[path] = identity, members
            self._count += len(members.places)
            while self._count > _MAX_MEMBERS and len(self._known) > 1:
                self._count -= len(self._known.popitem(last=False)[1][1].places)


class TarSource:
    """A shard of the file system, as a `FileSource`.

    Parameters
    ----------
    shard : bytes
        Its path.
    """

    # They are read where they lie.
    max_bytes = sys.maxsize
    _cache = MembersCache()

    def __init__(self, shard: bytes) -> None:
        self._shard = shard

    def entries(self, root: bytes, found: Listing) -> Iterator[ImageFile]:
        """See `FileSource`."""
        with self._open_shard() as file:
            status, members = self._members(file)
        if members.fault:
            found.skipped[self._shard] = members.fault
            found.unknown.add(self._shard)
        for name, why in members.skipped.items():
            found.skipped[os.path.join(self._shard, name)] = why
        for name, (_, size) in members.places.items():
            path = os.path.join(self._shard, name)
            if path.startswith(os.path.join(root, b"")):
                yield ImageFile(path, size, status.st_mtime_ns)

    def open(self, path: bytes) -> BinaryIO:
        """See `FileSource`."""
        file = self._open_shard()
        try:
            offset, size = self.place(file, path)
        except BaseException:
            file.close()
            raise
        return io.BufferedReader(Section(file, offset, size))

    def start(self, path: bytes, size: int) -> bytes:
        """See `FileSource`."""
        with self.open(path) as file:
            return file.read(size)

    def status(self, path: bytes) -> ImageFile:
        """See `FileSource`."""
        with self._open_shard() as file:
            size = self.place(file, path)[1]
            return ImageFile(path, size, os.fstat(file.fileno()).st_mtime_ns)

    def _open_shard(self) -> io.FileIO:
        # What has taken its place may be a pipe.
        handle = os.open(self._shard, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = io.FileIO(handle)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            file.close()
            raise NotADirectoryError(20, "not a regular file", self._shard)
        return file

    def _members(self, file: OpenFile) -> tuple[os.stat_result, Members]:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return status, self._cache.members(
            self._shard, identity, lambda: read_members(file, status.st_size)
        )

    def place(self, file: OpenFile, path: bytes) -> tuple[int, int]:
        """Where a file begins in the open shard, and its size."""
        members = self._members(file)[1]
        name = path[len(self._shard) :].lstrip(b"/")
        if name not in members.places:
            if members.fault:
                raise OSError(5, members.fault, path)
            raise FileNotFoundError(2, "no such member", path)
        return members.places[name]


class Section(io.RawIOBase):
    """A part of a file, which is closed with it; other sections may be read meanwhile."""

    def __init__(self, file: OpenFile, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._file.fileno(), wanted, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(22, "Invalid argument")
        self._at = start + offset
        return self._at

    def close(self) -> None:
        """Close the file, too."""
        if not self.closed:
            self._file.close()
        super().close()
