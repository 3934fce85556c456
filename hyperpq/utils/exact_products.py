"""Products with a fixed matrix that do not depend on the batch, threads or the processor.

These are the products of `hyperpq.utils.exact_matmul`, bit for bit, in NumPy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]

_SIGNIFICAND_BITS = 53  # of a float64: integers up to 2**53 and their sums are exact
MAX_TERMS = 2048
"""Columns summed at once; factors then have 21 bits, nearly those of float32."""


class RoundedMatrix:
    """A matrix b, rounded once to integers times powers of two, for products ``a @ b``.

    Parameters
    ----------
    b : ndarray, shape (..., k, m), float64
        Finite values.
    """

    def __init__(self, b: Float64s) -> None:
        self._blocks = []
        for start in range(0, max(b.shape[-2], 1), MAX_TERMS):
            block = b[..., start : start + MAX_TERMS, :]
            self._blocks.append(fixed_point(block, bits_of(block.shape[-2]), -2))

    def left_product(self, a: Float64s) -> Float64s:
        """``a @ b`` of a matrix a, shape (..., n, k), float64."""
        total: Float64s | None = None
        for number, (columns, column_unit) in enumerate(self._blocks):
            some = a[..., number * MAX_TERMS : (number + 1) * MAX_TERMS]
            rows, row_unit = fixed_point(some, bits_of(some.shape[-1]), -1)
            part = rows @ columns
            part *= row_unit
            part *= column_unit
            total = part if total is None else total + part
        assert total is not None
        return total


class ExactMatrix:
    """A matrix b for products ``a @ b`` that are twice as accurate, see `ExactFactor`.

    Parameters
    ----------
    b : ndarray, shape (..., k, m), float64
        Finite values.
    """

    def __init__(self, b: Float64s) -> None:
        self._blocks = []
        for start in range(0, b.shape[-2], MAX_TERMS):
            block = b[..., start : start + MAX_TERMS, :]
            high, low, unit = _two_slices(block, -2)
            self._blocks.append((high, np.concatenate([low, high], -2), unit))

    def left_product(self, a: Float64s) -> Float64s:
        """``a @ b`` of a matrix a, shape (..., n, k), float64."""
        total: Float64s | None = None
        for number, (columns, mixed, column_unit) in enumerate(self._blocks):
            some = a[..., number * MAX_TERMS : (number + 1) * MAX_TERMS]
            high, low, unit = _two_slices(some, -1)
            part = (np.concatenate([high, low], -1) @ mixed) * 2.0 ** -bits_of(columns.shape[-2])
            part += high @ columns
            part *= unit
            part *= column_unit
            total = part if total is None else total + part
        assert total is not None
        return total


def squared_lengths(x: Float64s) -> Float64s:
    """Squared lengths of vectors (..., D), summed in an order that depends on D alone."""
    total = x * x
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        pairs = total[..., :half] + total[..., half : 2 * half]
        rest = total[..., 2 * half :]
        total = np.concatenate([pairs, rest], -1) if rest.shape[-1] else pairs
    return total[..., 0]


def bits_of(terms: int) -> int:
    """Bits of a factor, so that sums of so many products are exact."""
    return (_SIGNIFICAND_BITS - math.ceil(math.log2(max(terms, 1)))) // 2


def fixed_point(x: Float64s, bits: int, axis: int) -> tuple[Float64s, Float64s]:
    """Integers of up to ``bits`` bits, and one power of two for each line of ``axis``."""
    if not x.shape[axis]:
        return x, np.ones_like(x.sum(axis, keepdims=True))
    largest = np.maximum(x.max(axis, keepdims=True), -x.min(axis, keepdims=True))
    exponent = np.frexp(largest)[1] - bits
    exponent = np.clip(exponent, -1022, 1023)
    integers = x * np.ldexp(1.0, np.clip(-exponent, -1022, 1023))
    return np.rint(integers, out=integers), np.ldexp(1.0, exponent)


def _two_slices(x: Float64s, axis: int) -> tuple[Float64s, Float64s, Float64s]:
    bits = bits_of(x.shape[axis])
    high, unit = fixed_point(x, bits, axis)
    return high, np.rint((x / unit - high) * 2.0**bits), unit
