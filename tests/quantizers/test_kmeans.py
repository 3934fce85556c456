"""k-means for any number of points, and what is said when faiss is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from hyperpq.errors import MissingDependencyError
from hyperpq.quantizers.kmeans import import_faiss, kmeans


def test_missing_faiss_names_both_commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError) as error:
        import_faiss()
    assert "pip install 'hyperpq[train]'" in str(error.value)
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


@pytest.fixture
def moved(monkeypatch):
    """faiss with the names of faiss-gpu; what is moved to which device, and stays on the CPU."""
    faiss, moved = import_faiss(), []

    def move(resources, number, index):
        moved.append((number, type(index).__name__))
        return index

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", move, raising=False)
    return moved


def test_points_are_compared_on_a_gpu_where_faiss_can_use_it(moved):
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    want = kmeans(x, 7, seed=3)
    assert moved == []
    found = kmeans(x, 7, seed=3, device="cuda:1")
    np.testing.assert_array_equal(found[0], want[0])
    np.testing.assert_array_equal(found[1], want[1])
    assert moved == [(1, "IndexFlatL2")]


def test_faiss_gets_the_memory_that_pytorch_only_keeps(moved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: moved.append("released"))
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    kmeans(x, 7, seed=3)
    kmeans(x, 7, seed=3, device="cuda:0")
    assert moved == ["released", (0, "IndexFlatL2")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_there_is_memory_for_faiss_when_pytorch_has_had_all():
    if not hasattr(import_faiss(), "StandardGpuResources"):
        pytest.skip("needs faiss-gpu")
    held = torch.empty(torch.cuda.mem_get_info()[0] - (256 << 20), dtype=torch.uint8, device="cuda")
    del held
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    found = kmeans(x, 7, seed=3, device="cuda:0")
    np.testing.assert_allclose(found[0], kmeans(x, 7, seed=3)[0], atol=1e-3)


def test_neighbours_are_searched_on_a_gpu_where_faiss_can_use_it(moved):
    from hyperpq.training.graph import nearest_others

    z = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    want = nearest_others(z, 4)
    np.testing.assert_array_equal(nearest_others(z, 4, device="cuda")[0], want[0])
    assert moved == [(0, "IndexFlatIP")]


def test_the_result_of_a_seed_is_that_of_faiss_kmeans():
    """As earlier versions called it; codecs of the same seed have the same codebooks."""
    faiss = import_faiss()
    x = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    run = faiss.Kmeans(
        4, 8, niter=25, seed=5, min_points_per_centroid=1, max_points_per_centroid=64
    )
    run.train(x)
    centroids, labels = kmeans(x, 8, seed=5)
    np.testing.assert_array_equal(centroids, run.centroids)
    np.testing.assert_array_equal(labels, run.index.search(x, 1)[1][:, 0])
