"""Quality of retrieval: mean average precision, precision, and recall of exact neighbours."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.utils.validation import as_choice, as_count, as_features

__all__ = ["Metric", "knn", "mean_average_precision", "precision_at", "recall_at"]

Metric: TypeAlias = Literal["cosine", "l2", "ip"]
"""What `knn` compares by."""
METRICS: tuple[Metric, ...] = get_args(Metric)
# Queries whose distances to a batch of the database are in memory at once.
_QUERIES = 512
_LARGEST = float(np.finfo(np.float32).max)


def mean_average_precision(relevant: NDArray[np.bool_], k: int | None = None) -> float:
    """Mean average precision of the first k results, mAP@k.

    The average precision of a query divides by the number of relevant results among its first k,
    as is usual for hashing, and not by the number of all relevant items.

    Parameters
    ----------
    relevant : ndarray, shape (nq, n), bool
        Whether the result at each rank is relevant, best first.
    k : int, optional
        Ranks that count; all unless given.

    Returns
    -------
    float
        Mean over queries; a query without a relevant result counts 0.

    Examples
    --------
    >>> relevant = np.array([[True, False, True], [False, False, False]])
    >>> round(mean_average_precision(relevant), 3)
    0.417
    """
    hits = relevant[:, :k].astype(np.float64)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    found = hits.sum(1)
    return float(((precision * hits).sum(1) / np.maximum(found, 1)).mean())


def precision_at(relevant: NDArray[np.bool_], k: int) -> float:
    """Share of relevant results among the first k.

    Parameters
    ----------
    relevant : ndarray, shape (nq, n), bool
        Whether the result at each rank is relevant, best first.
    k : int
        Ranks that count.

    Returns
    -------
    float
        Mean over queries.
    """
    return float(relevant[:, :k].mean())


def recall_at(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true neighbours that were found.

    Parameters
    ----------
    found : ndarray, shape (nq, a), int64
        Ids that a search returned; -1 is no id.
    truth : ndarray, shape (nq, b), int64
        Ids of the exact neighbours, as `knn` returns them.

    Returns
    -------
    float
        Mean over queries.
    """
    shared = [len(np.intersect1d(f[f >= 0], t)) for f, t in zip(found, truth, strict=True)]
    return float(np.mean(shared) / truth.shape[1])


def knn(
    queries: ArrayLike,
    database: ArrayLike,
    k: int,
    *,
    metric: Metric = "cosine",
    batch: int = 16384,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Exact nearest neighbours by brute force: the truth that `recall_at` compares with.

    Parameters
    ----------
    queries : array_like, shape (nq, d)
        Vectors whose neighbours are searched.
    database : array_like, shape (n, d)
        Vectors among which they are searched.
    k : int
        Neighbours of each query.
    metric : {"cosine", "l2", "ip"}
        Cosine (0 where a vector is zero), squared Euclidean distance, or inner product.
    batch : int
        Rows of the database that are compared with 512 queries at once. The result does not depend
        on it, up to rounding in float64.

    Returns
    -------
    D : ndarray, shape (nq, k), float32
        Nearest first, as in FAISS: ``l2`` ascending, padded with +inf; ``cosine`` and ``ip`` are
        similarities, descending and padded with -inf.
    I : ndarray, shape (nq, k), int64
        Rows of the database, of equal ``D`` the lower one first; -1 where it has fewer than k.

    Raises
    ------
    InvalidInputError
        An argument has another shape, dtype or value.

    Notes
    -----
    Everything is computed in float64, and rows are compared by the float32 that is returned.
    Squared distances by a float32 matrix product, which some builds of FAISS use, put near
    neighbours of long vectors into a random order.
    """
    as_choice(metric, "metric", METRICS)
    k, batch = as_count(k, "k"), as_count(batch, "batch")
    x = as_features(queries, None, "queries")
    y = as_features(database, x.shape[1], "database")
    cost = np.full((len(x), k), np.inf, np.float32)
    I = np.full((len(x), k), -1, np.int64)  # noqa: E741
    for start in range(0, len(x), _QUERIES):
        rows = slice(start, start + _QUERIES)
        near, which = _nearest(x[rows], y, min(k, len(y)), metric, batch)
        cost[rows, : near.shape[1]], I[rows, : near.shape[1]] = near, which
    return (cost if metric == "l2" else 0 - cost), I


def _nearest(
    x: NDArray[np.float32], y: NDArray[np.float32], k: int, metric: Metric, batch: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Costs and rows of the k nearest, k <= len(y): both (nq, k)."""
    left = _wide(x, metric)
    best = np.empty((len(x), 0), np.int64)
    for start in range(0, len(y), batch):
        costs = _costs(left, _wide(y[start : start + batch], metric), metric)
        best = np.concatenate([best, _keys(costs, start)], 1)
        if best.shape[1] > k:
            best = np.partition(best, k - 1, axis=1)[:, :k]
    best.sort(axis=1)
    return _from_keys(best)


def _keys(costs: NDArray[np.float64], start: int) -> NDArray[np.int64]:
    """Integers in the order of the costs as float32, ties by the lower row; rows from ``start``."""
    near = np.clip(costs, -_LARGEST, _LARGEST, out=costs).astype(np.float32)
    near += 0  # -0.0 becomes 0.0.
    keys = _in_order(near.view(np.int32)).astype(np.int64)
    keys <<= 32
    keys |= np.arange(start, start + costs.shape[1])
    return keys


def _from_keys(keys: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Costs and rows of `_keys`."""
    return _in_order((keys >> 32).astype(np.int32)).view(np.float32), keys & 0xFFFFFFFF


def _in_order(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of floats to integers in their order, and back: negative ones are turned round."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def _costs(
    left: NDArray[np.float64], right: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """Squared distances or negated products of all pairs of rows."""
    out = left @ right.T
    if metric != "l2":
        return np.negative(out, out=out)
    out *= -2
    out += np.square(right).sum(1)
    out += np.square(left).sum(1)[:, None]
    return np.maximum(out, 0, out=out)


def _wide(x: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """Rows in float64, of unit length for the cosine; zero rows stay zero."""
    wide = x.astype(np.float64)
    if metric == "cosine":
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        wide /= np.where(length > 0, length, 1)
    return wide
