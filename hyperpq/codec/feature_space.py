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
from hyperpq.utils.forks import blas

SpaceMetric = Literal["cosine", "l2", "ip"]
"""How features are compared, see `FeatureSpace`."""


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

    def directions(self, x: NDArray[np.float32]) -> Directions:
        """Directions of features (n, d) in the metric ``cosine``."""
        rows, _ = fixed_point(self._form.values(x))
        return Directions(rows, np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def _chords(dot: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared chords of products of directions and the products of their lengths."""
    # Two features of length 0 have the product 0.
    out: NDArray[np.float64] = np.maximum(2 - 2 * (dot / np.maximum(lengths, 1)), 0)
    return out
