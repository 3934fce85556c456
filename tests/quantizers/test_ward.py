"""Weighted Ward and micro-clusters against scipy's Ward."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from hyperpq.quantizers.kmeans import kmeans
from hyperpq.quantizers.ward import cluster_levels, cut, usable_levels, weighted_ward


def rand_index(a, b):
    """Adjusted Rand index of two labelings (Hubert and Arabie 1985)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)

    def pairs(x):
        return (x * (x - 1) / 2).sum()

    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / pairs(np.array([len(a)]))
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)


def same_partition(a, b):
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def within(x, labels):
    """Sum of squares inside the clusters."""
    return sum(np.square(x[labels == j] - x[labels == j].mean(0)).sum() for j in np.unique(labels))


def scipy_labels(x, clusters):
    return fcluster(linkage(x, "ward"), clusters, "maxclust") - 1


@given(m=st.integers(2, 120), D=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_equal_weights_are_the_ward_of_scipy(m, D, seed):
    x = np.random.default_rng(seed).normal(size=(m, D)).astype(np.float32)
    tree = linkage(x.astype(np.float64), "ward")
    pairs, costs = weighted_ward(x, np.ones(m, np.int64))
    np.testing.assert_allclose(costs, tree[:, 2] ** 2, rtol=1e-6, atol=1e-9)
    for clusters in {1, 2, m // 3 + 1, m - 1, m}:
        labels = cut(pairs, m, clusters)
        assert labels.min() == 0
        assert labels.max() == clusters - 1
        assert same_partition(labels, fcluster(tree, clusters, "maxclust"))


@given(m=st.integers(2, 40), D=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_weights_are_repeated_points(m, D, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, D)).astype(np.float32)
    sizes = rng.integers(1, 9, m)
    pairs, costs = weighted_ward(x, sizes)
    repeated = np.repeat(x, sizes, 0).astype(np.float64)
    # scipy first merges the copies at height 0.
    tree = linkage(repeated, "ward")
    zero = sizes.sum() - m
    np.testing.assert_allclose(tree[:zero, 2], 0, atol=1e-12)
    np.testing.assert_allclose(costs, tree[zero:, 2] ** 2, rtol=1e-6, atol=1e-9)
    for clusters in {1, m // 2, m - 1} - {0}:
        labels = np.repeat(cut(pairs, m, clusters), sizes)
        assert same_partition(labels, fcluster(tree, clusters, "maxclust"))


def test_merge_costs_add_up_to_the_total_sum_of_squares():
    rng = np.random.default_rng(0)
    x, sizes = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(1, 5, 60)
    _, costs = weighted_ward(x, sizes)
    whole = np.repeat(x, sizes, 0).astype(np.float64)
    # A merge of cost c raises the sum of squares by c / 2.
    assert costs.sum() / 2 == pytest.approx(np.square(whole - whole.mean(0)).sum())


def test_far_from_the_origin():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(80, 6)) + 1000).astype(np.float32)
    _, costs = weighted_ward(x, np.ones(80, np.int64))
    np.testing.assert_allclose(costs, linkage(x.astype(np.float64), "ward")[:, 2] ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((30, 3)),
        np.repeat(np.eye(3), 10, 0),
        np.stack(np.meshgrid(np.arange(6), np.arange(5)), -1).reshape(30, 2),
    ],
    ids=["equal points", "three points", "grid"],
)
def test_ties_and_duplicates(x):
    x = x.astype(np.float32)
    pairs, costs = weighted_ward(x, np.ones(30, np.int64))
    assert (np.diff(costs) >= 0).all()
    assert np.isfinite(costs).all()
    # Every merge joins two clusters that were apart, so each cut has exactly its clusters.
    for clusters in range(1, 31):
        assert len(np.unique(cut(pairs, 30, clusters))) == clusters
    if len(np.unique(x, axis=0)) == 3:
        assert same_partition(cut(pairs, 30, 3), np.repeat(np.arange(3), 10))
        np.testing.assert_allclose(costs[:27], 0, atol=1e-12)


