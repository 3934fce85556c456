"""`Smoothing` of vectors, see `hyperpq.codec.smoothing`, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.inference.codebooks import Float64s
from hyperpq.utils.nearest_columns import NearestColumns

MIN_CENTROIDS = 80
"""Centroids for each one that a mean has at least."""
# Vectors whose neighbours are copied at once.
_FEW = 4
# The weight of a recipe is that for codes of up to so many bits.
_SHORT_BITS = 64


def weight_for_bits(weight: float, bits: int) -> float:
    """Weight of the mean for codes of some length, from that for codes of up to 64 bits.

    A codeword is itself a mean, and the longer the code is, the fewer vectors it is a mean of. So
    codes of 128 bits are smoothed twice by ``weight``, and so on (docs/method.md, section 9).
    """
    return weight if bits <= _SHORT_BITS else 1 - (1 - weight) ** (bits / _SHORT_BITS)


class Smoothing:
    """Mixes vectors with the mean of their nearest centroids.

    Parameters
    ----------
    centroids : ndarray, shape (m, width), float32
        Centroids, in the coordinates of the subspaces.
    weight : float
        Share of the mean in the result.
    neighbours : int
        Number of centroids in a mean, 1 or more.
    """

    def __init__(
        self,
        centroids: NDArray[np.float32],
        weight: float,
        neighbours: int,
    ) -> None:
        self._centroids = wide = centroids.astype(np.float64)
        length = np.sqrt((wide * wide).sum(1, keepdims=True))
        directions = (wide / np.maximum(length, 1e-12)).astype(np.float32)
        # Negated, as the smallest numbers are looked for.
        self._opposite = NearestColumns(-directions.T.astype(np.float64))
        self._weight, self._neighbours = weight, neighbours

    def __call__(self, v: Float64s) -> Float64s:
        """Vectors (n, width) -> smoothed vectors (n, width)."""
        mean = sum_of_rows(self._centroids, self._opposite.smallest(v, self._neighbours))
        mean /= self._neighbours
        return (1 - self._weight) * v + self._weight * mean


def sum_of_rows(x: Float64s, which: NDArray[np.int64]) -> Float64s:
    """Sums (n, width) of the rows of x (m, width) with the numbers (n, count), added in turn."""
    if len(which) <= _FEW and x.shape[1] > 1:
        # NumPy adds row to row where the axis is not the last one, and takes half as long.
        few: Float64s = np.add.reduce(x[which], 1)
        return few
    total = x[which[:, 0]]
    for j in range(1, which.shape[1]):
        total += x[which[:, j]]
    return total
