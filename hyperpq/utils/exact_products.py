"""Products with a fixed matrix that do not depend on the batch, threads or the processor.

These are the products of `hyperpq.utils.exact_matmul`, bit for bit, in NumPy, and for a few rows by
compiled code.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.utils.forks import cached

if TYPE_CHECKING:
    from hyperpq.utils import _native
else:
    try:
        from hyperpq.utils import _native
    except ImportError:  # it was installed without a compiler
        _native = None

Float64s = NDArray[np.float64]

_SIGNIFICAND_BITS = 53  # of a float64: integers up to 2**53 and their sums are exact
MAX_TERMS = 2048
"""Columns summed at once; factors then have 21 bits, nearly those of float32."""
# Up to so many rows compiled code is faster than a BLAS: 1.6 times with one row and twice with one
# of 64 numbers, 1.1 times with 4; with 16, it takes 1.6 times as long.
_FEW_ROWS = 4


class RoundedMatrix:
    """A matrix b, rounded once to integers times powers of two, for products ``a @ b``.

    Parameters
    ----------
    b : ndarray, shape (..., k, m), float64
        Finite values.
    """

    def __init__(self, b: Float64s) -> None:
        starts = range(0, max(b.shape[-2], 1), MAX_TERMS)
        self._blocks = [_RoundedBlock(b[..., start : start + MAX_TERMS, :]) for start in starts]

    def left_product(self, a: Float64s) -> Float64s:
        """``a @ b`` of a matrix a, shape (..., n, k), float64.

        What leaves the range of float64 is infinite, or NaN where infinities cancel out.
        """
        if len(self._blocks) == 1:
            return self._blocks[0].left_product(a)
        total: Float64s | None = None
        for number, block in enumerate(self._blocks):
            part = block.left_product(a[..., number * MAX_TERMS : (number + 1) * MAX_TERMS])
            with _any_range():
                total = part if total is None else total + part
        assert total is not None
        return total


def _any_range() -> np.errstate:
    """Without warnings of what leaves the range of float64, as compiled code has none."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore")


class _RoundedBlock:
    """Up to `MAX_TERMS` rows of a `RoundedMatrix`.

    A few rows are multiplied by compiled code, where there is any. It reads integers of 32 bits:
    to read the matrix is what a product with one row takes.
    """

    def __init__(self, b: Float64s) -> None:
        self._bits = bits_of(b.shape[-2])
        self._integers, self._unit = fixed_point(b, self._bits, -2)
        self._is_native = b.ndim == 2 and len(b) > 0 and _native is not None

    def left_product(self, a: Float64s) -> Float64s:
        """``a @ b`` of a matrix a, shape (..., n, k), float64."""
        if self._is_native and a.ndim == 2 and len(a) <= _FEW_ROWS:
            panels, units = self._panels
            return _native.left_product(np.ascontiguousarray(a), panels, units, self._bits)
        with _any_range():
            rows, row_unit = fixed_point(a, self._bits, -1)
            part: Float64s = rows @ self._integers
            part *= row_unit
            part *= self._unit
        return part

    @cached
    def _panels(self) -> tuple[NDArray[np.int32], Float64s]:
        """The integers in panels of some columns (m / columns, k, columns), and the units (m,)."""
        k, m = self._integers.shape
        count = -(-m // _native.PANEL)
        wide = np.zeros((k, count * _native.PANEL), np.int32)
        wide[:, :m] = self._integers
        panels = wide.reshape(k, count, _native.PANEL).swapaxes(0, 1)
        return np.ascontiguousarray(panels), np.ascontiguousarray(self._unit[0])


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

    def slices(self) -> tuple[Float64s, Float64s, Float64s]:
        """Up to `MAX_TERMS` rows as high and low integers (..., k, m), and the units (..., m)."""
        ((high, mixed, unit),) = self._blocks
        low = mixed[..., : high.shape[-2], :]
        return (
            np.ascontiguousarray(high),
            np.ascontiguousarray(low),
            np.ascontiguousarray(unit[..., 0, :]),
        )


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
