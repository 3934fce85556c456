"""What a path is: one of the file system, or the URL of an object in storage.

To an index a URL such as ``s3://bucket/a.jpg`` is a path like any other: absolute, in bytes, with
``/`` between its parts. What differs is asked of this module.
"""

from __future__ import annotations

import os
import re
from typing import TypeGuard

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# Storage that credentials and settings of this machine lead to. With other protocols of fsspec,
# such as ftp and sftp, the URL itself says which machine is called, and a list may hold it.
_STORAGE = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "tos", "memory")
)


def is_url(path: object) -> TypeGuard[str]:
    """Whether the place of an index is a URL of any protocol, which is text, and not a path."""
    return isinstance(path, str) and bool(protocol_of(path))


def protocol_of(path: str | bytes) -> str:
    """What a URL has before ``://``, in lower case; empty for what is none."""
    found = _URL.match(path if isinstance(path, str) else path.decode("latin-1"))
    return found[1].lower() if found else ""


def is_remote(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bool:
    """Whether a path is a URL of object storage, such as ``s3://bucket/a.jpg``.

    URLs of all other protocols are names of files, and so is ``./s3://bucket``. A path object is
    never a URL, as it has lost one of the slashes.
    """
    return isinstance(path, str | bytes) and protocol_of(path) in _STORAGE


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
