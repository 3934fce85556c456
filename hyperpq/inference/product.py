"""`ProductCodebooks`: codebooks of curved subspaces, those of a `ProductQuantizer`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.geometry.registry import GeometryName, Metric
from hyperpq.inference.codebooks import Codes, Float64s
from hyperpq.inference.spaces import SPACES, nearest_columns, shortened

# Entries that fit a cache: of tables, and of the products that codes are read from.
_TABLE_ENTRIES, _CODE_ENTRIES = 1 << 16, 1 << 20


class ProductCodebooks:
    """Codebooks of M curved subspaces, frozen; see `ProductQuantizer`.

    Parameters
    ----------
    codebooks : ndarray, shape (M, K, D), float32
        Tangent vectors of the codewords.
    log_c : ndarray, shape (M,), float32
        Logarithm of the absolute curvatures.
    metric : {"l1", "geodesic", "chord"}
        How distances of the subspaces add up.
    max_norm : float
        Clip radius.
    geometry : str
        Space of each subspace.
    """

    def __init__(
        self,
        codebooks: NDArray[np.float32],
        log_c: NDArray[np.float32],
        *,
        metric: Metric,
        max_norm: float,
        geometry: GeometryName,
    ) -> None:
        self.M, self.K, self.D = codebooks.shape
        self.nbits, self.spaces = self.K.bit_length() - 1, self.M
        self.metric: Metric = metric
        self._space = SPACES[geometry]
        self._c: Float64s = np.exp(log_c.astype(np.float64))
        self._limit = self._space.limit(max_norm, self._c)
        column = self._c[:, None]
        self._vectors = self._space.clip(codebooks.astype(np.float64), max_norm, column)
        self._words = self._space.expmap0(self._vectors, column)
        self._table = self._space.table(self._words, column)

    def clip(self, v: Float64s) -> Float64s:
        """Tangent vectors (..., M, D), those longer than the space or ``max_norm`` shortened."""
        return shortened(v, self._limit)

    def points(self, v: Float64s) -> Float64s:
        """Tangent vectors (..., M, D) -> points (..., M, D), clipped and mapped."""
        return self._space.expmap0(self.clip(v), self._c)

    def codes(self, x: Float64s) -> Codes:
        """Points (n, M, D) -> codes (n, M) of the nearest codewords, the first of equal ones."""
        column = self._c[:, None]
        dual = np.swapaxes(self._space.dual(self._words, column), -1, -2)
        out = np.empty((len(x), self.M), np.uint8)
        step = max(1, _CODE_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            block = self._space.lift(x[start : start + step].swapaxes(0, 1), column)
            out[start : start + step] = nearest_columns(block, dual).T
        return out

    def tables(self, x: Float64s) -> Float64s:
        """Points (nq, M, D) of queries -> distances (nq, M, K) to every codeword."""
        column = self._c[:, None]
        out = np.empty((len(x), self.M, self.K))
        step = max(1, _TABLE_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            q2 = self._table(x[start : start + step].swapaxes(0, 1))
            out[start : start + step] = self._space.metric(q2.swapaxes(0, 1), column, self.metric)
        return out

    def decode(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> tangent vectors (n, M, D)."""
        return self._vectors[np.arange(self.M), codes]

    def code_points(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> points (n, M, D), with the bits of the codewords in `tables`."""
        return self._words[np.arange(self.M), codes]

    def corrections(self, codes: Codes) -> Float64s:
        """Zeros (n,): table entries say all that is known."""
        return np.zeros(len(codes))
