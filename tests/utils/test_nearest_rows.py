"""The nearest rows are those that exact products name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import MAX_TERMS, RoundedMatrix, squared_lengths
from hyperpq.utils.nearest_rows import NearestRows


def nearest(v, rows, by, count):
    wide = rows.astype(np.float64)
    far = -RoundedMatrix(wide.T.copy()).left_product(v.astype(np.float64))
    if by == "l2":
        far += squared_lengths(wide) / 2
    order = np.argsort(far, 1, kind="stable")[:, :count]
    return np.hstack([order[:, :1], np.sort(order[:, 1:], 1)])


@given(
    st.integers(0, 9),
    st.sampled_from([1, 3, 70]),
    st.sampled_from([1, 2, 7, 64, MAX_TERMS + 1]),
    st.sampled_from([1, 2, 63, 64, 65, 700]),
    st.sampled_from([0.0, 1e-6, 0.3]),
    st.sampled_from([1.0, 1e-3, 1e15, 1e19, 1e30, 1e-22, 1e-40]),
    st.sampled_from(["l2", "ip"]),
)
@example(0, 70, 7, 700, 0.0, 1.0, "l2")
@example(1, 3, 64, 700, 1e-6, 1.0, "ip")
@example(2, 3, 7, 65, 0.3, 1e30, "l2")
@example(3, 3, 7, 65, 0.3, 1e-40, "l2")
def test_the_nearest_rows(seed, n, k, m, spread, scale, by):
    rng = np.random.default_rng(seed)
    # Some are equal, and most near to another one.
    centres = rng.normal(size=(max((n + m) // 9, 1), k))
    drawn = centres[rng.integers(0, len(centres), n + m)] + spread * rng.normal(size=(n + m, k))
    drawn = (drawn * rng.choice([1.0, 0.5, 0.0], (n + m, 1)) * scale).astype(np.float32)
    v, rows = drawn[:n], drawn[n:]
    found = NearestRows(rows, by)
    for count in {1, m // 7 + 1, m}:
        want = nearest(v, rows, by, count)
        np.testing.assert_array_equal(found.nearest(v, count), want)
        # A vector has the same rows in any batch, in any order of memory, and without a compiler.
        np.testing.assert_array_equal(found.nearest(v[-1:], count), want[-1:])
        np.testing.assert_array_equal(found.nearest(np.asfortranarray(v), count), want)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_products, "_native", None)
        np.testing.assert_array_equal(
            NearestRows(rows, by).nearest(v, m // 7 + 1), nearest(v, rows, by, m // 7 + 1)
        )


@pytest.mark.skipif(
    exact_products._native is None, reason="hyperpq was installed without a compiler"
)
def test_arrays_that_do_not_fit_are_refused():
    native, n, k, m = exact_products._native, 2, 5, 7
    v, products, errors = np.ones((n, k), np.float32), np.zeros((n, m), np.float32), np.zeros(n)
    integers, units, half = np.zeros((m, k), np.int32), np.ones(m), np.zeros(m)
    fits = [v, products, errors, integers, units, half, 21, 3]
    np.testing.assert_array_equal(native.nearest_rows(*fits), np.tile(np.arange(3), (n, 1)))
    wrong = [
        (0, v[0]),
        (0, v[:, 1:].copy()),
        (0, v.astype(np.float64)),
        (1, products[1:]),
        (1, products[:, 1:].copy()),
        (2, errors[1:]),
        (3, integers[1:]),
        (4, units[1:]),
        (5, half[1:]),
        (7, 0),
        (7, m + 1),
    ]
    for position, value in wrong:
        arguments = [*fits[:position], value, *fits[position + 1 :]]
        with pytest.raises((ValueError, TypeError)):
            native.nearest_rows(*arguments)
