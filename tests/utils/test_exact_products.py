"""Exact products of a few rows by compiled code are those of NumPy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperpq.utils import exact_products
from hyperpq.utils.exact_products import MAX_TERMS, RoundedMatrix

SCALES = [1.0, 1e-3, 1e15, 1e-290, 1e-310, 1e300, 0.0]

needs_compiled = pytest.mark.skipif(
    exact_products._native is None, reason="hyperpq was installed without a compiler"
)


def draw(seed, n, k, m, scale):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, k)) * scale
    b = rng.normal(size=(k, m)) * rng.choice([1.0, 1e-5, 1e8, 0.0], m)
    a[0] *= rng.choice([1.0, 0.0])
    return a, b


@needs_compiled
@given(
    st.integers(0, 9),
    st.integers(1, 6),
    st.sampled_from([1, 2, 33, 250, 1280, MAX_TERMS, MAX_TERMS + 1, 5000]),
    st.sampled_from([1, 2, 31, 32, 33, 100]),
    st.sampled_from(SCALES),
)
@example(0, 1, 1280, 256, 1.0)
@example(0, 2, 5000, 100, 1e300)
def test_compiled_products_are_those_of_numpy(seed, n, k, m, scale):
    a, b = draw(seed, n, k, m, scale)
    matrix = RoundedMatrix(b)
    # Nor does either of them warn of what leaves the range of float64.
    with np.errstate(all="raise"), pytest.MonkeyPatch.context() as patch:
        found = matrix.left_product(a)
        patch.setattr(exact_products, "_native", None)
        np.testing.assert_array_equal(found, RoundedMatrix(b).left_product(a))


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("k", [3, MAX_TERMS, 5000])
def test_of_a_row_that_is_not_finite_no_product_is_finite_and_no_warning_says_so(n, k):
    a, b = draw(2, n, k, 40, 1.0)
    a[0, ::2], a[0, 1] = np.inf, -np.inf
    matrix = RoundedMatrix(b)
    with np.errstate(all="raise"):
        found = matrix.left_product(a)
    assert not np.isfinite(found[0]).any()
    np.testing.assert_array_equal(found[1:], matrix.left_product(a[1:]))


@needs_compiled
def test_a_few_rows_take_compiled_code_in_any_order_of_memory(monkeypatch):
    a, b = draw(1, 4, 40, 50, 1.0)
    matrix, calls = RoundedMatrix(b), []

    class Counted:
        PANEL = exact_products._native.PANEL

        @staticmethod
        def left_product(*args):
            calls.append(args[0].shape)
            return kept.left_product(*args)

    kept = exact_products._native
    monkeypatch.setattr(exact_products, "_native", Counted)
    want = matrix.left_product(np.tile(a, (3, 1)))
    assert calls == []
    turned = np.asfortranarray(a)
    np.testing.assert_array_equal(matrix.left_product(turned), want[:4])
    np.testing.assert_array_equal(matrix.left_product(a[1:2]), want[1:2])
    assert calls == [(4, 40), (1, 40)]


@needs_compiled
def test_arrays_that_do_not_fit_are_refused():
    native = exact_products._native
    a, panels, units = np.zeros((1, 4)), np.zeros((2, 4, native.PANEL), np.int32), np.zeros(50)
    assert native.left_product(a, panels, units, 21).shape == (1, 50)
    for wrong in (
        (a[0], panels, units),
        (a, panels[0], units),
        (a, panels, units[None]),
        (a[:, :3], panels, units),
        (a, panels[:1], units),
        (a, panels[:, :, :31], units),
        (a.astype(np.float32), panels, units),
        (a, panels.astype(np.float64), units),
    ):
        with pytest.raises((ValueError, TypeError)):
            native.left_product(*wrong, 21)
