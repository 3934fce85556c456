"""`Dendrogram`: the binary tree of a Ward clustering, in which each node is a range of leaves."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dendrogram:
    """Merges of m points as a tree.

    Nodes from 0 to m - 1 are the points; node m + t is what merge t made, the cheapest one first.

    Attributes
    ----------
    children : ndarray, shape (m - 1, 2), int64
        The two nodes that each merge joined.
    start, stop : ndarray, shape (2 m - 1,), int64
        A node has the points ``order[start:stop]``.
    order : ndarray, shape (m,), int64
        The points from one end of the tree to the other.
    """

    children: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, pairs: NDArray[np.int64], rank: NDArray[np.float64]) -> Dendrogram:
        """The tree of some merges.

        Parameters
        ----------
        pairs : ndarray, shape (m - 1, 2), int64
            As `weighted_ward` returns them.
        rank : ndarray, shape (m,)
            Which points are to come first, as far as the tree leaves a choice: of two nodes that
            are merged, the one whose points have the smaller mean.
        """
        m = len(pairs) + 1
        children = np.empty((m - 1, 2), np.int64)
        count, total = np.ones(2 * m - 1, np.int64), np.zeros(2 * m - 1)
        total[:m] = rank
        above, node = np.arange(m), np.arange(m)
        for t, (i, j) in enumerate(pairs.tolist()):
            a, b = _root(above, i), _root(above, j)
            left, right = int(node[a]), int(node[b])
            if total[right] / count[right] < total[left] / count[left]:
                left, right = right, left
            children[t] = left, right
            count[m + t] = count[left] + count[right]
            total[m + t] = total[left] + total[right]
            above[b], node[a] = a, m + t
        start = np.zeros(2 * m - 1, np.int64)
        # A node comes after its children, so that backwards each has its place before they do.
        for t in range(m - 2, -1, -1):
            left, right = children[t]
            start[left] = start[m + t]
            start[right] = start[m + t] + count[left]
        order = np.empty(m, np.int64)
        order[start[:m]] = np.arange(m)
        return cls(children, start, start + count, order)

    @property
    def m(self) -> int:
        """Number of points."""
        return len(self.order)

    @property
    def root(self) -> int:
        """The node of all points."""
        return 2 * self.m - 2

    def cut(self, clusters: int) -> list[int]:
        """The nodes that are left when all but the last ``clusters - 1`` merges are made."""
        return self.split(self.root, clusters)

    def split(self, node: int, parts: int) -> list[int]:
        """A node in as many parts, fewer if it has fewer points, in the order of the tree.

        The last merges are undone.
        """
        largest = [-node]
        while len(largest) < parts and -largest[0] >= self.m:
            left, right = self.children[-heapq.heappop(largest) - self.m].tolist()
            heapq.heappush(largest, -left)
            heapq.heappush(largest, -right)
        return sorted((-n for n in largest), key=lambda n: int(self.start[n]))


def _root(above: NDArray[np.int64], i: int) -> int:
    while above[i] != i:
        above[i] = above[above[i]]
        i = int(above[i])
    return i
