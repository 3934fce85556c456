"""`Hits`: what several pieces of codes have given for the same queries, on the host."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Hits beyond the results that are held unsorted.
_UNSORTED = 1 << 20


class Hits:
    """Distances and ids of rows by queries, of which the best are kept.

    Parameters
    ----------
    nq : int
        Number of queries.
    k : int or None
        How many of each query are kept; all of them if None.
    theta : float
        The largest distance that counts.

    Attributes
    ----------
    theta : ndarray, shape (nq,), float32
        No row at a greater distance is among the results of a query.
    """

    def __init__(self, nq: int, k: int | None, theta: float = np.inf) -> None:
        self.nq, self.k = nq, k
        self.theta = np.full(nq, theta, np.float32)
        self._hits = (np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64))
        self._new: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]] = []
        self._n_new = 0

    def add(self, query: NDArray[np.int64], D: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        """Add hits, three arrays of shape (n,)."""
        self._new.append((query, D, ids))
        self._n_new += len(query)
        if self.k is not None and self._n_new > self.nq * self.k + _UNSORTED:
            self.settle()

    def new(self) -> Hits:
        """An object without hits for the same queries, with the thresholds of now."""
        out = Hits(self.nq, self.k)
        out.theta = self.theta.copy()
        return out

    def merge(self, other: Hits) -> None:
        """Add the hits that another object holds for the same queries."""
        other.settle()
        self.add(*other._hits)

    def settle(self) -> None:
        """Sort what was added, drop what is no result, and lower ``theta``."""
        if not self._new:
            return
        parts = zip(self._hits, *self._new, strict=True)
        query, D, ids = (np.concatenate(part) for part in parts)
        self._new, self._n_new = [], 0
        order = np.lexsort((ids, D, query))
        if self.k is not None:
            of_query = query[order]
            starts = np.searchsorted(of_query, np.arange(self.nq))
            rank = np.arange(len(order)) - starts[of_query]
            last = order[rank == self.k - 1]
            self.theta[query[last]] = np.minimum(self.theta[query[last]], D[last])
            order = order[rank < self.k]
        self._hits = (query[order], D[order], ids[order])

    def nearest(self, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """D and I of shape (nq, k), padded with +inf and -1."""
        self.settle()
        D = np.full((self.nq, k), np.inf, np.float32)
        I = np.full((self.nq, k), -1, np.int64)  # noqa: E741
        query, distances, ids = self._hits
        rank = np.arange(len(query)) - np.searchsorted(query, np.arange(self.nq))[query]
        D[query, rank], I[query, rank] = distances, ids
        return D, I

    def within(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All hits: lims (nq + 1,), D and I."""
        self.settle()
        query, D, ids = self._hits
        return np.searchsorted(query, np.arange(self.nq + 1)).astype(np.int64), D, ids
