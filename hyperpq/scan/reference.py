"""The scan in plain numpy, which every native kernel must agree with.

The float32 table entries of a row are added in float64. Its distance is the nearest finite float32;
what is compared is what is returned. Rows are ordered by distance, ties by the lower id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, row_bits, unpack

# Rows of a block, whose float64 sums stay in the second-level cache.
_BLOCK = 1 << 16
_LARGEST = float(np.finfo(np.float32).max)


def search_segments(
    tables: NDArray[np.float32], segments: Sequence[CodeSegment], k: int, *, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Find the k nearest rows, see `scan.search`; each of ``threads`` threads scans one query."""
    nq = len(tables)
    D = np.full((nq, k), np.inf, np.float32)
    I = np.full((nq, k), -1, np.int64)  # noqa: E741

    def scan_query(query: int) -> None:
        best, labels = np.empty(0, np.float32), np.empty(0, np.int64)
        for distances, ids in _blocks(tables[query], segments):
            best, labels = _nearest(
                np.concatenate([best, distances]), np.concatenate([labels, ids]), k
            )
        D[query, : len(best)] = best
        I[query, : len(labels)] = labels

    workers = min(threads, nq)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(scan_query, range(nq)))
    else:
        for query in range(nq):
            scan_query(query)
    return D, I


def range_search_segments(
    tables: NDArray[np.float32], segments: Sequence[CodeSegment], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Find all rows at a distance below a radius, see `scan.range_search`."""
    lims = np.zeros(len(tables) + 1, np.int64)
    bound = np.float32(radius)  # Compared as float32 by every version of numpy.
    D: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    I: list[NDArray[np.int64]] = [np.empty(0, np.int64)]  # noqa: E741
    for query, table in enumerate(tables):
        found, labels = np.empty(0, np.float32), np.empty(0, np.int64)
        for distances, ids in _blocks(table, segments):
            near = distances < bound
            found = np.concatenate([found, distances[near]])
            labels = np.concatenate([labels, ids[near]])
        order = np.lexsort((labels, found))
        lims[query + 1] = lims[query] + len(order)
        D.append(found[order])
        I.append(labels[order])
    return lims, np.concatenate(D), np.concatenate(I)


def in_cells(segment: CodeSegment, cells: NDArray[np.int64]) -> CodeSegment:
    """The rows of a segment that are in some cells."""
    starts, n = segment.starts, len(segment.codes)
    assert starts is not None
    mask = np.zeros(n, bool)
    for cell in cells.tolist():
        mask[starts[cell] : starts[cell + 1]] = True
    bits = row_bits(mask)
    return segment._replace(bits=bits if segment.bits is None else bits & segment.bits)


def _blocks(
    table: NDArray[np.float32], segments: Sequence[CodeSegment]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Distances and ids of the active rows, one block of rows at a time."""
    wide = table.astype(np.float64)
    for segment in segments:
        n, active = len(segment.codes), None
        if segment.bits is not None:
            bits = segment.bits.view(np.uint8)
            active = np.unpackbits(bits, count=n, bitorder="little").astype(bool)
        for start in range(0, n, _BLOCK):
            rows = slice(start, min(start + _BLOCK, n))
            distances = _distances(wide, segment.codes.rows(rows.start, rows.stop))
            ids = np.arange(rows.start, rows.stop) if segment.ids is None else segment.ids[rows]
            if active is not None:
                distances, ids = distances[active[rows]], ids[active[rows]]
            yield distances, ids


def _distances(table: NDArray[np.float64], packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distances (n,) of rows of packed codes (n, code_size) by the table (M, K) of one query."""
    codes = unpack(packed, len(table), 8 if table.shape[1] == 256 else 4)
    total = table[0].take(codes[:, 0])
    for m in range(1, len(table)):
        total += table[m].take(codes[:, m])
    # A sum beyond the range of float32 is the largest float32: infinity means that there is no row.
    return np.clip(total, -_LARGEST, _LARGEST, out=total).astype(np.float32)


def _nearest(
    distances: NDArray[np.float32], labels: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k smallest pairs of distance and label, in order."""
    if len(distances) > k:
        # Everything up to the k-th distance, so that ties with it are ordered by label.
        near = np.flatnonzero(distances <= np.partition(distances, k - 1)[k - 1])
        distances, labels = distances[near], labels[near]
    order = np.lexsort((labels, distances))[:k]
    return distances[order], labels[order]
