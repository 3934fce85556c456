"""`RemoteSource`: files in object storage, by their URLs.

fsspec opens a URL, with credentials and addresses of its own settings and the environment. Every
error becomes an `OSError`, as that of a file; `FileNotFoundError` means that the storage says so.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import lru_cache
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.locations import is_remote, protocol_of
from hyperpq.utils.url_storage import open_storage, said

REQUESTS_AT_ONCE = 32
"""Requests that wait for their answers side by side."""
# An image is read into memory as a whole.
_MAX_BYTES = 1 << 30
_NO_PATH = "names with an empty part (//) or a NUL are not listed"
# What the packages of fsspec call the time of the last change.
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")

T = TypeVar("T")
U = TypeVar("U")


class _FileSystem(Protocol):
    """What is used of a file system of fsspec."""

    def info(self, path: str) -> dict[str, Any]: ...

    def ls(self, path: str, detail: bool) -> list[dict[str, Any]]: ...

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes: ...


def in_parallel(do: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """What a function returns for each of some items, in their order, with many requests at once.

    Items are taken as results are, so that there may be any number of them.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="request") as pool:
        while part := [*islice(waiting, 8 * REQUESTS_AT_ONCE)]:
            yield from pool.map(do, part)


def check_remote(path: bytes) -> None:
    """Raise an error unless URLs of this kind can be opened here; no request is sent.

    Raises
    ------
    InvalidInputError
        If there is no such protocol, or the URL names nothing.
    MissingDependencyError
        If a package is missing that the protocol needs.
    """
    _storage(path)


class _Entry(NamedTuple):
    """What is kept of an entry of a folder; the name is empty for what no path leads to."""

    name: bytes
    is_folder: bool
    size: int
    mtime_ns: int


class RemoteSource:
    """Files at URLs, as a `FileSource`."""

    max_bytes = _MAX_BYTES

    def entries(self, root: bytes, found: Listing) -> Iterator[ImageFile]:
        """See `FileSource`; folders are listed one by one, many at once."""
        waiting = [root]
        while waiting:
            folders, waiting = waiting[-REQUESTS_AT_ONCE:], waiting[:-REQUESTS_AT_ONCE]
            for folder, content in zip(folders, in_parallel(self._content, folders), strict=True):
                if isinstance(content, OSError):
                    found.skipped[folder] = str(content.strerror)
                    if folder == root or not isinstance(content, FileNotFoundError):
                        found.unknown.add(folder)
                    continue
                for entry in content:
                    path = folder + b"/" + entry.name
                    if not entry.name:
                        found.skipped[path] = _NO_PATH
                        found.unknown.add(path)
                    elif entry.is_folder:
                        waiting.append(path)
                    else:
                        yield ImageFile(path, entry.size, entry.mtime_ns)

    def open(self, path: bytes) -> BinaryIO:
        """See `FileSource`; the content is in memory."""
        return io.BytesIO(self.read(path))

    def read(self, path: bytes) -> bytes:
        """The content of a file, of at most ``max_bytes``."""
        content = self.start(path, self.max_bytes + 1)
        self.check_size(path, len(content))
        return content

    def check_size(self, path: bytes, size: int) -> None:
        """Raise an `OSError` for a file that is too large to be read."""
        if size > self.max_bytes:
            raise OSError(errno.EFBIG, f"larger than {self.max_bytes >> 20:,} MiB", path)

    def start(self, path: bytes, size: int) -> bytes:
        """See `FileSource`; of an empty file nothing."""
        try:
            with _as_os_errors(path):
                storage, name = _storage(path)
                return storage.cat_file(name, start=0, end=size)
        except OSError as error:
            # HTTP has no range of an empty object.
            if "range" in str(error.strerror).lower() and not self.status(path).size:
                return b""
            raise

    def status(self, path: bytes) -> ImageFile:
        """See `FileSource`."""
        info = self._info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, "is a folder", path)
        return ImageFile(path, int(info["size"] or 0), _time_of(info))

    def is_folder(self, path: bytes) -> bool:
        """Whether there are files below a path, or it is a bucket, and not a file."""
        return bool(self._info(path)["type"] == "directory")

    def _info(self, path: bytes) -> dict[str, Any]:
        with _as_os_errors(path):
            storage, name = _storage(path)
            return storage.info(name)

    def _content(self, folder: bytes) -> list[_Entry] | OSError:
        """What is in a folder."""
        try:
            with _as_os_errors(folder):
                storage, name = _storage(folder)
                listed = storage.ls(name, detail=True)
        except OSError as error:
            return error
        out, before = [], name.rstrip("/") + "/"
        for info in listed:
            # A file whose name ends with a slash stands for a folder.
            full, is_folder = str(info["name"]), info["type"] == "directory"
            end = full.rstrip("/").removeprefix(before)
            if full == before and is_folder:
                out.append(_Entry(b"", True, 0, 0))
            elif full.startswith(before) and full != before:
                is_name = "/" not in end and "\0" not in end
                own = end.encode("utf-8", "surrogateescape") if is_name else b""
                out.append(_Entry(own, is_folder, int(info["size"] or 0), _time_of(info)))
        return out


def _storage(path: bytes) -> tuple[_FileSystem, str]:
    """The file system of a URL, and the name that it has there."""
    url = path.decode("utf-8", "surrogateescape")
    rest = url.partition("://")[2]
    host = rest.partition("/")[0]
    # fsspec takes :: for the end of a URL that another one follows.
    if not is_remote(path) or "::" in host or not rest.strip("/"):
        raise InvalidInputError(
            f"{url!r} is no folder or image in object storage; expected a URL such as "
            "s3://bucket/folder, or a path of this machine."
        )
    protocol = protocol_of(path)
    # A fork would share its connections.
    storage = _connected(protocol, host, os.getpid())
    name = type(storage)._strip_protocol(f"{protocol}://{rest}")  # type: ignore[attr-defined]
    return storage, str(name)


_CONNECTING = ForkSafeLock()


def _connected(protocol: str, host: str, process: int) -> _FileSystem:
    with _CONNECTING:
        return _connect(protocol, host, process)


@lru_cache(64)
def _connect(protocol: str, host: str, process: int) -> _FileSystem:
    """The file system of a bucket, one for all threads."""
    storage, _ = open_storage(f"{protocol}://{host}/", "images", skip_instance_cache=True)
    # What it has listed once is not what is there later.
    storage.dircache.use_listings_cache = False
    found: _FileSystem = storage
    return found


@contextmanager
def _as_os_errors(path: bytes) -> Iterator[None]:
    """Turn what a file system raises into an `OSError` with a reason."""
    try:
        yield
    except HyperPQError as error:
        raise OSError(errno.EPROTONOSUPPORT, said(error), path) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such object", path) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, f"permission denied: {said(error)}", path) from error
    except IsADirectoryError as error:
        raise IsADirectoryError(errno.EISDIR, "is a folder", path) from error
    # Every package of fsspec has exceptions of its own.
    except Exception as error:
        raise OSError(errno.EIO, said(error), path) from error


def _time_of(info: dict[str, Any]) -> int:
    """Time of the last change in whole seconds, as nanoseconds; 0 if the storage has none.

    A listing and the answer for a single object may differ in the digits behind.
    """
    value = next((info[name] for name in _TIMES if info.get(name)), 0)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return 0
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return math.floor(value) * 10**9
