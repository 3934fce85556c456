"""Files that hold several arrays, each by a name: which one is meant, and whether it is vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperpq.errors import InvalidInputError

_SHOWN = 10


def listed(names: Sequence[str]) -> str:
    """Names for an error, at most ten of them."""
    shown = ", ".join(map(repr, names[:_SHOWN])) or "none"
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def only_one(path: Path, names: Sequence[str], what: str) -> str:
    """The name of the only array that fits.

    Parameters
    ----------
    path : Path
        The file, for an error.
    names : sequence of str
        Those that fit, at least one.
    what : str
        What they are, such as "arrays of two dimensions".

    Raises
    ------
    InvalidInputError
        If there are several.
    """
    if len(names) > 1:
        raise InvalidInputError(
            f"{path} has {len(names)} {what} ({listed(names)}); choose one with dataset=NAME "
            "(--dataset NAME)."
        )
    return names[0]


def not_vectors(shape: tuple[int, ...] | None, dtype: np.dtype) -> str | None:
    """Why an array of this shape and dtype is not one of vectors; None if it is."""
    if shape is None or len(shape) != 2:
        return f"has shape {shape}; expected two dimensions, (n, d)"
    if dtype.kind not in "fiub":
        return f"has dtype {dtype}; expected numbers (any float or integer dtype)"
    return None
