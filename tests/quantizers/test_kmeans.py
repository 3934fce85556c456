"""k-means for any number of points, and what is said when faiss is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from hyperpq.errors import MissingDependencyError
from hyperpq.quantizers.kmeans import import_faiss, kmeans


def test_missing_faiss_names_both_commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError) as error:
        import_faiss()
    assert "pip install 'hyperpq[cpu]'" in str(error.value)
    assert "pip install 'hyperpq[gpu]'" in str(error.value)


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_few_points_are_centroids_in_turn(n):
    x = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    centroids, labels = kmeans(x, 8, seed=0)
    np.testing.assert_array_equal(centroids, x[np.arange(8) % n])
    np.testing.assert_array_equal(labels, np.arange(n))


def test_labels_are_the_nearest_centroids_and_runs_repeat():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(12, 5)) * 20
    x = (centers[rng.integers(0, 12, 900)] + rng.normal(size=(900, 5))).astype(np.float32)
    centroids, labels = kmeans(x, 12, seed=3)
    gaps = ((x[:, None].astype(np.float64) - centroids) ** 2).sum(-1)
    np.testing.assert_array_equal(labels, gaps.argmin(1))
    again, same = kmeans(x, 12, seed=3)
    np.testing.assert_array_equal(centroids, again)
    np.testing.assert_array_equal(labels, same)
    # One Lloyd step more moves nothing far: the centroids are means of their points.
    means = np.stack([x[labels == k].mean(0) for k in range(12) if (labels == k).any()])
    used = centroids[np.unique(labels)]
    assert np.abs(means - used).max() < 0.5
