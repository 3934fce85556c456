"""Tables of plain codebooks: compiled code gives the bits of NumPy, and both the distances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.inference.flat import FlatCodebooks
from hyperpq.utils import exact_products

METRICS = st.sampled_from(["l2", "ip"])


@given(
    st.integers(0, 9),
    st.sampled_from([1, 4, 9]),
    st.sampled_from([(1, 16, 1), (8, 256, 8), (3, 256, 33), (2, 16, 7)]),
    st.sampled_from([1.0, 1e-30, 1e15]),
    METRICS,
)
def test_tables_are_exact_and_those_of_numpy(seed, n, shape, scale, metric):
    M, _, D = shape
    rng = np.random.default_rng(seed)
    words = (scale * rng.normal(size=shape)).astype(np.float32)
    x = (scale * rng.normal(size=(n, M, D))).astype(np.float32).astype(np.float64)
    # A codeword, nearly one, and the origin.
    x[0] = words[:, 0]
    x[n // 3] = words[:, 1] * np.float32(1 + 1e-6)
    x[n // 2, 0] = 0
    books = FlatCodebooks(words, metric=metric)
    found = books.tables(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_products, "_native", None)
        assert books.tables(x).tobytes() == found.tobytes()
    wide = words.astype(np.longdouble)
    if metric == "l2":
        want = ((x.astype(np.longdouble)[:, :, None] - wide) ** 2).sum(-1)
        np.testing.assert_allclose(found, want, rtol=1e-9)
    else:
        want = -(x.astype(np.longdouble)[:, :, None] * wide).sum(-1)
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12 * scale**2 * D)
    # A query has the same tables in any batch.
    assert books.tables(x[-1:]).tobytes() == found[-1:].tobytes()


@pytest.mark.skipif(
    exact_products._native is None, reason="hyperpq was installed without a compiler"
)
def test_arrays_that_do_not_fit_are_refused():
    n, M, D, K = 2, 3, 5, 16
    words = np.zeros((M, D, K))
    fits = [np.ones((n, M, D)), words, words, np.ones((M, K)), np.ones((M, K)), 20, 0.0]
    native = exact_products._native
    np.testing.assert_array_equal(native.product_tables(*fits)[0], np.full((n, M, K), 1.0 + D))
    wrong = [
        (0, np.ones((n, M, D + 1))),
        (0, np.ones((n, M + 1, D))),
        (0, np.ones((n, M, D), np.float32)),
        (1, np.zeros((M, D, K + 16))),
        (2, np.zeros((M, D + 1, K))),
        (3, np.ones((M, K + 1))),
        (4, np.ones((M + 1, K))),
    ]
    for position, value in wrong:
        with pytest.raises((ValueError, TypeError)):
            native.product_tables(*fits[:position], value, *fits[position + 1 :])
    odd = [*fits[:1], words[..., :7].copy(), words[..., :7].copy(), np.ones((M, 7)), None, 20, 0.0]
    with pytest.raises(ValueError, match="multiple of 16"):
        native.product_tables(*odd)
