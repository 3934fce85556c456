"""Files that are written completely or not at all."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.files import (
    atomic_write,
    fsync_folder,
    os_errors,
    remove_quietly,
    rename_over,
)


def check_writable(path: Path) -> None:
    """Check that a file can be written at ``path``, before the work whose result it takes.

    Raises
    ------
    InvalidInputError
        If the path is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; expected the name of a file to write.")
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(
            f"{path} cannot be written, as there is no folder {path.parent}; create it first."
        )


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name for the new content of a file, which is renamed to ``path`` at the end.

    Raises
    ------
    StoreError
        If the system refuses; a file at ``path`` is as it was.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os_errors("write", path):
            yield aside
            handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        rename_over(aside, path)
    except BaseException:
        remove_quietly(aside)
        raise
    fsync_folder(path.parent)


def save_codes(path: Path, batches: Sequence[NDArray[np.uint8]]) -> None:
    """Write codes (n, code_size), given in batches, as one .npy file."""
    data = io.BytesIO()
    np.save(data, np.concatenate(batches), allow_pickle=False)
    atomic_write(path, data.getvalue())
