"""The neighbour graph against brute force, and its diffusion against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hyperpq.training.graph import (
    _truncated_step,
    build_graph,
    graph_features,
    image_weight,
    nearest_others,
    walk_support,
)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def z():
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(4, 12))[rng.integers(0, 4, 90)] + rng.normal(size=(90, 12)) * 0.6)


def test_neighbours_are_those_of_brute_force(z):
    found, squared = nearest_others(z, 7)
    distances = np.square(z[:, None].astype(np.float64) - z[None]).sum(2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_array_equal(found, np.argsort(distances, 1)[:, :7])
    np.testing.assert_allclose(squared, np.sort(distances, 1)[:, :7], atol=1e-5)


def test_an_image_is_never_its_own_neighbour_among_copies():
    z = unit(np.ones((30, 4)))
    found, squared = nearest_others(z, 5)
    assert found.shape == (30, 5)
    assert not (found == np.arange(30)[:, None]).any()
    assert (squared < 1e-6).all()


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_affinity_is_the_walk_divided_by_the_degree(z, steps):
    graph = build_graph(z, 6, steps, support=90)
    n = len(z)
    found, squared = nearest_others(z, 6)
    scale = np.sqrt(squared[:, 5]).astype(np.float64)
    weights = np.zeros((n, n))
    for i in range(n):
        for j, distance in zip(found[i], squared[i], strict=True):
            weights[i, j] += np.exp(-float(distance) / (scale[i] * scale[j]))
    weights += weights.T
    degree = weights.sum(1)
    want = np.linalg.matrix_power(weights / degree[:, None], steps) / degree
    np.testing.assert_allclose(
        (graph.factor @ graph.factor.T).toarray(), want, rtol=1e-3, atol=1e-7
    )


def test_affinities_of_a_batch_are_rows_of_shares(z):
    graph = build_graph(z, 6, 4)
    rows = torch.tensor([3, 8, 3, 50, 89])
    shares = graph.affinities(rows)
    full = (graph.factor @ graph.factor.T).toarray()
    want = full[np.ix_(rows, rows)]
    want[rows[:, None] == rows[None]] = 0
    want /= np.maximum(want.sum(1, keepdims=True), 1e-30)
    np.testing.assert_allclose(shares, want, rtol=1e-5, atol=1e-9)
    assert shares[0, 2] == shares[2, 0] == 0


def test_truncation_keeps_the_most_probable_ends(z):
    short = build_graph(z, 6, 8)
    assert (np.diff(short.factor.indptr) <= walk_support(90)).all()
    whole = build_graph(z, 6, 8, support=90)
    assert short.factor.nnz < whole.factor.nnz / 2
    a, b = ((g.factor @ g.factor.T).toarray() for g in (whole, short))
    assert np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(a, b, strict=True)]) > 0.7


def test_support_grows_with_the_images():
    found = [walk_support(n) for n in range(1, 10_000)]
    assert found == sorted(found)
    assert 1 < found[0] < found[999] < found[-1]
    assert found[-1] == found[4999]
    assert all(walk_support(n, 12) >= walk_support(n) for n in (100, 500, 5000))
    assert walk_support(500, 12) > walk_support(500)


def test_walks_of_a_small_set_stay_among_what_belongs_together():
    """15 overlapping classes of 20: walks of full support would end anywhere."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(15), 20)
    z = unit(rng.normal(size=(15, 24))[label] + rng.normal(size=(300, 24)))

    def purity(**support):
        factor = build_graph(z, 20, 8, **support).factor
        affinity = (factor @ factor.T).toarray()
        np.fill_diagonal(affinity, 0)
        return affinity[label[:, None] == label[None]].sum() / affinity.sum()

    assert purity() > purity(support=128) + 0.2


def test_walks_stay_on_edges(z):
    graph = build_graph(z, 6, 2)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(90).repeat(20)
    ends = graph.walk(rows, 1, generator)
    assert all(int(end) in graph.neighbours[int(row)] for row, end in zip(rows, ends, strict=True))
    assert len({(int(r), int(e)) for r, e in zip(rows, ends, strict=True)}) > 450
    assert (graph.walk(rows, 0, generator) == rows).all()


