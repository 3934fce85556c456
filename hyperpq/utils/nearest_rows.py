"""`NearestRows`: the rows of a fixed matrix that are nearest to vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import (
    MAX_TERMS,
    RoundedMatrix,
    bits_of,
    fixed_point,
    squared_lengths,
)
from hyperpq.utils.forks import blas, cached

Floats = NDArray[np.float32]
Float64s = NDArray[np.float64]

# Products of a batch of vectors: at most 64 MB in float64; and in float32 those that stay in a
# second-level cache, but no fewer vectors than a BLAS needs for its speed.
_EXACT, _PRODUCTS, _FEWEST = 1 << 23, 1 << 18, 64
_EPS, _LEAST = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).smallest_subnormal)
# Products of longer vectors may leave the range of float32.
_LARGEST = 1e37


class NearestRows:
    """Rows that are nearest to vectors, by the Euclidean distance or by the inner product.

    The answer for a vector depends neither on the other vectors nor on the processor: it is that
    of `RoundedMatrix`, and of rows that are as near the first ones. Compiled code takes it from
    products in float32 wherever their rounding errors leave no doubt.

    Parameters
    ----------
    rows : ndarray, shape (m, k), float32
        Finite values.
    by : {"l2", "ip"}
        Least Euclidean distance, or largest inner product.
    """

    def __init__(self, rows: Floats, by: str) -> None:
        self._rows, self._by = rows, by

    def nearest(self, v: Floats, count: int) -> NDArray[np.int64]:
        """The rows that are nearest to each vector.

        Parameters
        ----------
        v : ndarray, shape (n, k), float32
            Finite values.
        count : int
            How many, 1 to m.

        Returns
        -------
        ndarray, shape (n, count), int64
            The number of the nearest row, then the others, ascending.
        """
        out = np.empty((len(v), count), np.int64)
        native = exact_products._native
        if native is None or not 0 < v.shape[1] <= MAX_TERMS:
            for some in self.batches(len(v)):
                out[some] = _smallest(self.far(v[some]), count)
            return out
        v = np.ascontiguousarray(v)
        columns, longest = self._single
        step = max(_FEWEST, _PRODUCTS // len(self._rows))
        products = np.empty((min(step, len(v)), len(self._rows)), np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", v, v, dtype=np.float64))
        # Every operation of float32 and every rounded factor is off by at most an eps, or by the
        # least positive number.
        reach = longest * (lengths + longest)
        errors = (v.shape[1] + 4) * (_EPS * reach + _LEAST)
        errors[reach > _LARGEST] = np.inf
        for start in range(0, len(v), step):
            some = slice(start, min(start + step, len(v)))
            with blas, np.errstate(over="ignore", under="ignore", invalid="ignore"):
                near = np.matmul(v[some], columns, out=products[: some.stop - start])
            out[some] = native.nearest_rows(v[some], near, errors[some], *self._integers, count)
        return out

    def far(self, v: Floats) -> Float64s:
        """What rows are ordered by for some vectors (n, k): half of squared distances (n, m).

        They lack what is the same for all rows; for inner products they are the negative ones.
        """
        product, half = self._exact
        with blas:
            return half - product.left_product(v.astype(np.float64))

    def batches(self, n: int) -> list[slice]:
        """Batches of n vectors for `far`."""
        step = max(1, _EXACT // len(self._rows))
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]

    @cached
    def _exact(self) -> tuple[RoundedMatrix, Float64s]:
        """The rows for exact products, and what these are subtracted from (m,)."""
        wide = self._rows.astype(np.float64)
        half = squared_lengths(wide) / 2
        return RoundedMatrix(wide.T.copy()), np.zeros_like(half) if self._by == "ip" else half

    @cached
    def _single(self) -> tuple[Floats, float]:
        """The rows as columns, and the largest length."""
        lengths = squared_lengths(self._rows.astype(np.float64))
        return self._rows.T.copy(), float(np.sqrt(lengths.max()))

    @cached
    def _integers(self) -> tuple[NDArray[np.int32], Float64s, Float64s, int]:
        """The integers of the exact products (m, k), their units and halves (m,), and bits."""
        bits = bits_of(self._rows.shape[1])
        integers, unit = fixed_point(self._rows.astype(np.float64), bits, 1)
        half = self._exact[1]
        return integers.astype(np.int32), np.ascontiguousarray(unit[:, 0]), half, bits


def _smallest(far: Float64s, n: int) -> NDArray[np.int64]:
    """Positions (nq, n) of the smallest of each row, the first of equal ones, and of others.

    These are ascending, and among the n smallest.
    """
    near = far <= np.partition(far, n - 1, 1)[:, n - 1 : n]
    tied = np.count_nonzero(near, 1) > n
    if tied.any():
        near[tied] = False
        order = np.argsort(far[tied], 1, kind="stable")
        near[np.flatnonzero(tied)[:, None], order[:, :n]] = True
    first = far.argmin(1)[:, None]
    np.put_along_axis(near, first, False, 1)
    return np.hstack([first, near.nonzero()[1].reshape(len(far), n - 1)])
