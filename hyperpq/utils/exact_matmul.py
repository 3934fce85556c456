"""Matrix products that do not depend on the batch, the number of threads or the processor."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperpq.utils.exact_products import MAX_TERMS, bits_of


def exact_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Product of two matrices of which each entry depends on one row and one column alone.

    A BLAS sums in an order that depends on the shapes of both matrices, the number of threads and
    the instruction set, so that the same row has other last bits in another batch. Here each row
    of ``a`` and each column of ``b`` is first rounded to integers of p bits times a power of two,
    with ``2 p + log2(terms) <= 53``. Every partial sum is then an integer that float64 holds
    exactly, and the order does not matter. This is the error-free splitting of Ozaki et al.
    (Numerical Algorithms 59, 2012) with one slice.

    Parameters
    ----------
    a : Tensor, shape (..., n, k), float64
        Finite values.
    b : Tensor, shape (..., k, m), float64
        Finite values.

    Returns
    -------
    Tensor, shape (..., n, m), float64
        The error is about ``2**-p sqrt(k)`` of the largest factors of the row and the column,
        with p of 21 or more.
    """
    return RoundedFactor(b).left_product(a)


class RoundedFactor:
    """A matrix b, rounded once, whose products ``a @ b`` are those of `exact_matmul` bit for bit.

    Parameters
    ----------
    b : Tensor, shape (..., k, m), float64
        Finite values.
    """

    def __init__(self, b: Tensor) -> None:
        self._blocks = []
        for start in range(0, max(b.shape[-2], 1), MAX_TERMS):
            block = b[..., start : start + MAX_TERMS, :]
            self._blocks.append(_fixed_point(block, bits_of(block.shape[-2]), -2))

    def left_product(self, a: Tensor) -> Tensor:
        """``a @ b`` of a matrix a, shape (..., n, k), float64; see `exact_matmul`."""
        parts = []
        for number, (columns, column_unit) in enumerate(self._blocks):
            start = number * MAX_TERMS
            some = a[..., start : start + MAX_TERMS]
            rows, row_unit = _fixed_point(some, bits_of(some.shape[-1]), -1)
            parts.append((rows @ columns).mul_(row_unit).mul_(column_unit))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


class ExactFactor:
    """A matrix b whose products ``a @ b`` are those of `exact_matmul`, but twice as accurate.

    Each factor is the sum of two slices of p bits. The products of the high slices, and the sum of
    the two mixed products, are exact. What b takes is done once.

    Parameters
    ----------
    b : Tensor, shape (..., k, m), float64
        Finite values.
    """

    def __init__(self, b: Tensor) -> None:
        self._blocks = []
        for start in range(0, b.shape[-2], MAX_TERMS):
            block = b[..., start : start + MAX_TERMS, :]
            high, low, unit = _two_slices(block, -2)
            self._blocks.append((high, torch.cat([low, high], -2), unit))

    def left_product(self, a: Tensor) -> Tensor:
        """``a @ b`` of a matrix a.

        Parameters
        ----------
        a : Tensor, shape (..., n, k), float64
            Finite values.

        Returns
        -------
        Tensor, shape (..., n, m), float64
            The error is about ``2**-2p sqrt(k)`` of the largest factors of the row and the column,
            with p of 21 or more.
        """
        parts = []
        for number, (columns, mixed, column_unit) in enumerate(self._blocks):
            start = number * MAX_TERMS
            high, low, unit = _two_slices(a[..., start : start + MAX_TERMS], -1)
            # Low slices have half the range of high ones, so twice the terms are still exact.
            total = (torch.cat([high, low], -1) @ mixed).mul_(2.0 ** -bits_of(columns.shape[-2]))
            parts.append(total.add_(high @ columns).mul_(unit).mul_(column_unit))
        return sum(parts[1:], parts[0])


def squared_lengths(x: Tensor) -> Tensor:
    """Squared lengths of vectors (..., D), summed in an order that depends on D alone."""
    total = x.square()
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        pairs = total[..., :half] + total[..., half : 2 * half]
        total = torch.cat([pairs, total[..., 2 * half :]], -1)
    return total[..., 0]


def _two_slices(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers of the first p bits, those of the next p bits, and the unit of the first ones."""
    bits = bits_of(x.shape[dim])
    high, unit = _fixed_point(x, bits, dim)
    return high, ((x / unit - high) * 2.0**bits).round_(), unit


def _fixed_point(x: Tensor, bits: int, dim: int) -> tuple[Tensor, Tensor]:
    """Integers of up to ``bits`` bits and their unit, one power of two for each line of ``dim``."""
    if not x.shape[dim]:
        return x, x.new_ones(()).expand(x.sum(dim, keepdim=True).shape)
    exponent = torch.frexp(x.abs().amax(dim, keepdim=True))[1].long() - bits
    return (x * _power_of_two(-exponent)).round_(), _power_of_two(exponent)


def _power_of_two(exponent: Tensor) -> Tensor:
    """``2.0 ** exponent`` of whole numbers from -1022 to 1023, exact: the bits of a float64."""
    return ((exponent.clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
