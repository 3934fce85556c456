"""What is wrong with a folder, a tar file or a URL of images: it is gone, or cannot be read."""

from __future__ import annotations

import errno
import os
import stat

from hyperpq.datasets.remote_source import RemoteSource, check_remote
from hyperpq.errors import DatasetError
from hyperpq.utils.locations import is_remote

# What the system answers where a file is gone; after any other error it may still be there.
GONE = frozenset((errno.ENOENT, errno.ENOTDIR))


def missing_root(path: bytes) -> DatasetError:
    """The error for a root that does not exist."""
    if is_remote(path):
        return DatasetError(
            f"{os.fsdecode(path)} does not exist: there is no such bucket or object, and none is "
            "below it; give an existing folder of images."
        )
    return DatasetError(f"{os.fsdecode(path)} does not exist; give an existing folder of images.")


def root_fault(path: bytes) -> str | None:
    """Why a root cannot be listed, such as an error of its disk; None if it can, or is gone.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        If it is a URL that cannot be opened here.
    """
    if is_remote(path):
        return _remote_fault(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            # A disk that is mounted when it is first used is mounted now.
            os.scandir(path).close()
    except OSError as error:
        return None if error.errno in GONE else f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
        return None
    return "is neither a file nor a folder"


def _remote_fault(path: bytes) -> str | None:
    check_remote(path)
    try:
        RemoteSource().is_folder(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None
