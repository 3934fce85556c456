"""What a path is: one of the file system, or the URL of an object in storage.

To an index a URL such as ``s3://bucket/a.jpg`` is a path like any other: absolute, in bytes, with
``/`` between its parts. What differs is asked of this module.
"""

from __future__ import annotations

import os
import re
from typing import TypeGuard

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Images of the web are queries with limits of their own, and no server lists them.
_WEB = frozenset(("http", "https"))


def is_url(path: object) -> TypeGuard[str]:
    """Whether the place of an index is a URL of any protocol, which is text, and not a path."""
    return isinstance(path, str) and _URL.match(path) is not None


def is_remote(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bool:
    """Whether a path is a URL of something that fsspec opens, such as ``s3://bucket/a.jpg``.

    ``./s3://bucket`` is a path of the file system. A path object is never a URL, as it has lost one
    of the slashes.
    """
    if not isinstance(path, str | bytes):
        return False
    found = _URL.match(path if isinstance(path, str) else path.decode("latin-1"))
    return found is not None and found[1].lower() not in _WEB


def absolute(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """An absolute path, or a URL with its protocol in lower case and no slash at its end."""
    name = os.fsencode(path)
    if not is_remote(name):
        return os.path.abspath(name)
    protocol, _, rest = name.partition(b"://")
    return protocol.lower() + b"://" + rest.rstrip(b"/")


def bucket_of(url: bytes) -> bytes:
    """What a URL has before its path: the protocol with the bucket or the host."""
    protocol, _, rest = url.partition(b"://")
    return protocol + b"://" + rest.partition(b"/")[0]


def is_absolute(path: bytes) -> bool:
    """Whether a path leads to a file from any folder; not so the name of an image without one."""
    return path.startswith(b"/") or is_remote(path)
