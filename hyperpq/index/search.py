"""Search: queries to distance tables in batches, and the tables to the scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.progress import ProgressLike, as_progress

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.codes import CodeSegment
    from hyperpq.index.probe import Probe
    from hyperpq.index.refine import Refinement
    from hyperpq.scan.scanner import Scanner

# Queries whose distance tables are in memory at once, and results of queries: 50 MB.
_QUERY_BATCH, _RESULTS = 256, 1 << 22
# The same where some cells are searched, at most: they are loaded once for as many queries as have
# tables of 8 MB. With 256 queries, 96 of 8,192 cells of ten million rows take 1.25 times as long.
_PROBE_BATCH, _PROBE_TABLES = 1024, 8 << 20
N = TypeVar("N", bound=np.generic)


def search(
    codec: Coder,
    segments: Sequence[CodeSegment],
    queries: NDArray[np.float32],
    k: int,
    threads: int | None = None,
    *,
    scanner: Scanner,
    probe: Probe | None = None,
    refinement: Refinement | None = None,
    out: tuple[NDArray[np.float32] | None, NDArray[np.int64] | None] = (None, None),
    progress: ProgressLike = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows of each query; the result is exact, or refined if that is asked for.

    Parameters
    ----------
    codec : Coder
        The codec that made the codes.
    segments : sequence of CodeSegment
        The rows, with ids that are distinct over all segments.
    queries : ndarray, shape (nq, d), float32
        Query vectors.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads of the scan, one for each core by default.
    scanner : Scanner
        What scans the codes.
    probe : Probe, optional
        Which cells of the rows are searched; all of them by default.
    refinement : Refinement, optional
        What ranks the best codes again.
    out : (ndarray or None, ndarray or None)
        Arrays for D and I, or None to make them.
    progress : Progress or bool, optional
        Where to report each batch of queries.

    Returns
    -------
    D, I : ndarray, shape (nq, k)
        Distances and ids, see `HiHPQIndex.search`.

    Raises
    ------
    InvalidInputError
        If the results do not fit in memory, or a given array does not fit them.
    """
    shape = (len(queries), k)
    D = output(out[0], "D", shape, np.float32)
    I = output(out[1], "I", shape, np.int64)  # noqa: E741
    if any(array is not None and np.may_share_memory(queries, array) for array in out):
        queries = queries.copy()
    filled = result_width(k, segments)
    D[:, filled:], I[:, filled:] = np.inf, -1
    scanned = filled if refinement is None else refinement.width(filled, segments)
    for rows in query_batches(len(queries), "search", progress, scanned, probe):
        tables = finite_tables(codec, queries[rows])
        scans = scanner if probe is None else probe.scanner(queries[rows])
        near, ids = scans.search_segments(tables, segments, scanned, threads=threads)
        if refinement is not None:
            near, ids = refinement.ranked(queries[rows], near, ids, threads)
        D[rows, :filled], I[rows, :filled] = near[:, :filled], ids[:, :filled]
    return D, I


def range_search(
    codec: Coder,
    segments: Sequence[CodeSegment],
    queries: NDArray[np.float32],
    radius: float,
    threads: int | None = None,
    *,
    scanner: Scanner,
    probe: Probe | None = None,
    progress: ProgressLike = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Find all rows at a distance below ``radius``; parameters as in `search`.

    Returns
    -------
    lims, D, I : ndarray
        See `HiHPQIndex.range_search`.
    """
    lims = [np.zeros(1, np.int64)]
    D, I = [np.empty(0, np.float32)], [np.empty(0, np.int64)]  # noqa: E741
    for rows in query_batches(len(queries), "search", progress, probe=probe):
        tables = finite_tables(codec, queries[rows])
        scans = scanner if probe is None else probe.scanner(queries[rows])
        found = scans.range_search_segments(tables, segments, radius, threads=threads)
        lims.append(found[0][1:] + lims[-1][-1])
        D.append(found[1])
        I.append(found[2])
    return np.concatenate(lims), np.concatenate(D), np.concatenate(I)


def result_width(k: int, segments: Sequence[CodeSegment]) -> int:
    """Columns of a result that rows can fill, at least 1 and at most k."""
    return min(k, max(sum(segment.codes.n for segment in segments), 1))


def finite_tables(codec: Coder, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """`Codec.tables`, all of them finite."""
    tables = codec.tables(queries)
    if not np.isfinite(tables).all():
        finite = np.isfinite(tables).all((1, 2))
        largest = np.abs(queries[np.argmin(finite)]).max()
        raise InvalidInputError(
            f"a query is too large, with values of up to {largest:.3g}: its distances leave the "
            "range of float32; expected smaller values."
        )
    return tables


def with_values(
    I: NDArray[np.int64],  # noqa: E741
    ids: NDArray[np.int64],
    values: NDArray[N],
    out: NDArray[N] | None,
    name: str,
    missing: float,
) -> NDArray[N]:
    """Values of the results of a search.

    Parameters
    ----------
    I : ndarray, shape (nq, k), int64
        Results; -1 where there is none.
    ids : ndarray, shape (n,), int64
        The ids among them, ascending.
    values : ndarray, shape (n, width)
        The values of these ids.
    out : ndarray or None
        Array for the result.
    name : str
        What to call it in an error.
    missing : float
        Value where there is no result.

    Returns
    -------
    ndarray, shape (nq, k, width)
    """
    array = output(out, name, (*I.shape, values.shape[1]), values.dtype)
    array[...] = missing
    array[I >= 0] = values[np.searchsorted(ids, I[I >= 0])]
    return array


def output(given: NDArray[N] | None, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[N]:
    """The array for a result: the one that was given, checked, or a new one, of any content.

    Raises
    ------
    InvalidInputError
        If the given array has another shape or dtype or cannot be written, or there is no memory
        for a new one.
    """
    if given is None:
        try:
            return np.empty(shape, dtype)
        except (MemoryError, ValueError) as error:
            raise InvalidInputError(
                f"k is {shape[1]}; expected a number of results that fits in memory."
            ) from error
    if not isinstance(given, np.ndarray) or given.shape != shape or given.dtype != dtype:
        has = (
            f"{given.dtype} of shape {given.shape}"
            if isinstance(given, np.ndarray)
            else f"of {type(given)}"
        )
        raise InvalidInputError(f"{name} is {has}; expected {np.dtype(dtype)} of shape {shape}.")
    if not given.flags.writeable:
        raise InvalidInputError(f"{name} is read-only; expected an array that can be written.")
    return given


def query_batches(
    n: int,
    name: str,
    progress: ProgressLike,
    width: int = 1,
    probe: Probe | None = None,
) -> Iterator[slice]:
    """Batches of queries with so many results each; a report when the next one is asked for."""
    most = _QUERY_BATCH
    if probe is not None:
        config = probe.coder
        fitting = _PROBE_TABLES // (4 * config.M << config.nbits)
        most = max(most, min(_PROBE_BATCH, fitting))
    size = min(most, max(1, _RESULTS // max(width, 1)))
    if 0 < n <= size and progress is None:  # A phase that nobody sees takes time, too.
        yield slice(0, n)
        return
    with as_progress(progress).phase(name, n, "queries") as phase:
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            yield rows
            phase.advance(rows.stop - rows.start)
