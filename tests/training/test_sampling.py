"""Batches: views of images and of their positives, and targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq.training.graph import build_graph
from hyperpq.training.losses import positive_targets
from hyperpq.training.recipe import Recipe
from hyperpq.training.sampling import BatchSampler
from hyperpq.training.split import split_rows

N, D, V = 60, 8, 3


@pytest.fixture(scope="module")
def data():
    """Features, and views in which each entry says whose and which view it is."""
    x = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    x[:, 0] = np.arange(N)
    view_rows = np.random.default_rng(1).permutation(N)[:40]
    views = np.repeat(x[None, view_rows], V, 0)
    views[:, :, 1] = 100 + np.arange(V)[:, None]
    return x, views, view_rows


def sampler(data, **changes):
    x, views, view_rows = data
    recipe = Recipe().replace(holdout_check=False, graph_steps=4, **changes)
    split = split_rows(N, recipe, view_rows, seed=0)
    graph = None
    if recipe.graph.graph_neighbours:
        unit = x[split.learning_rows, 1:]
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        graph = build_graph(unit, 5, 4)
    return BatchSampler(x, views, split, graph, recipe), split, graph


def draw(sampler, positions, seed=0):
    return sampler.draw(positions, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("neighbours", [0, 5])
def test_views_are_of_their_sources(data, neighbours):
    drawing, split, _ = sampler(data, graph_neighbours=neighbours)
    positions = torch.randperm(len(split.learning_rows))[:20]
    for seed in range(20):
        batch = draw(drawing, positions, seed)
        assert batch.views.shape == (40, D)
        assert torch.equal(batch.sources[:20], positions)
        rows = split.learning_rows[batch.sources]
        np.testing.assert_array_equal(batch.views[:, 0], rows)
        # Images without views are views of themselves, unchanged.
        lonely = ~np.isin(rows, split.view_rows)
        np.testing.assert_array_equal(batch.views[lonely], data[0][rows[lonely]])


def test_without_a_graph_the_positive_is_another_view_of_the_image(data):
    drawing, split, _ = sampler(data, graph_neighbours=0)
    positions = torch.arange(len(split.learning_rows))
    seen = set()
    for seed in range(30):
        batch = draw(drawing, positions, seed)
        assert torch.equal(batch.sources, torch.cat([positions, positions]))
        assert torch.equal(batch.targets, positive_targets(2 * len(positions)))
        first, second = batch.views[:, 1].chunk(2)
        assert (first != second).all()
        seen |= set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(seen) == V * (V - 1)


def test_on_a_graph_the_positive_is_the_end_of_a_walk(data):
    drawing, split, graph = sampler(data, graph_neighbours=5, walk_steps=1)
    positions = torch.arange(len(split.learning_rows))
    numbers = set()
    for seed in range(10):
        batch = draw(drawing, positions, seed)
        positives = batch.sources[len(positions) :].numpy()
        assert all(p in graph.neighbours[i] for i, p in enumerate(positives))
        numbers |= set(batch.views[:, 1][batch.views[:, 1] >= 100].tolist())
    assert numbers == {100, 101, 102}
    still = draw(sampler(data, graph_neighbours=5, walk_steps=0)[0], positions)
    assert torch.equal(still.sources[len(positions) :], positions)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_targets_are_shares_of_affinity_and_of_the_positive(data, weight):
    drawing, split, graph = sampler(data, graph_neighbours=5, positive_weight=weight)
    batch = draw(drawing, torch.arange(len(split.learning_rows))[:30])
    torch.testing.assert_close(batch.targets.sum(1), torch.ones(60))
    affinities = graph.affinities(batch.sources)
    rest = 1 - (1 - weight) * affinities.sum(1, keepdim=True)
    want = (1 - weight) * affinities + rest * positive_targets(60)
    torch.testing.assert_close(batch.targets, want)
    alone = sampler(data, graph_neighbours=5, positive_weight=weight)[0]
    assert torch.equal(draw(alone, torch.arange(30)).targets, batch.targets)
