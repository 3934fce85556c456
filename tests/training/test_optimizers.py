"""Optimisers: what is decayed and learned, and the learning rate."""

from __future__ import annotations

import pytest
import torch

from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.geometry import GEOMETRIES, get_geometry
from hyperpq.training.optimizers import learning_rate, make_optimizers
from hyperpq.training.recipe import Recipe


def learned_parameters(codec, recipe):
    """Weight decay of each parameter that an optimiser has."""
    groups = [g for o in make_optimizers(codec, recipe) for g in o.param_groups]
    return {id(p): g["weight_decay"] for g in groups for p in g["params"]}


def test_curvature_and_bias_are_not_decayed(small):
    for head in ("linear", "orthogonal"):
        for optimizer in ("sgd", "adamw"):
            recipe = small.replace(weight_decay=0.3, head=head, optimizer=optimizer)
            codec = HiHPQCodec(CodecConfig(16, 2, 4, 4, head=head))
            decay = learned_parameters(codec, recipe)
            assert set(decay) == {id(p) for p in codec.parameters()}
            assert decay[id(codec.quantizer.log_c)] == 0
            assert decay[id(codec.bias)] == 0
            assert decay[id(codec.quantizer.codebooks)] == 0.3
            assert decay[id(codec.weight)] == (0.3 if head == "linear" else 0)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_flat_space_has_no_curvature_to_learn(small, geometry):
    codec = HiHPQCodec(CodecConfig(16, 2, 4, 4, geometry=geometry))
    parameters = learned_parameters(codec, small.replace(geometry=geometry))
    assert (id(codec.quantizer.log_c) in parameters) == (get_geometry(geometry).sign != 0)


def test_learning_rate_rises_then_follows_the_cosine():
    settings = Recipe().replace(lr=0.1, lr_warmup=2, epochs=10).optimiser
    assert learning_rate(settings, 1) == pytest.approx(0.05)
    assert learning_rate(settings, 2) == pytest.approx(0.1)
    assert learning_rate(settings, 6) == pytest.approx(0.05)
    assert learning_rate(settings, 10) == pytest.approx(0)
    at_once = Recipe().replace(lr=0.1, lr_warmup=0, epochs=1).optimiser
    assert learning_rate(at_once, 0.5) == pytest.approx(0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_orthogonal_head_stays_orthonormal(x, small, train, optimizer):

    recipe = small.replace(head="orthogonal", optimizer=optimizer, lr=0.02)
    before = train(x, recipe.replace(epochs=0)).weight.detach()
    after = train(x, recipe).weight.detach()
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after.T @ after, torch.eye(8), rtol=0, atol=1e-4)


@pytest.mark.parametrize("geometry", [one for one in GEOMETRIES if get_geometry(one).sign != 0])
def test_curvature_moves_only_if_it_is_learned(x, small, train, geometry):
    recipe = small.replace(lr=0.01, geometry=geometry)
    learned = train(x, recipe).quantizer.c
    assert (learned != 1).all()
    fixed = train(x, recipe.replace(train_curvature=False)).quantizer.c
    assert (fixed == 1).all()
