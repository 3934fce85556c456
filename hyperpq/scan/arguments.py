"""Checks of what a scan is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import MAX_CODES, CodeSegment, code_size
from hyperpq.errors import InvalidInputError


def checked_tables(tables: Any, segments: Sequence[CodeSegment]) -> NDArray[np.float32]:
    """Return distance tables, C-contiguous, that fit the segments.

    Raises
    ------
    InvalidInputError
        If a shape, dtype or value is not as `scan.search` describes it.
    """
    array = shaped_tables(tables, segments)
    check_finite(array)
    return array


def shaped_tables(tables: Any, segments: Sequence[CodeSegment]) -> NDArray[np.float32]:
    """`checked_tables` without a look at the values."""
    array = np.ascontiguousarray(tables)
    fits = array.ndim == 3 and array.shape[2] in (16, 256) and 1 <= array.shape[1] <= MAX_CODES
    if not fits or array.dtype != np.float32:
        raise InvalidInputError(
            f"tables are {array.dtype} {array.shape}; expected float32 (nq, M, K), M up to "
            f"{MAX_CODES}, K 256 or 16."
        )
    size = code_size(array.shape[1], 8 if array.shape[2] == 256 else 4)
    for segment in segments:
        if segment.codes.code_size != size:
            raise InvalidInputError(
                f"codes have {segment.codes.code_size} bytes a row; expected {size} for tables of "
                f"shape {array.shape}."
            )
    return array


def check_finite(tables: NDArray[np.float32]) -> None:
    """Raise InvalidInputError if a value is NaN or infinity."""
    if not np.isfinite(tables).all():
        raise InvalidInputError("tables hold NaN or infinity; expected finite distances.")


def checked_cells(cells: Any, nq: int, segments: Sequence[CodeSegment]) -> NDArray[np.int64]:
    """Return the cells (nq, n), int64, that queries look at.

    Raises
    ------
    InvalidInputError
        If they have another shape or type, or are none of the segments.
    """
    array = np.asarray(cells)
    if array.ndim != 2 or len(array) != nq or array.dtype.kind not in "iu":
        raise InvalidInputError(
            f"cells are {array.dtype} {array.shape}; expected integers ({nq}, n), those of each "
            "query."
        )
    nlist = min((len(s.starts) - 1 for s in segments if s.starts is not None), default=0)
    if segments and array.size and not 0 <= array.min() <= array.max() < nlist:
        raise InvalidInputError(
            f"cells are {array.min()} to {array.max()}; expected 0 to {nlist - 1}."
        )
    return array.astype(np.int64, copy=False)


def checked_radius(radius: float) -> float:
    """Return a radius rounded to float32.

    Raises
    ------
    InvalidInputError
        If it is NaN.
    """
    with np.errstate(over="ignore"):  # Above all of float32, it is above all distances.
        rounded = float(np.float32(float(radius)))
    if np.isnan(rounded):
        raise InvalidInputError("radius is NaN; expected a number.")
    return rounded