def test_one_point_and_two():
    pairs, costs = weighted_ward(np.ones((1, 2), np.float32), np.ones(1, np.int64))
    assert pairs.shape == (0, 2)
    assert costs.shape == (0,)
    np.testing.assert_array_equal(cut(pairs, 1, 1), [0])
    _, costs = weighted_ward(np.array([[0.0], [3.0]], np.float32), np.array([2, 1]))
    np.testing.assert_allclose(costs, 2 * 2 * 1 / 3 * 9)


@pytest.fixture(scope="module")
def features():
    """5,000 points of 64 dimensions: 100 groups in 20 families, of uneven sizes."""
    rng = np.random.default_rng(3)
    families = rng.normal(size=(20, 64)) * 1.5
    groups = families[np.arange(100) % 20] + rng.normal(size=(100, 64)) * 0.9
    members = rng.choice(100, 5000, p=rng.dirichlet(np.full(100, 4.0)))
    return (groups[members] + rng.normal(size=(5000, 64)) * 0.45).astype(np.float32)


def test_micro_clusters_give_the_tree_of_full_ward(features):
    levels = (100, 50, 20)
    ours = cluster_levels(features, levels, seed=0)
    tree = linkage(features, "ward")
    for labels, level in zip(ours, levels, strict=True):
        assert labels.dtype == np.int64
        assert len(np.unique(labels)) == level
        full = fcluster(tree, level, "maxclust") - 1
        assert rand_index(labels, full) >= 0.9
        assert within(features, labels) <= 1.01 * within(features, full)


def test_levels_are_nested(features):
    levels = cluster_levels(features, (200, 90, 40, 7), seed=1, micro=400)
    for fine, coarse in pairwise(levels):
        parents = {(int(f), int(c)) for f, c in zip(fine, coarse, strict=True)}
        assert len(parents) == len(np.unique(fine))


def test_same_seed_same_tree(features):
    one, two = (cluster_levels(features, (50,), seed=5, micro=300)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_few_features_take_no_micro_clusters():
    x = np.random.default_rng(4).normal(size=(300, 8)).astype(np.float32)
    for labels, level in zip(cluster_levels(x, (30, 10), seed=0), (30, 10), strict=True):
        assert same_partition(labels, scipy_labels(x.astype(np.float64), level))


def test_order_of_levels_is_kept():
    x = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
    sizes = [len(np.unique(labels)) for labels in cluster_levels(x, (5, 20, 10), seed=0)]
    assert sizes == [5, 20, 10]


def test_many_equal_features_with_micro_clusters():
    """Fewer different features than clusters: labels still number from 0, equal stay together."""
    x = np.repeat(np.eye(12, dtype=np.float32), 50, 0)
    labels = cluster_levels(x, (20, 4), seed=0, micro=100)
    for own, level in zip(labels, (20, 4), strict=True):
        assert own.min() == 0
        assert own.max() == len(np.unique(own)) - 1 < level
        for start in range(0, 600, 50):
            assert len(np.unique(own[start : start + 50])) == 1


@pytest.mark.parametrize(
    ("levels", "n", "want"),
    [
        ((100, 50, 25), 10_000, (100, 50, 25)),
        ((100, 50, 25), 200, (100, 50, 25)),
        ((100, 50, 25), 199, (50, 25)),
        ((100, 50, 25), 49, ()),
        ((), 100, ()),
    ],
)
def test_usable_levels(levels, n, want):
    assert usable_levels(levels, n) == want


@given(
    n=st.integers(1, 200), k=st.integers(1, 60), d=st.integers(1, 10), seed=st.integers(0, 2**40)
)
@settings(max_examples=25)
def test_kmeans_for_any_number_of_points(n, k, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    centroids, labels = kmeans(x, k, seed=seed)
    assert centroids.shape == (k, d)
    assert labels.shape == (n,)
    gap = np.square(x[:, None].astype(np.float64) - centroids).sum(2)
    chosen = gap[np.arange(n), labels]
    np.testing.assert_allclose(chosen, gap.min(1), rtol=1e-4, atol=1e-5)
    if n <= k:
        np.testing.assert_allclose(chosen, 0, atol=1e-12)
    again, _ = kmeans(x, k, seed=seed)
    np.testing.assert_array_equal(again, centroids)
