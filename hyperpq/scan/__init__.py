"""Exact search of codes: distance tables and codes in, the k nearest rows out.

The float32 table entries of a row are added in float64, and its distance is the nearest finite
float32. What is compared is what is returned: rows are ordered by that distance, ties by the lower
id, and a range search returns those below the radius. So the answers for parts of the rows, merged
by `merge_results`, are the answer for all of them. Every kernel returns what the plain
`scan.reference` returns. The kernels in ``scan/native`` are used where the package was compiled,
with the fastest instruction set (*level*) of the processor; the environment variable
``HYPERPQ_SCAN_LEVEL`` selects another one. `scan.cuda` scans on GPUs, and `scan.scanner` says what
an index scans with.

Public functions: `search`, `range_search`, `search_segments`, `range_search_segments`,
`search_cells`, `range_search_cells`, `prepare`, `merge_results`, `merge_range_results`, `compiled`
and `levels`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, TiledCodes, row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.scan import reference
from hyperpq.scan.arguments import check_finite, checked_cells, checked_radius, shaped_tables
from hyperpq.scan.merge import merge_range_results, merge_results
from hyperpq.utils.devices import default_threads
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.scan import _native
else:
    try:
        from hyperpq.scan import _native
    except ImportError:  # Installed without a compiler; `levels` says so.
        _native = None

__all__ = [
    "CodeSegment",
    "compiled",
    "levels",
    "merge_range_results",
    "merge_results",
    "prepare",
    "range_search",
    "range_search_cells",
    "range_search_segments",
    "search",
    "search_cells",
    "search_segments",
]

P = ParamSpec("P")
T = TypeVar("T")
LEVEL_VARIABLE = "HYPERPQ_SCAN_LEVEL"
"""Environment variable that selects a level by its name."""
_NAMES = ("avx512vbmi", "avx512bw", "avx2", "neon", "portable", "numpy")


def prepare(codes: Any) -> TiledCodes:
    """Arrange codes in the layout that the scan reads.

    Parameters
    ----------
    codes : array_like, shape (n, code_size), uint8
        Packed codes (K = 16: two codes in a byte, see `codes.pack`). `TiledCodes` are returned
        unchanged.

    Returns
    -------
    TiledCodes

    Raises
    ------
    InvalidInputError
        If the shape or dtype is another.
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
    """Find the k nearest rows of each query; the result is exact.

    Parameters
    ----------
    tables : ndarray, shape (nq, M, K), float32
        Distance from each query to each codeword; finite, K = 256 or 16.
    codes : TiledCodes or array_like (n, code_size), uint8
        Codes of the rows. Packed codes are rearranged at each call; `prepare` does it once.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads; by default one for each core that the process may use, up to
        ``OMP_NUM_THREADS`` where that is set. It does not change the result.
    ids : array_like, shape (n,), int64, optional
        Distinct ids of the rows; 0 to n - 1 by default.
    mask : array_like, shape (n,), bool, optional
        Which rows are searched; all of them by default. Or the mask as bits, shape
        (ceil(n / 64),), uint64, see `codes.row_bits`.

    Returns
    -------
    D : ndarray, shape (nq, k), float32
        Distances, ascending, padded with +inf. Those of rows are finite: a sum beyond the range of
        float32 is the largest float32.
    I : ndarray, shape (nq, k), int64
        Ids, ties by the lower one, padded with -1.

    Raises
    ------
    InvalidInputError
        If an argument has another shape, dtype or value, or ``HYPERPQ_SCAN_LEVEL`` is not a level
        of this machine.
    """
    return search_segments(tables, [_segment(codes, ids, mask)], k, threads=threads)


