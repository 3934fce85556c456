"""The losses against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.training import losses


def log_softmax_at(scores, target):
    top = max(scores)
    return scores[target] - top - math.log(sum(math.exp(s - top) for s in scores))


def random_distances(n, m, seed):
    return torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@given(B=st.integers(1, 12), T=st.floats(0.05, 2), seed=st.integers(0, 2**31))
def test_contrastive_is_nt_xent(B, T, seed):
    d = random_distances(2 * B, 2 * B, seed)
    want = 0.0
    for i in range(2 * B):
        positive = i + B if i < B else i - B
        others = [j for j in range(2 * B) if j != i]
        scores = [-float(d[i, j]) / T for j in others]
        want -= log_softmax_at(scores, others.index(positive)) / (2 * B)
    assert float(
        losses.contrastive_loss(d, losses.positive_targets(2 * B).double(), T)
    ) == pytest.approx(want, rel=1e-9, abs=1e-12)


@given(B=st.integers(1, 12), T=st.floats(0.05, 2), seed=st.integers(0, 2**31))
def test_prototype_loss_is_the_mean_over_levels(B, T, seed):
    rng = np.random.default_rng(seed)
    sizes = [7, 3, 2]
    distances = [random_distances(B, size, seed + size) for size in sizes]
    labels = [rng.integers(0, size, B) for size in sizes]
    want = 0.0
    for d, own in zip(distances, labels, strict=True):
        for i in range(B):
            scores = [-float(value) / T for value in d[i]]
            want -= log_softmax_at(scores, own[i]) / (B * len(sizes))
    got = losses.prototype_loss(distances, [torch.tensor(own) for own in labels], T)
    assert float(got) == pytest.approx(want, rel=1e-9, abs=1e-12)


@given(pairs=st.integers(1, 6), lonely=st.integers(0, 4), T=st.floats(0.05, 2), data=st.data())
def test_neighbour_loss_masks_the_self_pair(pairs, lonely, T, data):
    """Clusters of two have one possible neighbour; clusters of one don't count."""
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    own = rng.permutation(
        np.concatenate([np.repeat(np.arange(pairs), 2), pairs + np.arange(lonely)])
    )
    n = len(own)
    d = random_distances(n, n, seed)
    want = 0.0
    for i in range(n):
        neighbours = [j for j in range(n) if j != i and own[j] == own[i]]
        if neighbours:
            others = [j for j in range(n) if j != i]
            scores = [-float(d[i, j]) / T for j in others]
            want -= log_softmax_at(scores, others.index(neighbours[0])) / (2 * pairs)
    generator = torch.Generator().manual_seed(0)
    alone = torch.arange(n)
    got = losses.neighbour_loss(d, [torch.tensor(own), alone], T, generator)
    assert float(got) == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert float(losses.neighbour_loss(d, [alone], T, generator)) == 0


def test_neighbours_are_drawn_from_all_of_the_cluster():
    d = torch.arange(16.0).view(4, 4)
    own = torch.tensor([0, 0, 0, 1])
    possible = {
        tuple(chosen) for chosen in ([a, b, c] for a in (1, 2) for b in (0, 2) for c in (0, 1))
    }
    values = {}
    for chosen in possible:
        terms = []
        for i, j in enumerate(chosen):
            others = [k for k in range(4) if k != i]
            terms.append(-log_softmax_at([-float(d[i, k]) for k in others], others.index(j)))
        values[round(sum(terms) / 3, 4)] = chosen
    generator = torch.Generator().manual_seed(0)
    seen = {round(float(losses.neighbour_loss(d, [own], 1.0, generator)), 4) for _ in range(200)}
    assert seen == set(values)
