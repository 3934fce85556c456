"""`MicroClusters`: all rows of an index in many small clusters, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.quantizers.ward import micro_clusters
from hyperpq.utils.forks import blas

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Rows that k-means sees at most, and the numbers that their vectors have in all.
_SAMPLE, _SAMPLE_VALUES = 100_000, 1 << 26
_ITERATIONS = 10
# Rows that are compared with the centres at once: with 5,000 centres, 80 MB.
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class MicroClusters:
    """Rows by the nearest of m centres.

    Attributes
    ----------
    centers : ndarray, shape (m, D), float32
        The centres, from which the mean of all was subtracted.
    sizes : ndarray, shape (m,), int64
        Rows of each, at least 1.
    squares : ndarray, shape (m,), float64
        Sum of the squared distances of the rows to their centre.
    medoids : ndarray, shape (m,), int64
        Id of the row nearest to each centre, the lowest of equal ones.
    sample : int
        Rows that the centres were made of.
    """

    centers: NDArray[np.float32]
    sizes: NDArray[np.int64]
    squares: NDArray[np.float64]
    medoids: NDArray[np.int64]
    sample: int
    _ids: NDArray[np.int64]

    @classmethod
    def of(
        cls, view: IndexView, finest: int, *, seed: int, progress: ProgressLike = None
    ) -> MicroClusters:
        """The micro-clusters that a tree down to ``finest`` clusters needs."""
        centers, sample = _centers(view, micro_clusters(finest), seed)
        middle = centers.mean(0, dtype=np.float64).astype(np.float32)
        centers = centers - middle
        lengths = (centers * centers).sum(1)
        ids, labels = view.ids, np.empty(view.ntotal, np.int64)
        distances = np.empty(view.ntotal, np.float32)
        with as_progress(progress).phase("cluster", len(ids), "rows") as phase:
            for rows, v in _vectors(view, ids):
                v -= middle
                with blas:
                    cost = v @ centers.T
                cost *= -2
                cost += lengths
                labels[rows] = own = cost.argmin(1)
                distances[rows] = np.square(v - centers[own]).sum(1)
                phase.advance(len(own))
        used, labels = np.unique(labels, return_inverse=True)
        m = len(used)
        # In the order of centres, and of the nearest rows; ids ascend, so the lowest comes first.
        order = np.lexsort((distances, labels))
        sizes = np.bincount(labels, minlength=m)
        first = np.cumsum(sizes) - sizes
        return cls(
            centers[used],
            sizes,
            np.bincount(labels, distances, m).astype(np.float64),
            ids[order[first]],
            sample,
            ids[order],
        )

    @property
    def m(self) -> int:
        """Number of micro-clusters."""
        return len(self.centers)

    def ids_in(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids (n,) of all rows by their centres in an order, those near their centre first."""
        stop = np.cumsum(self.sizes)
        parts = [self._ids[stop[i] - self.sizes[i] : stop[i]] for i in order.tolist()]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def first_principal(self) -> NDArray[np.float64]:
        """Coordinate (m,) of each centre in the direction in which the rows differ most."""
        weights = self.sizes / self.sizes.sum()
        centred = self.centers - weights @ self.centers
        _, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
        main = vectors[:, -1]
        # The sign of an eigenvector is arbitrary.
        main = main * (1 if main[np.abs(main).argmax()] > 0 else -1)
        return np.asarray(centred @ main, np.float64)


def _centers(view: IndexView, m: int, seed: int) -> tuple[NDArray[np.float32], int]:
    """Centres of m micro-clusters at most, and the rows that they were made of."""
    rows, n, coder = view.rows, view.ntotal, view.coder
    if not n:
        raise InvalidInputError("the index has no rows; expected one that has; add some first.")
    width = coder.decode(np.zeros((1, coder.code_size), np.uint8)).shape[1]
    count = min(n, _SAMPLE, max(m, _SAMPLE_VALUES // width))
    positions = np.arange(n)
    if count < n:
        positions = np.sort(np.random.default_rng(seed).choice(n, count, replace=False))
    codes = rows.codes_of(rows.ids_at(positions))
    different = np.unique(codes, axis=0)
    if len(different) <= m:
        return coder.decode(different), count
    centers, labels = kmeans(coder.decode(codes), m, seed=seed, iterations=_ITERATIONS)
    return centers[np.unique(labels)], count


def _vectors(
    view: IndexView, ids: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Decoded codes of some rows in batches."""
    for start in range(0, len(ids), _BATCH):
        some = slice(start, min(start + _BATCH, len(ids)))
        yield some, view.decode(view.rows.codes_of(ids[some]))
