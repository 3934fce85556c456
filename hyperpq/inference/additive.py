"""`AdditiveCodebooks`: codewords that add up, those of an `AdditiveQuantizer`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.inference.codebooks import Codes, Float64s
from hyperpq.quantizers.additive_constants import BEAM, DISCOUNT, SHARE
from hyperpq.quantizers.flat_metrics import FidelityMetric
from hyperpq.utils.exact_products import RoundedMatrix, squared_lengths

_BATCH_ROWS = 256
# Candidates in one bin when the smallest ones are looked for.
_BIN = 16


class AdditiveCodebooks:
    """Codewords that add up, frozen; `AdditiveQuantizer` says what they mean.

    Parameters
    ----------
    codebooks : ndarray, shape (M, K, D), float32
        Codewords (c, n).
    stress : float
        Weight of the error of N.
    metric : {"cosine", "l2", "ip"}
        What distances estimate.
    """

    spaces = 1

    def __init__(
        self, codebooks: NDArray[np.float32], stress: float, *, metric: FidelityMetric
    ) -> None:
        self.M, self.K, self.D = codebooks.shape
        self.nbits = self.K.bit_length() - 1
        self.metric: FidelityMetric = metric
        self._stress = stress
        self._books = codebooks.astype(np.float64)
        words = self._books.reshape(-1, self.D)
        # Minus the products is what every metric has, the Euclidean ones twice.
        factor = -1 if metric == "ip" else -2
        self._words, self._shares = (factor * words[:, :-1]).T.copy(), DISCOUNT * words[:, -1]
        self._rounded: list[RoundedMatrix] | None = None

    def clip(self, v: Float64s) -> Float64s:
        """Vectors (..., 1, D) as they are."""
        return v

    def points(self, v: Float64s) -> Float64s:
        """Vectors (..., 1, D) as they are."""
        return v

    def codes(self, x: Float64s) -> Codes:
        """Vectors (n, 1, D) -> codes (n, M) by beam search, see `AdditiveQuantizer.codes`."""
        out = np.empty((len(x), self.M), np.uint8)
        for start in range(0, len(x), _BATCH_ROWS):
            rows = slice(start, start + _BATCH_ROWS)
            out[rows] = self._search(x[rows, 0])
        return out

    def _search(self, x: Float64s) -> NDArray[np.int64]:
        if self._rounded is None:
            self._rounded = [RoundedMatrix(book[:, :-1].T) for book in self._books]
        y, (n, K) = x[:, :-1], (len(x), self.K)
        # Of each partial sum: what is left of y and of N, and the codes.
        rest = y[:, None]
        short = ((y * y).sum(1, keepdims=True) - x[:, -1:]) / 2
        codes = np.empty((n, 1, 0), np.int64)
        each = np.arange(n)[:, None]
        for book, rounded in zip(self._books, self._rounded, strict=True):
            words, B = book[:, :-1], rest.shape[1]
            step = book[:, -1] - rounded.left_product(y)
            miss = short[:, :, None] + step[:, None]
            cost = rounded.left_product(rest.reshape(n * B, -1)).reshape(n, B, K)
            cost *= -2
            cost += (words * words).sum(1) + (rest * rest).sum(2, keepdims=True)
            cost += self._stress * (miss * miss)
            best = smallest(cost.reshape(n, B * K), min(BEAM, B * K))
            parent, word = best // K, best % K
            rest = rest[each, parent] - words[word]
            short = np.take_along_axis(miss.reshape(n, B * K), best, 1)
            codes = np.concatenate([codes[each, parent], word[..., None]], 2)
        return codes[:, 0]

    def tables(self, x: Float64s) -> Float64s:
        """Queries (nq, 1, D) -> share of every codeword in the distance (nq, M, K)."""
        flat = x[:, 0]
        shares: Float64s = flat[:, :-1] @ self._words
        if self.metric != "ip":
            shares += self._shares
            shares += flat[:, -1:] / self.M
        return shares.reshape(len(x), self.M, self.K)

    def decode(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> vectors (n, 1, D), the last coordinate as N implies it."""
        total = self._sums(codes)
        z, N = total[:, :-1], total[:, -1:]
        length = (z * z).sum(1, keepdims=True)
        last = length if self.metric == "ip" else 2 * N - length
        # Vectors of a codec are float32.
        return np.concatenate([z, last], 1)[:, None].astype(np.float32).astype(np.float64)

    def code_points(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> the decoded vectors (n, 1, D)."""
        return self.decode(codes)

    def corrections(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> (n,), see `AdditiveQuantizer.corrections`."""
        if self.metric == "ip":
            return np.zeros(len(codes))
        total = self._sums(codes)
        out: Float64s = DISCOUNT * SHARE * (squared_lengths(total[:, :-1]) - total[:, -1])
        return out

    def _sums(self, codes: Codes) -> Float64s:
        """Sums (n, D) of codewords, one after another: they have the same bits everywhere."""
        total = np.zeros((len(codes), self.D))
        for m in range(self.M):
            total += self._books[m, codes[:, m]]
        return total


def smallest(cost: Float64s, k: int) -> NDArray[np.int64]:
    """Positions (n, k) of the k smallest of each row (n, C), ascending; C a multiple of 16.

    They lie in the k bins with the smallest minima, and the minimum of a bin is cheap.
    """
    n, C = cost.shape
    bins = C // _BIN
    if k >= bins:
        return _smallest(cost, k)
    # Bin b holds the positions b, b + bins, ...: the minimum runs over rows of memory.
    near = np.argpartition(cost.reshape(n, _BIN, bins).min(1), k - 1, 1)[:, :k]
    inside = (near[:, None] + bins * np.arange(_BIN)[:, None]).reshape(n, -1)
    best = _smallest(np.take_along_axis(cost, inside, 1), k)
    return np.take_along_axis(inside, best, 1)


def _smallest(cost: Float64s, k: int) -> NDArray[np.int64]:
    """Positions (n, k) of the k smallest of each row (n, C), ascending."""
    part = np.argpartition(cost, k - 1, 1)[:, :k] if k < cost.shape[1] else None
    if part is None:
        return np.argsort(cost, 1, kind="stable")
    order = np.argsort(np.take_along_axis(cost, part, 1), 1, kind="stable")
    return np.take_along_axis(part, order, 1)
