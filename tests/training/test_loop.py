"""The epochs: the losses of a step in each geometry, statistics and repair on the way."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hyperpq.training import losses
from hyperpq.training.hierarchy import Hierarchy
from hyperpq.training.loop import (
    LoopOptions,
    TrainingLoop,
    filled_levels,
    step_loss,
    total_loss,
)
from hyperpq.training.recipe import Recipe
from hyperpq.training.sampling import Batch, BatchSampler
from hyperpq.training.split import split_rows


def test_total_weighs_the_losses():
    parts = {
        name: torch.tensor(v)
        for name, v in (("contrastive", 2.0), ("prototype", 3.0), ("neighbour", 5.0))
    }
    recipe = Recipe().replace(prototype_weight=0.5, neighbour_weight=0.1)
    assert float(total_loss(parts, recipe)) == pytest.approx(2 + 1.5 + 0.5)


@pytest.mark.parametrize("metric", ["l1", "geodesic", "chord"])
def test_step_loss_is_made_of_geoopt_distances(x, small, train, metric):
    """The losses of one batch, from features to a number, once more in float64 with geoopt."""
    import geoopt

    codec = train(x, small.replace(epochs=0), metric=metric).double()
    q = codec.quantizer
    with torch.no_grad():
        q.log_c.copy_(torch.tensor([-0.5, 0.7]))
    views = torch.tensor(np.concatenate([x[:6], x[:6] + 0.1])).double()
    v = torch.tensor(np.random.default_rng(0).normal(size=(3, 2, 4))) * 0.5
    labels = torch.tensor(np.arange(len(x)) % 3)
    hierarchy = Hierarchy((labels,), (v,))
    rows = torch.arange(6)
    targets = losses.positive_targets(12).double()
    batch = Batch(views, torch.cat([rows, rows]), targets)
    parts = step_loss(codec, small, batch, hierarchy, torch.Generator())

    def lift(space, k):
        return torch.cat([(k + space.square().sum(-1, keepdim=True)).sqrt(), space], -1)

    def pairwise(a, b):
        total = 0
        for m in range(2):
            k = 1 / q.c[m]
            dist = geoopt.Lorentz(k=k).dist(lift(a[:, m], k)[:, None], lift(b[:, m], k)[None])
            chord = 2 * k.sqrt() * torch.sinh(dist / k.sqrt() / 2)
            total = total + {"l1": dist, "geodesic": dist**2, "chord": chord**2}[metric]
        return total

    T = small.contrast.temperature
    soft, _ = q.attend(q.points(codec.tangent(views)))
    between = pairwise(soft, soft)
    want = losses.contrastive_loss(between, targets, T)
    torch.testing.assert_close(parts["contrastive"], want, rtol=1e-3, atol=1e-4)
    to = pairwise(soft[:6], q.points(v))
    want = losses.prototype_loss([to], [labels[rows]], T)
    torch.testing.assert_close(parts["prototype"], want, rtol=1e-3, atol=1e-4)
    assert set(parts) == {"contrastive", "prototype", "neighbour"}
    parts = step_loss(codec, small, batch, Hierarchy(), torch.Generator())
    assert set(parts) == {"contrastive"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_does_not_wait_for_it(x, train, waiting_refused):
    """With the losses of the default recipe; an epoch is waited for once."""
    recipe = Recipe().replace(epochs=1, batch=64, graph_neighbours=0)
    codec = train(x, recipe.replace(epochs=0), device="cuda")
    split = split_rows(len(x), recipe, np.arange(len(x)), seed=0)
    sampler, rows = BatchSampler(x, x[None], split, None, recipe), split.learning_rows
    loop = TrainingLoop(codec, x[rows], sampler, recipe, LoopOptions(seed=0))
    first, second, *_ = loop._batches(torch.randperm(len(rows)))
    assert first.views.is_pinned()
    assert first.targets.is_pinned()
    loop._step(first, Hierarchy(), 0.5)
    with waiting_refused():
        parts = loop._step(second, Hierarchy(), 0.6)
    assert np.isfinite(float(parts["total"]))


def test_straight_through_contrasts_codewords(x, small, train):
    recipe = small.replace(epochs=0, straight_through=True)
    codec = train(x, recipe)
    q, views = codec.quantizer, torch.tensor(np.concatenate([x[:6], x[:6] + 0.1]))
    targets = losses.positive_targets(12)
    batch = Batch(views, torch.arange(6).repeat(2), targets)
    got = step_loss(codec, recipe, batch, Hierarchy(), torch.Generator())["contrastive"]
    words = q.codewords()[torch.arange(2), q.codes(q.points(codec.tangent(views))).long()]
    between = q.pairwise_distances(words, words)
    want = losses.contrastive_loss(between, targets, recipe.contrast.temperature)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    attended = step_loss(codec, small, batch, Hierarchy(), torch.Generator())["contrastive"]
    assert abs(float((attended - want).detach())) > 0.01


def test_moved_codewords_start_without_momentum(x, small, train):
    codec = train(x, small.replace(epochs=0))
    q = codec.quantizer
    loop = TrainingLoop(codec, x, None, small, LoopOptions(seed=0))
    (optimizer,) = loop.optimizers
    for parameter in codec.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with torch.no_grad():
        q.codebooks[0, 5] = 100.0
    facts = loop.close_epoch({}, 0)
    assert facts["moved"] >= 1
    for name in ("exp_avg", "exp_avg_sq"):
        state = optimizer.state[q.codebooks][name]
        assert not state[0, 5].any()
        assert (state != 0).all(-1).sum() == 2 * 16 - facts["moved"]


def test_levels_that_the_images_do_not_fill_are_left_out(small, caplog):
    with caplog.at_level(logging.WARNING):
        assert filled_levels(small, 40) == (20, 5)
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        assert filled_levels(small, 39) == (5,)
    assert "don't fill some of the hierarchy's levels of 20, 5 clusters" in caplog.text
    unweighted = small.replace(prototype_weight=0.0, neighbour_weight=0.0)
    assert filled_levels(unweighted, 400) == ()
