"""Hierarchies of many points: micro-clusters, then size-weighted Ward.

Plain Ward needs O(n^2) memory, 10 GB for 50 thousand points. k-means first reduces the points to
some thousand micro-clusters. Where there are clusters, Ward that knows the sizes of the
micro-clusters gives the same tree in seconds (adjusted Rand index 0.97 to 1.00 against full Ward,
docs/method.md, section 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyperpq.quantizers.kmeans import kmeans

# Fewest micro-clusters, and how many there are at least for each cluster of the finest level.
MIN_MICRO_CLUSTERS, _MICRO_FOR_EACH = 1000, 5


def weighted_ward(
    centers: NDArray[np.float32], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ward linkage of weighted points, by the nearest-neighbour chain.

    The cost of a merge is ``2 w_i w_j / (w_i + w_j) |c_i - c_j|^2`` (the square of scipy's height),
    updated by Lance-Williams.

    Parameters
    ----------
    centers : ndarray, shape (m, D)
        Points.
    sizes : ndarray, shape (m,)
        How many features each stands for, at least 1.

    Returns
    -------
    pairs : ndarray, shape (m - 1, 2), int64
        Two members (original indices, one of each cluster) of every merge, cheapest merge first.
    costs : ndarray, shape (m - 1,), float64
        Cost of each merge.
    """
    m = len(centers)
    c, w = centers.astype(np.float64), sizes.astype(np.float64)
    norms = (c * c).sum(1)
    cost = norms[:, None] + norms[None, :] - 2 * c @ c.T
    np.maximum(cost, 0, out=cost)
    cost *= 2 * w[:, None] * w[None, :] / (w[:, None] + w[None, :])
    np.fill_diagonal(cost, np.inf)
    alive = np.ones(m, bool)
    pairs, costs = np.empty((max(m - 1, 0), 2), np.int64), np.empty(max(m - 1, 0))
    chain: list[int] = []
    for step in range(m - 1):
        if not chain:
            chain.append(int(alive.argmax()))
        while True:
            i = chain[-1]
            j = int(cost[i].argmin())
            # The previous link wins ties, or the chain could run in circles.
            if len(chain) > 1 and cost[i, chain[-2]] <= cost[i, j]:
                j = chain[-2]
                break
            chain.append(j)
        del chain[-2:]
        pairs[step], costs[step] = (i, j), cost[i, j]
        total = w[i] + w[j] + w
        merged = ((w[i] + w) * cost[i] + (w[j] + w) * cost[j] - w * cost[i, j]) / total
        alive[i] = False
        merged[~alive] = np.inf
        merged[j] = np.inf
        cost[j], cost[:, j] = merged, merged
        cost[i], cost[:, i] = np.inf, np.inf
        w[j] += w[i]
    order = np.argsort(costs, kind="stable")
    return pairs[order], costs[order]


def cut(pairs: NDArray[np.int64], m: int, clusters: int) -> NDArray[np.int64]:
    """Labels (m,), numbered from 0, when the cheapest merges leave ``clusters`` clusters."""
    parent = np.arange(m)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs[: max(m - clusters, 0)]:
        parent[root(int(i))] = root(int(j))
    return np.unique([root(i) for i in range(m)], return_inverse=True)[1].astype(np.int64)


def micro_clusters(finest: int) -> int:
    """How many micro-clusters give the tree down to a level of ``finest`` clusters."""
    return max(MIN_MICRO_CLUSTERS, _MICRO_FOR_EACH * finest)


def usable_levels(levels: Sequence[int], n: int) -> tuple[int, ...]:
    """The levels that n features can fill with at least two to a cluster."""
    return tuple(level for level in levels if 2 * level <= n)


def cluster_levels(
    x: NDArray[np.float32],
    levels: Sequence[int],
    *,
    seed: int,
    micro: int | None = None,
    device: str = "cpu",
) -> list[NDArray[np.int64]]:
    """Nested cluster labels of features.

    Parameters
    ----------
    x : ndarray, shape (n, D), float32
        Features, n >= max(levels).
    levels : sequence of int
        Clusters of each level.
    seed : int
        Of the micro-clusters.
    micro : int, optional
        Micro-clusters; the larger of 1,000 and 5 times the finest level unless given. With fewer
        features Ward runs on the features themselves.
    device : str
        See `kmeans`.

    Returns
    -------
    list of ndarray, each (n,), int64
        Labels of each level, in the order of ``levels``.
    """
    m = micro or micro_clusters(max(levels))
    if len(x) <= m:
        centers, labels = x, np.arange(len(x), dtype=np.int64)
    else:
        centers, labels = kmeans(x, m, seed=seed, iterations=10, device=device)
        used, labels = np.unique(labels, return_inverse=True)
        centers = centers[used]
    sizes = np.bincount(labels, minlength=len(centers))
    pairs, _ = weighted_ward(centers, sizes)
    return [cut(pairs, len(centers), level)[labels] for level in levels]
