"""Views and codes in .npy files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.vector_files import load_array
from hyperpq.utils.files import atomic_write


def load_views(path: Path) -> NDArray[Any]:
    """Views (V, n, d) of a .npy file, memory-mapped.

    Raises
    ------
    InvalidInputError
        No such file, or not an array of three dimensions.
    """
    return load_array(path, 3, "(V, n, d)")


def check_writable(path: Path) -> None:
    """Make sure that a file can be made at ``path``, before the work whose result it takes.

    Raises
    ------
    InvalidInputError
        The path is a folder, or its folder isn't there.
    """
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder; give the name of a file to write.")
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(f"{path} can't be written: there is no folder {path.parent}.")


def save_codes(path: Path, blocks: Sequence[NDArray[np.uint8]]) -> None:
    """Write codes (n, code_size), given in blocks, as one .npy file."""
    import io

    data = io.BytesIO()
    np.save(data, np.concatenate(blocks), allow_pickle=False)
    atomic_write(path, data.getvalue())
