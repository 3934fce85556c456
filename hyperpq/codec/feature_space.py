"""`FeatureSpace`: distances of features themselves, without codes, as a codec compares them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SpaceMetric = Literal["cosine", "l2", "ip"]
"""How features are compared, see `FeatureSpace`."""

_SIGNIFICAND_BITS = 53  # of a float64: sums of integers up to 2**53 are exact in any order


class Directions(NamedTuple):
    """Directions of features: rows of integers, and their lengths.

    Attributes
    ----------
    rows : ndarray, shape (n, d), float64
        Integers whose products are exact, whatever the order in which they are summed.
    lengths : ndarray, shape (n,), float64
        Lengths of the rows; 0 for a feature without a direction.
    """

    rows: NDArray[np.float64]
    lengths: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Distances of features, as the codec that was learned from such features compares them.

    A distance depends on the two features alone, to the last bit: not on other rows, the number of
    threads or the processor.

    Attributes
    ----------
    metric : {"cosine", "l2", "ip"}
        ``cosine``: the squared chord 2 - 2 cos of the directions, from 0 to 4, and 2 where a
        feature has none; ``l2``: the squared Euclidean distance; ``ip``: the negated inner product.
    root : bool
        Whether ``cosine`` compares signed square roots of features.
    mean : ndarray, shape (d,), float32, or None
        What ``cosine`` subtracts from features, after the root.
    """

    metric: SpaceMetric
    root: bool = False
    mean: NDArray[np.float32] | None = None

    def distances(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances from one feature to others.

        Parameters
        ----------
        x : ndarray, shape (d,), float32
            The feature.
        y : ndarray, shape (n, d), float32
            The others.

        Returns
        -------
        ndarray, shape (n,), float64
            With a relative error of about 2^-21 of the largest products.
        """
        if self.metric == "cosine":
            return _chords(self.directions(x[None]), self.directions(y))[0]
        wide = x.astype(np.float64)
        if self.metric == "ip":
            (own, unit), (others, units) = _fixed_point(wide[None]), _fixed_point(y)
            return -(others @ own[0]) * units * unit[0]
        # The differences are rounded, and not the features, as near ones are what matters.
        rows, units = _fixed_point(wide - y)
        return np.einsum("ij,ij->i", rows, rows) * units**2

    def pairs(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances (n, n) between features (n, d)."""
        if self.metric == "cosine":
            found = self.directions(x)
            return _chords(found, found)
        rows, units = _fixed_point(x)
        products = (rows @ rows.T) * units[:, None] * units
        if self.metric == "ip":
            return -products
        squares = products.diagonal()
        out: NDArray[np.float64] = np.maximum(squares[:, None] + squares - 2 * products, 0)
        return out

    def directions(self, x: NDArray[np.float32]) -> Directions:
        """Directions of features (n, d) in the metric ``cosine``."""
        # All steps are of float32, whose roots and sums are rounded alike everywhere.
        if self.root:
            roots = np.abs(x)
            np.sqrt(roots, out=roots)
            x = np.copysign(roots, x, out=roots)
        if self.mean is not None:
            x = x - self.mean
        rows, _ = _fixed_point(x)
        return Directions(rows, np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def _chords(x: Directions, y: Directions) -> NDArray[np.float64]:
    """Squared chords (n, m) of directions (n, d) and (m, d)."""
    lengths = x.lengths[:, None] * y.lengths
    # Two features of length 0 have the product 0.
    cosines = (x.rows @ y.rows.T) / np.maximum(lengths, 1)
    return np.maximum(2 - 2 * cosines, 0)


def _fixed_point(
    x: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows (n, d) as integers and their units (n,), powers of two.

    A sum of d products of two such rows is at most 2^53.
    """
    bits = (_SIGNIFICAND_BITS - math.ceil(math.log2(max(x.shape[1], 1)))) // 2
    largest = np.maximum(x.max(1, initial=0), -x.min(1, initial=0)).astype(np.float64)
    exponents = np.frexp(largest)[1].astype(np.int64) - bits
    rows = np.ldexp(1.0, -exponents)[:, None] * x
    return np.rint(rows, out=rows), np.ldexp(1.0, exponents)
