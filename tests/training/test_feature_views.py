"""Views in feature space: their shape, seed and noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq.training.feature_views import feature_views, transferred_views


@given(n=st.integers(1, 40), V=st.integers(1, 4), seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_feature_views_shape_and_seed(n, V, seed):
    x = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    views = feature_views(x, V, seed=seed)
    assert views.shape == (V, n, 6)
    assert views.dtype == np.float32
    np.testing.assert_array_equal(views, feature_views(x, V, seed=seed))
    assert n < 2 or (views != feature_views(x, V, seed=seed + 1)).any()


def test_feature_views_have_the_noise_of_the_data():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(4000, 3)) * [5, 1, 0] + [0, 2, 7]).astype(np.float32)
    noise = feature_views(x, 2, seed=0, strength=0.3, dropout=0.0) - x
    np.testing.assert_allclose(noise.std(1), [[1.5, 0.3, 0]] * 2, rtol=0.1)
    np.testing.assert_array_equal(noise[..., 2], 0)
    dropped = feature_views(x, 1, seed=0, strength=0.0, dropout=0.25)[0] == x.mean(0)
    assert dropped[:, 0].mean() == pytest.approx(0.25, abs=0.03)


def test_transferred_views_move_as_those_of_donors():
    """Views that only shift the signed roots, each by a shift of its own, are known exactly."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2500, 5))
    x = (np.sign(root) * root**2).astype(np.float32)
    shifts = rng.normal(size=(2, 5))
    views = np.stack([np.sign(root + s) * (root + s) ** 2 for s in shifts]).astype(np.float32)
    made = transferred_views(x, views, 3, donors=np.arange(2500), seed=0)
    assert made.dtype == np.float32
    for t, out in enumerate(made):
        np.testing.assert_allclose(out, views[t % 2], rtol=2e-3, atol=2e-3)


def test_donors_of_transferred_views():
    rng = np.random.default_rng(1)
    x, views = rng.random((40, 3), np.float32), rng.random((1, 40, 3), np.float32)
    only = transferred_views(x, views, 1, donors=np.array([7]), seed=0)[0]
    moved = np.sqrt(views[0, 7]) - np.sqrt(x[7])
    roots = np.sqrt(x) + moved
    np.testing.assert_allclose(only, np.sign(roots) * roots**2, rtol=1e-5, atol=1e-6)
    every, again = (
        transferred_views(x, views, 2, donors=np.arange(40), seed=seed) for seed in (3, 3)
    )
    np.testing.assert_array_equal(every, again)
    assert (every[0] != every[1]).any()
    assert (transferred_views(x, views, 2, donors=np.arange(40), seed=4) != every).any()