def test_diffusion_finds_clusters_better_than_distance():
    """Two moons in noise: neighbours of neighbours follow the shape, distances cut across."""
    rng = np.random.default_rng(1)
    angle, label = rng.uniform(0, np.pi, 400), rng.integers(0, 2, 400)
    moons = np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(label, -1, 1)[:, None]
    moons += label[:, None] * np.array([1, 0.3]) + rng.normal(size=(400, 2)) * 0.08
    # On a sphere, so that inner products are distances.
    z = unit(np.concatenate([moons, np.full((400, 1), 4.0)], 1))
    similar = z @ z.T
    graph = build_graph(z, 8, 32, support=400)
    diffused = (graph.factor @ graph.factor.T).toarray()

    def purity(scores):
        np.fill_diagonal(scores, -1)
        best = np.argsort(-scores, 1)[:, :120]
        return (label[best] == label[:, None]).mean()

    assert purity(diffused) > purity(similar) + 0.05


def test_features_weigh_images_and_views():
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(50, 6)))
    alone, same = graph_features(x), graph_features(x, [x, x, x, x])
    np.testing.assert_allclose(alone, same, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
    views = [unit(rng.normal(size=(50, 6))) for _ in range(4)]
    other = graph_features(x, views)
    assert np.abs(other - alone).max() > 0.1
    # A weight is a copy of the image among the views.
    copies = graph_features(x, [*views, x, x])
    np.testing.assert_allclose(graph_features(x, views, weight=3), copies, atol=1e-5)
    np.testing.assert_allclose(alone, graph_features(x, views, weight=1e6), atol=1e-4)


def noisy(rng, x, much):
    return unit(x + much * unit(rng.normal(size=x.shape)))


def test_image_weight_against_lists_in_plain_python():
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(60, 8)))
    everything = [x, *(noisy(rng, x, much) for much in (0.3, 0.5, 0.7))]
    lists = []
    for z in everything:
        near = z.astype(np.float64) @ z.T
        np.fill_diagonal(near, -2)
        lists.append([set(row[:10]) for row in np.argsort(-near, 1)])
    missed = {
        (a, b): 1 - np.mean([len(s & t) / 10 for s, t in zip(lists[a], lists[b], strict=True)])
        for a in range(4)
        for b in range(4)
    }
    inside = np.mean([missed[1, 2], missed[1, 3], missed[2, 3]])
    expected = 1 + 15 * 3 * (inside / np.mean([missed[0, v] for v in (1, 2, 3)]) - 1)
    assert image_weight(x, everything[1:]) == pytest.approx(expected)
    assert expected > 5


def test_an_image_weighs_more_where_its_views_are_worse():
    rng = np.random.default_rng(0)
    truth = unit(rng.normal(size=(600, 16)))
    # Images and views alike are noisy witnesses of the same truth.
    alike = image_weight(noisy(rng, truth, 0.6), [noisy(rng, truth, 0.6) for _ in range(4)])
    harmed = image_weight(truth, [noisy(rng, truth, 0.6) for _ in range(4)])
    assert 1 <= alike < 2
    assert harmed > 8
    # What can't be compared counts as much as a view.
    assert image_weight(truth, [truth, truth]) == 1
    assert image_weight(truth, [noisy(rng, truth, 0.6)]) == 1
    assert image_weight(truth[:1], [truth[:1]] * 2) == 1


def test_views_of_some_leave_the_others_alone():
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(50, 6)))
    rows = np.array([40, 3, 7])
    views = [unit(rng.normal(size=(3, 6))) for _ in range(4)]
    everywhere = [x.copy() for _ in views]
    for whole, part in zip(everywhere, views, strict=True):
        whole[rows] = part
    np.testing.assert_allclose(
        graph_features(x, views, rows), graph_features(x, everywhere), atol=1e-5
    )


def test_truncated_rows_are_the_most_probable_ends():
    """Against whole rows, sorted; more ends than are kept."""
    rng = np.random.default_rng(0)
    walk = rng.random((30, 600)) * (rng.random((30, 600)) < 0.5)
    walk[3:] *= rng.random((27, 600)) < 0.15
    step = np.eye(600) + 0.1 * np.eye(600, k=1)
    support = 128
    pair = (csr_matrix(matrix.astype(np.float32)) for matrix in (walk, step))
    cut = _truncated_step(*pair, support)
    whole = walk @ step
    assert (whole > 0).sum(1).max() > support > (whole > 0).sum(1).min()
    for row, full in zip(cut.toarray(), whole, strict=True):
        expected = np.where(full >= np.sort(full)[-support], full, 0)
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_whitening_divides_out_part_of_the_variance():
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(4000, 8)) * np.geomspace(1, 0.1, 8) + 3)
    spread = np.sort(np.linalg.eigvalsh(np.cov(graph_features(x).T)))[::-1]
    before = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    # Variances keep their power 3/4, and less where unit length shortens the strong directions.
    ratio = np.log(spread[0] / spread[4]) / np.log(before[0] / before[4])
    assert 0.5 < ratio < 0.8
