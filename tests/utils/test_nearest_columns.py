"""The columns with the smallest products are those that exact products name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import MAX_TERMS, RoundedMatrix
from hyperpq.utils.nearest_columns import NearestColumns


def smallest(a, b, count):
    order = np.argsort(RoundedMatrix(b).left_product(a), 1, kind="stable")
    return np.sort(order[:, :count], 1)


def clustered(rng, n, k, spread):
    """Rows of which some are equal, and most near to another one."""
    centers = rng.normal(size=(max(n // 9, 1), k))
    return centers[rng.integers(0, len(centers), n)] + spread * rng.normal(size=(n, k))


@given(
    st.integers(0, 9),
    st.sampled_from([1, 3, 40]),
    st.sampled_from([1, 2, 7, 8, 31, 256, MAX_TERMS, MAX_TERMS + 1]),
    st.sampled_from([1, 2, 12, 300]),
    st.sampled_from([0.0, 1e-6, 0.3, 10.0]),
    st.sampled_from([1.0, 1e-3, 1e15, 1e-30]),
)
@example(0, 3, 256, 300, 0.0, 1.0)
@example(1, 1, 256, 300, 0.3, 1.0)
def test_the_smallest_products(seed, n, k, m, spread, scale):
    rng = np.random.default_rng(seed)
    rows = clustered(rng, n + m, k, spread) * rng.choice([1.0, 1e-3, 2.0, 0.0], (n + m, 1))
    a, b = rows[:n] * scale, -rows[n:].T
    columns = NearestColumns(b)
    for count in {1, m // 7 + 1, m}:
        want = smallest(a, b, count)
        np.testing.assert_array_equal(columns.smallest(a, count), want)
        # A row has the same columns in any batch, in any order of memory, and without a compiler.
        np.testing.assert_array_equal(columns.smallest(a[-1:], count), want[-1:])
        np.testing.assert_array_equal(columns.smallest(np.asfortranarray(a), count), want)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_products, "_native", None)
        np.testing.assert_array_equal(
            NearestColumns(b).smallest(a, m // 7 + 1), smallest(a, b, m // 7 + 1)
        )


@pytest.mark.skipif(
    exact_products._native is None, reason="hyperpq was installed without a compiler"
)
def test_arrays_that_do_not_fit_are_refused():
    native, k, m = exact_products._native, 5, 7
    v, integers, units = np.ones((2, k)), np.zeros((m, k), np.int32), np.ones(m)
    bytes_, bounds = np.zeros((m, k), np.int8), np.zeros((3, m))
    first = np.tile(np.arange(3), (2, 1))
    fits = [v, integers, units, bytes_, bounds, 21, 3]
    np.testing.assert_array_equal(native.smallest_products(*fits), first)
    wrong = [
        (0, v[0]),
        (0, v[:, 1:]),
        (0, v * np.nan),
        (0, v * np.inf),
        (0, v.astype(np.float32)),
        (1, integers[1:]),
        (2, units[1:]),
        (3, bytes_[:, 1:].copy()),
        (4, bounds[1:]),
        (4, bounds[:, 1:].copy()),
        (6, 0),
        (6, m + 1),
    ]
    for position, value in wrong:
        arguments = [*fits[:position], value, *fits[position + 1 :]]
        with pytest.raises((ValueError, TypeError)):
            native.smallest_products(*arguments)
