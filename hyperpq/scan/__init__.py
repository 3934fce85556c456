"""Tables and codes in, exact top-k out.

The answer is the one of `scan.reference`, whatever the level: the row with the least float64 sum
of its float32 table entries first, equal sums by the lower id. Where the package was compiled, the
work is done by ``scan/native``; ``HYPERPQ_SCAN_LEVEL`` asks for a level by its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import MAX_CODES, Part, TiledCodes, code_size, row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.scan import reference
from hyperpq.utils.devices import usable_cores
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.scan import _native
else:
    try:
        from hyperpq.scan import _native
    except ImportError:  # Installed without a compiler: `levels` says so.
        _native = None

__all__ = ["Part", "levels", "prepare", "range_search", "search", "search_parts"]

LEVEL_VARIABLE = "HYPERPQ_SCAN_LEVEL"
_NAMES = ("avx512vbmi", "avx512bw", "avx2", "neon", "portable", "numpy")


def prepare(codes: Any) -> TiledCodes:
    """Codes in the layout that is scanned.

    Parameters
    ----------
    codes : array_like, shape (n, code_size), uint8
        Packed codes (K = 16: two to a byte, see `codes.pack`). `TiledCodes` are left as they are.

    Raises
    ------
    InvalidInputError
        Another shape or dtype.
    """
    if isinstance(codes, TiledCodes):
        return codes
    array = np.asarray(codes)
    if array.ndim != 2 or array.dtype != np.uint8 or not array.shape[1]:
        raise InvalidInputError(
            f"codes are {array.dtype} {array.shape}; expected uint8 (n, code_size)."
        )
    return TiledCodes.from_rows(array)


def search(
    tables: NDArray[np.float32],
    codes: Any,
    k: int,
    *,
    threads: int | None = None,
    ids: Any | None = None,
    mask: Any | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact k nearest rows under additive tables.

    Parameters
    ----------
    tables : ndarray, shape (nq, M, K), float32
        Score of each codeword for each query; finite, K = 256 or 16.
    codes : TiledCodes or array_like (n, code_size), uint8
        What is searched. Rows of bytes are brought into the scanned layout at each call:
        `prepare` does it once.
    k : int
        Results a query.
    threads : int, optional
        All cores unless given; the answer doesn't depend on it.
    ids : array_like, shape (n,), int64, optional
        Distinct ids of the rows; 0 to n - 1 unless given.
    mask : array_like, shape (n,), bool, optional
        Rows that take part, all unless given. Or their bits, shape (ceil(n / 64),), uint64.

    Returns
    -------
    D : ndarray, shape (nq, k), float32
        Ascending, padded with +inf.
    I : ndarray, shape (nq, k), int64
        Ids, equal scores by the lower one, padded with -1.

    Raises
    ------
    InvalidInputError
        A shape, dtype or value is another; or ``HYPERPQ_SCAN_LEVEL`` is no level of this machine.
    """
    return search_parts(tables, [_part(codes, ids, mask)], k, threads=threads)


def search_parts(
    tables: NDArray[np.float32], parts: Sequence[Part], k: int, *, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`search` over the rows of several parts, with ids that are distinct over all of them."""
    tables = _tables(tables, parts)
    k, threads = as_count(k, "k"), _threads(threads)
    level = _level()
    if level == "numpy":
        return reference.search_parts(tables, parts, k, threads=threads)
    return _native.search_parts(tables, _arrays(parts), k, threads, level)


def range_search(
    tables: NDArray[np.float32],
    codes: Any,
    radius: float,
    *,
    threads: int | None = None,
    ids: Any | None = None,
    mask: Any | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """All rows with a score below ``radius``; parameters and errors are those of `search`.

    Returns
    -------
    lims : ndarray, shape (nq + 1,), int64
        Results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
    D : ndarray, shape (lims[-1],), float32
        Ascending for each query.
    I : ndarray, shape (lims[-1],), int64
        Ids, equal scores by the lower one.
    """
    return range_search_parts(tables, [_part(codes, ids, mask)], radius, threads=threads)


def range_search_parts(
    tables: NDArray[np.float32], parts: Sequence[Part], radius: float, *, threads: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """`range_search` over the rows of several parts."""
    tables = _tables(tables, parts)
    radius = float(radius)
    if np.isnan(radius):
        raise InvalidInputError("radius is NaN; expected a number.")
    threads, level = _threads(threads), _level()
    if level == "numpy":
        return reference.range_search_parts(tables, parts, radius)
    return _native.range_search_parts(tables, _arrays(parts), radius, threads, level)


def levels() -> dict[str, str]:
    """Kernels that can run here, the fastest first, and which one is in use."""
    try:
        used = _level()
    except InvalidInputError as error:
        used = str(error)
    names = {name: "in use" if name == used else "available" for name in _available()}
    if _native is None:
        names["numpy"] += "; nothing was compiled: install with a C++17 compiler for the fast ones"
    if used not in names:
        names[LEVEL_VARIABLE] = used
    return names


def _available() -> list[str]:
    return [*(_native.levels() if _native is not None else ()), "numpy"]


def _level() -> str:
    """The level that `LEVEL_VARIABLE` asks for, or the fastest."""
    available = _available()
    asked = os.environ.get(LEVEL_VARIABLE)
    if not asked:
        return available[0]
    if asked not in available:
        known = "doesn't run here" if asked in _NAMES else "is no level"
        raise InvalidInputError(
            f"{LEVEL_VARIABLE} is {asked!r}, which {known}; expected {', '.join(available)}."
        )
    return asked


def _threads(threads: int | None) -> int:
    return usable_cores() if threads is None else as_count(threads, "threads")


def _part(codes: Any, ids: Any, mask: Any) -> Part:
    tiled = prepare(codes)
    n = len(tiled)
    labels = None
    if ids is not None:
        labels = np.ascontiguousarray(ids, np.int64)
        if labels.shape != (n,):
            raise InvalidInputError(f"ids have shape {labels.shape}; expected ({n},).")
    bits = None
    if mask is not None:
        given = np.asarray(mask)
        if given.dtype == np.uint64 and given.shape == (-(-n // 64),):
            bits = np.ascontiguousarray(given)
        elif given.dtype == np.bool_ and given.shape == (n,):
            bits = row_bits(given)
        else:
            raise InvalidInputError(
                f"mask is {given.dtype} {given.shape}; expected bool ({n},) or its bits, "
                f"uint64 ({-(-n // 64)},)."
            )
    return Part(tiled, labels, bits)


def _tables(tables: Any, parts: Sequence[Part]) -> NDArray[np.float32]:
    array = np.ascontiguousarray(tables)
    fits = array.ndim == 3 and array.shape[2] in (16, 256) and 1 <= array.shape[1] <= MAX_CODES
    if not fits or array.dtype != np.float32:
        raise InvalidInputError(
            f"tables are {array.dtype} {array.shape}; expected float32 (nq, M, K), M up to "
            f"{MAX_CODES}, K 256 or 16."
        )
    if not np.isfinite(array).all():
        raise InvalidInputError("tables hold NaN or infinity; expected finite scores.")
    size = code_size(array.shape[1], 8 if array.shape[2] == 256 else 4)
    for part in parts:
        if part.codes.code_size != size:
            raise InvalidInputError(
                f"codes have {part.codes.code_size} bytes a row; expected {size} for tables of "
                f"shape {array.shape}."
            )
    return array


def _arrays(parts: Sequence[Part]) -> list[tuple[Any, ...]]:
    return [(part.codes.data, part.codes.n, part.ids, part.bits) for part in parts]
