"""`FlatCodebooks`: codebooks of Euclidean subspaces, those of a `FlatProductQuantizer`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.inference.codebooks import Codes, Float64s
from hyperpq.quantizers.flat_metrics import FlatMetric
from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import MAX_TERMS, ExactMatrix, bits_of, squared_lengths
from hyperpq.utils.forks import cached

# Products with codewords in memory at once.
_MAX_ENTRIES = 1 << 20
# Share of the squared lengths below which a squared distance is not computed from them.
_NEAR = 2.0**-16


class FlatCodebooks:
    """Codebooks of M Euclidean subspaces, frozen; see `FlatProductQuantizer`.

    Parameters
    ----------
    codebooks : ndarray, shape (M, K, D), float32
        Codewords.
    metric : {"l2", "ip"}
        Squared Euclidean distance, or the negative of the inner product.
    """

    def __init__(self, codebooks: NDArray[np.float32], *, metric: FlatMetric) -> None:
        self.M, self.K, self.D = codebooks.shape
        self.nbits, self.spaces = self.K.bit_length() - 1, self.M
        self.metric: FlatMetric = metric
        self._books = codebooks
        self._words = codebooks.astype(np.float64)
        # With the middle of the codewords as the origin, few distances are much smaller than
        # lengths.
        middle = (self._words.min(1) + self._words.max(1)) / 2
        self._middle = np.zeros_like(middle) if metric == "ip" else middle
        shifted = self._words - self._middle[:, None]
        self._factor = ExactMatrix(shifted.swapaxes(1, 2))
        self._lengths = squared_lengths(shifted)[:, None]
        self._first: NDArray[np.int64] | None = None

    def clip(self, v: Float64s) -> Float64s:
        """Vectors as they are; none is too long for flat space."""
        return v

    def points(self, v: Float64s) -> Float64s:
        """Vectors as they are; they are the points of flat space."""
        return v

    def codes(self, x: Float64s) -> Codes:
        """Vectors (n, M, D) -> codes (n, M): by the l2 distance, the first of equal codewords."""
        if self._first is None:
            self._first = np.stack([_first_of_equals(book) for book in self._books])
        words = self._words.swapaxes(1, 2)
        lengths = (self._words * self._words).sum(-1)[:, None]
        out = np.empty((len(x), self.M), np.uint8)
        step = max(1, _MAX_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            cost = x[start : start + step].swapaxes(0, 1) @ words
            cost *= -2
            cost += lengths
            nearest = np.take_along_axis(self._first, cost.argmin(-1), 1)
            out[start : start + step] = nearest.T
        return out

    def tables(self, x: Float64s) -> Float64s:
        """Queries (nq, M, D) -> share of every codeword in the distance (nq, M, K)."""
        native = exact_products._native
        if native is not None and 0 < self.D <= MAX_TERMS:
            out, near = native.product_tables(
                np.ascontiguousarray(x - self._middle), *self._slices, _NEAR
            )
            if len(near):
                row, m, k = np.unravel_index(near, out.shape)
                out[row, m, k] = squared_lengths(x[row, m] - self._words[m, k])
            return out
        out = np.empty((len(x), self.M, self.K))
        step = max(1, _MAX_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            given = x[start : start + step].swapaxes(0, 1)
            points = given - self._middle[:, None]
            share = self._factor.left_product(points)
            if self.metric == "ip":
                np.negative(share, out=share)
            else:
                both = self._lengths + squared_lengths(points)[..., None]
                share *= -2
                share += both
                m, row, k = np.nonzero(share < both * _NEAR)
                share[m, row, k] = squared_lengths(given[m, row] - self._words[m, k])
            out[start : start + step] = share.swapaxes(0, 1)
        return out

    @cached
    def _slices(self) -> tuple[Float64s, Float64s, Float64s, Float64s | None, int]:
        """What compiled code takes: see `product_tables`."""
        lengths = None if self.metric == "ip" else np.ascontiguousarray(self._lengths[:, 0])
        return (*self._factor.slices(), lengths, bits_of(self.D))

    def decode(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> vectors (n, M, D)."""
        return self._words[np.arange(self.M), codes]

    def code_points(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> the decoded vectors (n, M, D)."""
        return self.decode(codes)

    def corrections(self, codes: Codes) -> Float64s:
        """Zeros (n,): table entries say all that is known."""
        return np.zeros(len(codes))


def _first_of_equals(book: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each codeword (K, D) the first one equal to it (K,); a BLAS may rank equal ones apart."""
    _, first, same = np.unique(book, axis=0, return_index=True, return_inverse=True)
    return first[same.reshape(-1)]
