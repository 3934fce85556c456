"""`NearestColumns`: the columns of a fixed matrix with the smallest products with a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import MAX_TERMS, RoundedMatrix, bits_of, fixed_point
from hyperpq.utils.forks import cached

Float64s = NDArray[np.float64]

# What rounding of float64 can change of a bound, relatively.
_ROUNDING = 1e-9
_LARGEST_BYTE = 127


class NearestColumns:
    """Columns of a matrix b that have the smallest products with a row, by `RoundedMatrix`.

    Compiled code bounds every product by a copy of b with a byte for each number, which is a
    quarter of what it would read otherwise, and computes those that may be among the smallest.

    Parameters
    ----------
    b : ndarray, shape (k, m), float64
        Finite values.
    """

    def __init__(self, b: Float64s) -> None:
        self._matrix, self._bits = b, bits_of(len(b))
        self._is_native = exact_products._native is not None and 0 < len(b) <= MAX_TERMS

    def smallest(self, a: Float64s, count: int) -> NDArray[np.int64]:
        """The columns with the smallest products with each row, of equal ones the first.

        Parameters
        ----------
        a : ndarray, shape (n, k), float64
            Finite values.
        count : int
            How many, 1 to m.

        Returns
        -------
        ndarray, shape (n, count), int64
            Ascending, whatever the products are.
        """
        if self._is_native:
            a = np.ascontiguousarray(a)
            return exact_products._native.smallest_products(a, *self._screened, self._bits, count)
        order = np.argsort(self._rounded.left_product(a), 1, kind="stable")
        return np.sort(order[:, :count], 1)

    @cached
    def _rounded(self) -> RoundedMatrix:
        return RoundedMatrix(self._matrix)

    @cached
    def _screened(
        self,
    ) -> tuple[NDArray[np.int32], Float64s, NDArray[np.int8], Float64s]:
        """Integers (m, k), units (m,), bytes (m, k), and scales, errors and lengths (3, m)."""
        integers, unit = fixed_point(self._matrix, self._bits, 0)
        rows, units = integers.T, unit[0]
        scale = np.maximum(np.abs(rows).max(1), 1) / _LARGEST_BYTE
        bytes_ = np.rint(rows / scale[:, None])
        near = bytes_ * scale[:, None]
        length = np.linalg.norm(near, axis=1) * (1 + _ROUNDING)
        error = np.linalg.norm(rows - near, axis=1) * (1 + _ROUNDING) + length * _ROUNDING
        return (
            np.ascontiguousarray(rows, np.int32),
            np.ascontiguousarray(units),
            np.ascontiguousarray(bytes_, np.int8),
            np.stack([scale, error, length]) * units,
        )
