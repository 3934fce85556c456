"""Search: queries to distance tables in batches, and the tables to the scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.errors import InvalidInputError

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codes import CodeSegment

# Queries whose distance tables are in memory at once.
_QUERY_BATCH = 256


def search(
    codec: Codec,
    segments: Sequence[CodeSegment],
    queries: NDArray[np.float32],
    k: int,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows of each query; the result is exact.

    Parameters
    ----------
    codec : Codec
        The codec that made the codes.
    segments : sequence of CodeSegment
        The rows, with ids that are distinct over all segments.
    queries : ndarray, shape (nq, d), float32
        Query vectors.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads of the scan, one for each core by default.

    Returns
    -------
    D, I : ndarray, shape (nq, k)
        Distances and ids, see `HiHPQIndex.search`.

    Raises
    ------
    InvalidInputError
        If the results do not fit in memory.
    """
    filled = min(k, max(sum(segment.codes.n for segment in segments), 1))
    with memory_for(k):
        D = np.full((len(queries), k), np.inf, np.float32)
        I = np.full((len(queries), k), -1, np.int64)  # noqa: E741
    for rows in _batches(len(queries)):
        tables = codec.tables(queries[rows])
        D[rows, :filled], I[rows, :filled] = scan.search_segments(
            tables, segments, filled, threads=threads
        )
    return D, I


def range_search(
    codec: Codec,
    segments: Sequence[CodeSegment],
    queries: NDArray[np.float32],
    radius: float,
    threads: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Find all rows at a distance below ``radius``; parameters as in `search`.

    Returns
    -------
    lims, D, I : ndarray
        See `HiHPQIndex.range_search`.
    """
    lims = [np.zeros(1, np.int64)]
    D, I = [np.empty(0, np.float32)], [np.empty(0, np.int64)]  # noqa: E741
    for rows in _batches(len(queries)):
        tables = codec.tables(queries[rows])
        found = scan.range_search_segments(tables, segments, radius, threads=threads)
        lims.append(found[0][1:] + lims[-1][-1])
        D.append(found[1])
        I.append(found[2])
    return np.concatenate(lims), np.concatenate(D), np.concatenate(I)


@contextmanager
def memory_for(k: int) -> Iterator[None]:
    """Turn what numpy raises about an array that is too large into an `InvalidInputError`."""
    try:
        yield
    except (MemoryError, ValueError) as error:
        raise InvalidInputError(
            f"k is {k}; expected a number of results that fits in memory."
        ) from error


def _batches(n: int) -> Iterator[slice]:
    return (slice(start, start + _QUERY_BATCH) for start in range(0, n, _QUERY_BATCH))
