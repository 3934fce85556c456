"""The plain scan in numpy: what every faster kernel must agree with.

The score of a row is the float64 sum of its float32 table entries; rows are ordered by it, equal
scores by the lower id. Distances are returned as float32.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import unpack

# Rows scored at a time: the float64 sums of a block stay in the L2 cache.
_BLOCK = 1 << 16


class Part(NamedTuple):
    """Some rows of an index.

    Attributes
    ----------
    codes : ndarray, shape (n, code_size), uint8
        Packed codes (K = 16: two to a byte, see `codes.pack`), memory-mapped or not.
    ids : ndarray, shape (n,), int64
        Their ids.
    mask : ndarray, shape (n,), bool, or None
        Rows that take part; all unless given.
    """

    codes: NDArray[np.uint8]
    ids: NDArray[np.int64]
    mask: NDArray[np.bool_] | None = None


def search(
    tables: NDArray[np.float32],
    codes: NDArray[np.uint8],
    k: int,
    *,
    threads: int | None = None,
    ids: NDArray[np.int64] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`search_parts` over one array of codes; ``ids`` are 0 to n - 1 unless given."""
    labels = np.arange(len(codes), dtype=np.int64) if ids is None else ids
    return search_parts(tables, [Part(codes, labels, mask)], k, threads=threads)


def search_parts(
    tables: NDArray[np.float32], parts: Sequence[Part], k: int, *, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact k nearest rows under additive tables.

    Parameters
    ----------
    tables : ndarray, shape (nq, M, K), float32
        Score of each codeword for each query; finite.
    parts : sequence of Part
        The rows, with distinct ids.
    k : int
        At least 1.
    threads : int, optional
        Queries scanned at once; all cores unless given. The answer doesn't depend on it.

    Returns
    -------
    D : ndarray, shape (nq, k), float32
        Ascending, padded with +inf.
    I : ndarray, shape (nq, k), int64
        Ids, ties by the lower one, padded with -1.
    """
    nq, _, K = tables.shape
    D = np.full((nq, k), np.inf, np.float32)
    I = np.full((nq, k), -1, np.int64)  # noqa: E741
    wide = tables.astype(np.float64)
    nbits = 8 if K == 256 else 4

    def one(query: int) -> None:
        score, label = np.empty(0), np.empty(0, np.int64)
        for part in parts:
            for start in range(0, len(part.codes), _BLOCK):
                rows = slice(start, start + _BLOCK)
                more = _scores(wide[query], part.codes[rows], nbits)
                ids = part.ids[rows]
                if part.mask is not None:
                    more, ids = more[part.mask[rows]], ids[part.mask[rows]]
                score, label = _smallest(
                    np.concatenate([score, more]), np.concatenate([label, ids]), k
                )
        D[query, : len(score)] = score
        I[query, : len(label)] = label

    workers = min(threads or os.cpu_count() or 1, nq)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(nq)))
    else:
        for query in range(nq):
            one(query)
    return D, I


def _scores(
    table: NDArray[np.float64], packed: NDArray[np.uint8], nbits: int
) -> NDArray[np.float64]:
    """Scores (n,) of rows of packed codes under one query's table (M, K)."""
    codes = unpack(packed, len(table), nbits)
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
