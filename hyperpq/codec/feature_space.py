"""`FeatureSpace`: distances of features themselves, without codes, as a codec compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.codec.feature_products import FeatureForm, Pairs, fixed_point, products
from hyperpq.errors import InvalidInputError
from hyperpq.utils.exact_products import squared_lengths
from hyperpq.utils.forks import blas

SpaceMetric = Literal["cosine", "l2", "ip"]
"""How features are compared, see `FeatureSpace`."""


# Share of its largest length below which a sum of directions is no direction.
_LEAST_LENGTH = 1e-3


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


class Probes(NamedTuple):
    """Queries as `FeatureSpace.between` needs them, from `FeatureSpace.probes`.

    Attributes
    ----------
    rows : ndarray, shape (nq, d), float64
        Integers, or features in the metric ``l2``.
    scales : ndarray, shape (nq,), float64
        Lengths of the rows in the metric ``cosine``, units in ``ip``.
    """

    rows: NDArray[np.float64]
    scales: NDArray[np.float64]


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

    @cached_property
    def _form(self) -> FeatureForm:
        return FeatureForm(self.root, self.mean) if self.metric == "cosine" else FeatureForm()

    def probes(self, x: NDArray[np.float32]) -> Probes:
        """Queries (nq, d), prepared once for all features that they are compared with."""
        if self.metric == "l2":
            # The differences are rounded, and not the features, as near ones are what matters.
            return Probes(np.ascontiguousarray(x, np.float64), np.ones(len(x)))
        return Probes(*(fixed_point(x) if self.metric == "ip" else self.directions(x)))

    def between(
        self, probes: Probes, several: Sequence[Pairs], kept_by: FeatureCodec, threads: int = 1
    ) -> NDArray[np.float64]:
        """Distances of pairs of a query and a kept feature.

        Parameters
        ----------
        probes : Probes
            The queries.
        several : sequence of Pairs
            Which features are compared with which of them.
        kept_by : FeatureCodec
            How the features are kept.
        threads : int
            Number of threads.

        Returns
        -------
        ndarray, shape (m,), float64
            Of all pairs, in order, with a relative error of about 2^-21 of the largest products.
        """
        found = products(
            probes.rows,
            several,
            kept_by,
            self._form,
            differences=self.metric == "l2",
            threads=threads,
        )
        if self.metric == "l2":
            return found.square * found.unit**2
        queries = np.concatenate([np.empty(0, np.int64), *(part.queries for part in several)])
        scales = probes.scales[queries]
        if self.metric == "ip":
            return -found.dot * found.unit * scales
        return _chords(found.dot, scales * np.sqrt(found.square))

    def distances(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances (n,) from one feature (d,) to others (n, d), see `between`."""
        kept_by, n = FeatureCodec("float32", len(x)), len(y)
        pairs = Pairs(kept_by.encode(y), np.arange(n), np.zeros(n, np.int64))
        return self.between(self.probes(x[None]), [pairs], kept_by)

    def pairs(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distances (n, n) between features (n, d)."""
        if self.metric == "cosine":
            found = self.directions(x)
            with blas:
                dot = found.rows @ found.rows.T
            return _chords(dot, found.lengths[:, None] * found.lengths)
        rows, units = fixed_point(x)
        with blas:
            dot = (rows @ rows.T) * units[:, None] * units
        if self.metric == "ip":
            return -dot
        squares = dot.diagonal()
        out: NDArray[np.float64] = np.maximum(squares[:, None] + squares - 2 * dot, 0)
        return out

    def combined(self, x: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float32]:
        """One feature that stands for several: their mean as this space compares features.

        Parameters
        ----------
        x : ndarray, shape (n, d), float32
            Features.
        weights : ndarray, shape (n,), float64
            Their weights; those below 0 lead away from a feature. One at least is above 0.

        Returns
        -------
        ndarray, shape (d,), float32
            In the metric ``cosine`` a feature whose direction is that of the weighted sum of the
            directions, and whose length, after the normalization, is the mean of theirs. In the
            others the weighted sum divided by the sum of the weights above 0.

        Raises
        ------
        InvalidInputError
            If nothing is left of the directions.
        """
        values = self._form.values(x).astype(np.float64)
        lengths = np.sqrt(squared_lengths(values))
        if self.metric != "cosine":
            total = weighted_sum(values, weights) / weights[weights > 0].sum()
            return total.astype(np.float32)
        total = weighted_sum(values / np.maximum(lengths, 1e-300)[:, None], weights)
        length = np.sqrt(squared_lengths(total))
        if length < _LEAST_LENGTH * np.abs(weights).sum():
            raise InvalidInputError(
                "the images of a query cancel each other out; expected other weights, or one image "
                "without another that is like it and has a negative weight."
            )
        shares = np.abs(weights) / np.abs(weights).sum()
        total *= weighted_sum(lengths[:, None], shares)[0] / length
        if self.mean is not None:
            total += self.mean
        out = np.copysign(total * total, total) if self.root else total
        return out.astype(np.float32)

    def directions(self, x: NDArray[np.float32]) -> Directions:
        """Directions of features (n, d) in the metric ``cosine``."""
        rows, _ = fixed_point(self._form.values(x))
        return Directions(rows, np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def weighted_sum(x: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum (d,) of rows (n, d) times weights (n,), one after another, as no batch may show."""
    total = np.zeros(x.shape[1])
    for row, weight in zip(x, weights, strict=True):
        total += weight * row
    return total


def _chords(dot: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared chords of products of directions and the products of their lengths."""
    # Two features of length 0 have the product 0.
    out: NDArray[np.float64] = np.maximum(2 - 2 * (dot / np.maximum(lengths, 1)), 0)
    return out
