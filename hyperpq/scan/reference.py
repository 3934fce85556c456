"""The plain scan in numpy: what every faster kernel must agree with.

The score of a row is the float64 sum of its float32 table entries; rows are ordered by it, equal
scores by the lower id. Distances are returned as float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import Part, unpack

# Rows scored at a time: the float64 sums of a block stay in the L2 cache.
_BLOCK = 1 << 16


def search_parts(
    tables: NDArray[np.float32], parts: Sequence[Part], k: int, *, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact k nearest rows, see `scan.search`; ``threads`` queries are scanned at once."""
    nq = len(tables)
    D = np.full((nq, k), np.inf, np.float32)
    I = np.full((nq, k), -1, np.int64)  # noqa: E741

    def one(query: int) -> None:
        score, label = np.empty(0), np.empty(0, np.int64)
        for more, ids in _scored(tables[query], parts):
            score, label = _smallest(np.concatenate([score, more]), np.concatenate([label, ids]), k)
        with np.errstate(over="ignore"):  # A sum beyond float32 is infinity, beside its id.
            D[query, : len(score)] = score
        I[query, : len(label)] = label

    workers = min(threads, nq)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(nq)))
    else:
        for query in range(nq):
            one(query)
    return D, I


def range_search_parts(
    tables: NDArray[np.float32], parts: Sequence[Part], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """All rows below a radius, see `scan.range_search`."""
    lims = np.zeros(len(tables) + 1, np.int64)
    D: list[NDArray[np.float64]] = [np.empty(0)]
    I: list[NDArray[np.int64]] = [np.empty(0, np.int64)]  # noqa: E741
    for query, table in enumerate(tables):
        score, label = np.empty(0), np.empty(0, np.int64)
        for more, ids in _scored(table, parts):
            near = more < radius
            score, label = np.concatenate([score, more[near]]), np.concatenate([label, ids[near]])
        order = np.lexsort((label, score))
        lims[query + 1] = lims[query] + len(order)
        D.append(score[order])
        I.append(label[order])
    with np.errstate(over="ignore"):
        return lims, np.concatenate(D).astype(np.float32), np.concatenate(I)


def _scored(
    table: NDArray[np.float32], parts: Sequence[Part]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Scores and ids of the rows that take part, a block of rows at a time."""
    wide = table.astype(np.float64)
    for part in parts:
        n, taken = len(part.codes), None
        if part.bits is not None:
            bits = part.bits.view(np.uint8)
            taken = np.unpackbits(bits, count=n, bitorder="little").astype(bool)
        for start in range(0, n, _BLOCK):
            rows = slice(start, min(start + _BLOCK, n))
            score = _scores(wide, part.codes.rows(rows.start, rows.stop))
            ids = np.arange(rows.start, rows.stop) if part.ids is None else part.ids[rows]
            if taken is not None:
                score, ids = score[taken[rows]], ids[taken[rows]]
            yield score, ids


def _scores(table: NDArray[np.float64], packed: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Scores (n,) of rows of packed codes under one query's table (M, K)."""
    codes = unpack(packed, len(table), 8 if table.shape[1] == 256 else 4)
    score = table[0].take(codes[:, 0])
    for m in range(1, len(table)):
        score += table[m].take(codes[:, m])
    return score


def _smallest(
    score: NDArray[np.float64], label: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k smallest by (score, label), sorted."""
    if len(score) > k:
        # Everything up to the k-th score, so that ties at the border are settled by label.
        near = np.flatnonzero(score <= np.partition(score, k - 1)[k - 1])
        score, label = score[near], label[near]
    order = np.lexsort((label, score))[:k]
    return score[order], label[order]
