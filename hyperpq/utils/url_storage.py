"""`open_storage`: the file system of a URL, by fsspec, and what its errors say."""

from __future__ import annotations

from typing import Any

from hyperpq.errors import InvalidInputError, MissingDependencyError
from hyperpq.utils.imports import need


def open_storage(url: str, what: str, **settings: object) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the name that the URL has there.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/index``.
    what : str
        What is there, in the plural, for messages.
    **settings
        Settings of the file system.

    Returns
    -------
    fs : fsspec.AbstractFileSystem
        Its packages have exceptions of their own.
    name : str
        Without the protocol.

    Raises
    ------
    InvalidInputError
        If there is no such protocol, or it cannot have such a URL.
    MissingDependencyError
        If a package is missing that the protocol needs.
    """
    fsspec = need("fsspec", "remote", f"{what} at a URL")
    try:
        fs, name = fsspec.core.url_to_fs(url, **settings)
    except ValueError as error:
        raise InvalidInputError(f"{what} cannot be read at {url}: {said(error)}.") from error
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} at {url} need a package: {said(error)}; for s3:// install it with "
            "`pip install 'hyperpq[remote]'`."
        ) from error
    return fs, name


def said(error: BaseException) -> str:
    """What an error says, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