def search_segments(
    tables: NDArray[np.float32],
    segments: Sequence[CodeSegment],
    k: int,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`search` over the rows of several segments, whose ids are distinct over all of them."""
    level = _level()
    tables = shaped_tables(tables, segments)
    k, threads = as_count(k, "k"), _checked_threads(threads)
    if level == "numpy":
        check_finite(tables)
        return reference.search_segments(tables, segments, k, threads=threads)
    return _checked(_native.search_segments, tables, _arrays(segments), k, threads, level)


def range_search(
    tables: NDArray[np.float32],
    codes: Any,
    radius: float,
    *,
    threads: int | None = None,
    ids: Any | None = None,
    mask: Any | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Find all rows at a distance below ``radius``, which is rounded to float32.

    The other parameters and the errors are those of `search`.

    Returns
    -------
    lims : ndarray, shape (nq + 1,), int64
        The results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
    D : ndarray, shape (lims[-1],), float32
        Distances, ascending for each query.
    I : ndarray, shape (lims[-1],), int64
        Ids, ties by the lower one.
    """
    return range_search_segments(tables, [_segment(codes, ids, mask)], radius, threads=threads)


def range_search_segments(
    tables: NDArray[np.float32],
    segments: Sequence[CodeSegment],
    radius: float,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """`range_search` over the rows of several segments."""
    level = _level()
    tables = shaped_tables(tables, segments)
    radius, threads = checked_radius(radius), _checked_threads(threads)
    if level == "numpy":
        check_finite(tables)
        return reference.range_search_segments(tables, segments, radius)
    return _checked(
        _native.range_search_segments, tables, _arrays(segments), radius, threads, level
    )


def search_cells(
    tables: NDArray[np.float32],
    segments: Sequence[CodeSegment],
    cells: NDArray[np.int64],
    k: int,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`search_segments` over the rows of some cells alone, which differ from query to query.

    Parameters
    ----------
    segments : sequence of CodeSegment
        Rows that are grouped by cell, see `CodeSegment.starts`.
    cells : ndarray, shape (nq, n), int64
        The cells of each query, different ones. A search is fastest if the first one is the nearest
        and the others ascend.

    Raises
    ------
    InvalidInputError
        As in `search`; also if a cell is none of the segments.
    """
    level = _level()
    tables = shaped_tables(tables, segments)
    k, threads = as_count(k, "k"), _checked_threads(threads)
    cells = checked_cells(cells, len(tables), segments)
    if level == "numpy":
        check_finite(tables)
        each = [
            reference.search_segments(
                tables[q : q + 1], [reference.in_cells(s, cells[q]) for s in segments], k, threads=1
            )
            for q in range(len(tables))
        ]
        D = [np.empty((0, k), np.float32), *(d for d, _ in each)]
        I = [np.empty((0, k), np.int64), *(i for _, i in each)]  # noqa: E741
        return np.concatenate(D), np.concatenate(I)
    return _checked(
        _native.search_cells, tables, _arrays(segments), _starts(segments), cells, k, threads, level
    )


def range_search_cells(
    tables: NDArray[np.float32],
    segments: Sequence[CodeSegment],
    cells: NDArray[np.int64],
    radius: float,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """`range_search_segments` over the rows of some cells alone, see `search_cells`."""
    level = _level()
    tables = shaped_tables(tables, segments)
    radius, threads = checked_radius(radius), _checked_threads(threads)
    cells = checked_cells(cells, len(tables), segments)
    if level == "numpy":
        check_finite(tables)
        each = [
            reference.range_search_segments(
                tables[q : q + 1], [reference.in_cells(s, cells[q]) for s in segments], radius
            )
            for q in range(len(tables))
        ]
        sizes = [0, *(int(lims[1]) for lims, _, _ in each)]
        D = [np.empty(0, np.float32), *(d for _, d, _ in each)]
        I = [np.empty(0, np.int64), *(i for _, _, i in each)]  # noqa: E741
        return np.cumsum(sizes, dtype=np.int64), np.concatenate(D), np.concatenate(I)
    return _checked(
        _native.range_search_cells,
        tables,
        _arrays(segments),
        _starts(segments),
        cells,
        radius,
        threads,
        level,
    )


def _checked(
    kernel: Callable[Concatenate[NDArray[np.float32], P], T],
    tables: NDArray[np.float32],
    *arguments: P.args,
    **options: P.kwargs,
) -> T:
    """What a compiled kernel returns, or the error that names what is wrong with the tables."""
    try:
        return kernel(tables, *arguments, **options)
    except ValueError:
        # It looks at the values in less time than NumPy, which takes as long as to scan 5,000 rows.
        check_finite(tables)
        raise


def compiled() -> tuple[ModuleType, str] | None:
    """The compiled kernels and the level in use; None where numpy is."""
    level = _level()
    # Kept features are little-endian numbers, which the kernels read as they are.
    return None if level == "numpy" or sys.byteorder != "little" else (_native, level)


def levels() -> dict[str, str]:
    """The levels that can run on this machine, the fastest first, and which one is in use.

    Returns
    -------
    dict of str to str
        Name of a level to ``"in use"`` or ``"available"``. An invalid ``HYPERPQ_SCAN_LEVEL`` has
        an entry with its error.
    """
    try:
        used = _level()
    except InvalidInputError as error:
        used = str(error)
    names = {name: "in use" if name == used else "available" for name in _available()}
    if _native is None:
        names["numpy"] += (
            "; the native kernels were not compiled: install with a C++17 compiler to use them"
        )
    if used not in names:
        names[LEVEL_VARIABLE] = used
    return names


@cache
def _levels_of(native: ModuleType | None) -> tuple[str, ...]:
    return (*(native.levels() if native is not None else ()), "numpy")


def _available() -> tuple[str, ...]:
    return _levels_of(_native)


def _level() -> str:
    """The level that `LEVEL_VARIABLE` selects, or the fastest one."""
    available = _available()
    asked = os.environ.get(LEVEL_VARIABLE)
    if not asked:
        return available[0]
    if asked not in available:
        problem = "does not run on this machine" if asked in _NAMES else "is not a level"
        raise InvalidInputError(
            f"{LEVEL_VARIABLE} is {asked!r}, which {problem}; expected {', '.join(available)}."
        )
    return asked


def _checked_threads(threads: int | None) -> int:
    return default_threads() if threads is None else as_count(threads, "threads")


def _segment(codes: Any, ids: Any, mask: Any) -> CodeSegment:
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
    return CodeSegment(tiled, labels, bits)


def _starts(segments: Sequence[CodeSegment]) -> list[NDArray[np.int64]]:
    return [s.starts for s in segments if s.starts is not None]


def _arrays(segments: Sequence[CodeSegment]) -> list[tuple[Any, ...]]:
    return [(s.codes.data, s.codes.n, s.ids, s.bits) for s in segments]
