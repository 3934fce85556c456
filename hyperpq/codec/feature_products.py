"""Products of kept features with queries, of integers and thus exact: compiled, or in numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan

if TYPE_CHECKING:
    from hyperpq.codec.feature_codec import FeatureCodec

_SIGNIFICAND_BITS = 53  # of a float64: sums of integers up to 2**53 are exact in any order
# Pairs that numpy compares at once: 10 MB of float64 at d = 1280.
_BATCH = 1024


class Products(NamedTuple):
    """What pairs of a query and a row give, each of shape (m,), float64.

    Attributes
    ----------
    dot : ndarray
        Product of both, as integers.
    square : ndarray
        Sum of the squares of the integers of the row.
    unit : ndarray
        What the integers of the row are multiples of, a power of two.
    """

    dot: NDArray[np.float64]
    square: NDArray[np.float64]
    unit: NDArray[np.float64]


class Pairs(NamedTuple):
    """Some of the features of a segment, and the query that each of them is compared with.

    Attributes
    ----------
    features : ndarray, shape (n, size), uint8
        Features as they are kept.
    rows : ndarray, shape (m,), int64
        Which of them; equal ones beside each other are read once.
    queries : ndarray, shape (m,), int64
        Numbers of the queries.
    """

    features: NDArray[np.uint8]
    rows: NDArray[np.int64]
    queries: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FeatureForm:
    """How features are normalized before they are compared.

    Attributes
    ----------
    root : bool
        Whether signed square roots are taken.
    mean : ndarray, shape (d,), float32, or None
        What is subtracted then.
    """

    root: bool = False
    mean: NDArray[np.float32] | None = None

    def values(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalized features (n, d)."""
        # All steps are of float32, whose roots and sums are rounded alike everywhere.
        if self.root:
            roots = np.abs(x)
            np.sqrt(roots, out=roots)
            x = np.copysign(roots, x, out=roots)
        return x if self.mean is None else x - self.mean


def products(
    queries: NDArray[np.float64],
    several: Sequence[Pairs],
    kept_by: FeatureCodec,
    form: FeatureForm,
    *,
    differences: bool = False,
    threads: int = 1,
) -> Products:
    """Compare kept features with queries.

    Parameters
    ----------
    queries : ndarray, shape (nq, d), float64
        Rows of integers of `fixed_point`; or features, if ``differences`` are asked for.
    several : sequence of Pairs
        Which features are compared with which of the queries, one of them for each segment.
    kept_by : FeatureCodec
        How the features are kept.
    form : FeatureForm
        How they are normalized.
    differences : bool
        Whether the integers are those of the differences of both; ``dot`` is then 0.
    threads : int
        Number of threads.

    Returns
    -------
    Products
        Of all pairs, in order. Every bit is the same on any machine and in any batch.
    """
    native = scan.compiled()
    if native is None:
        return _in_numpy(queries, several, kept_by, form, differences)
    module, level = native
    found = module.compare_features(
        [(np.asarray(part.features), part.rows, part.queries) for part in several],
        queries,
        kept_by.kind,
        form.root,
        form.mean,
        bits_of(queries.shape[1]),
        differences,
        threads,
        level,
    )
    return Products(*found)


def _in_numpy(
    queries: NDArray[np.float64],
    several: Sequence[Pairs],
    kept_by: FeatureCodec,
    form: FeatureForm,
    differences: bool,
) -> Products:
    found = [Products(np.empty(0), np.empty(0), np.empty(0))]
    for part in several:
        for start in range(0, len(part.rows), _BATCH):
            some = slice(start, start + _BATCH)
            x: NDArray[np.floating] = form.values(kept_by.decode(part.features[part.rows[some]]))
            near = queries[part.queries[some]]
            rows, units = fixed_point(near - x if differences else x)
            dot = np.zeros(len(rows)) if differences else np.einsum("ij,ij->i", rows, near)
            found.append(Products(dot, np.einsum("ij,ij->i", rows, rows), units))
    return Products(*map(np.concatenate, zip(*found, strict=True)))


def bits_of(d: int) -> int:
    """Bits of integers of which a sum of d products is at most 2^53."""
    return (_SIGNIFICAND_BITS - math.ceil(math.log2(max(d, 1)))) // 2


def fixed_point(
    x: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows (n, d) as integers of `bits_of` bits, and their units (n,), powers of two."""
    largest = np.maximum(x.max(1, initial=0), -x.min(1, initial=0)).astype(np.float64)
    exponents = np.frexp(largest)[1].astype(np.int64) - bits_of(x.shape[1])
    rows = np.ldexp(1.0, -exponents)[:, None] * x
    return np.rint(rows, out=rows), np.ldexp(1.0, exponents)
