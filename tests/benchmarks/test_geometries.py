"""The geometries of the ablation against float64 formulas, and that they leave nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.geometries import GEOMETRIES, geometry, straight_through
from hyperpq.geometry import lorentz
from hyperpq.quantizers import fit_product as codebooks
from hyperpq.quantizers.product import LorentzProductQuantizer
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


def ambient(v, c):
    """Points of the sphere of curvature c in float64, last entry along the pole."""
    length = np.linalg.norm(v, axis=-1, keepdims=True)
    angle = np.sqrt(c) * length
    return np.concatenate([np.sin(angle) * v / length, np.cos(angle)], -1) / np.sqrt(c)


@pytest.fixture
def v():
    v = np.random.default_rng(0).normal(size=(40, 5)) * 0.6
    # Inside the half of the sphere around the pole.
    return v * np.minimum(1, 1.5 / np.linalg.norm(v, axis=1, keepdims=True))


@pytest.mark.parametrize("c", [0.25, 1.0])
def test_distances_on_the_sphere_are_angles(v, c):
    whole = ambient(v, c)
    angles = np.arccos(np.clip(whole @ whole.T * c, -1, 1)) / np.sqrt(c)
    with geometry("spherical"):
        x, curvature = lorentz.expmap0(torch.tensor(v), torch.tensor(c)), torch.tensor(c)
        matrix = lorentz.score_of(lorentz.sqchord_matrix(x, x, curvature[None]), curvature, "l1")
        pairs = lorentz.distance(x[:20], x[20:], curvature)
        np.testing.assert_allclose(lorentz.logmap0(x, curvature), v, rtol=1e-6)
        weights = torch.rand(3, 40, dtype=torch.float64)
        mean = lorentz.centroid(x, weights, curvature[None]).numpy()
    off = ~np.eye(40, dtype=bool)
    np.testing.assert_allclose(matrix.numpy()[off], angles[off], atol=1e-5)
    np.testing.assert_allclose(pairs, np.diagonal(angles[:20, 20:]), rtol=1e-6)
    expected = weights.numpy() @ whole
    expected /= np.linalg.norm(expected, axis=1, keepdims=True) * np.sqrt(c)
    np.testing.assert_allclose(mean, expected[:, :-1], rtol=1e-6)


def test_flat_space_is_the_limit_of_small_curvature(v):
    x = torch.tensor(v)
    flat = lorentz.distance(lorentz.expmap0(x, torch.tensor(1e-8)), x[:1], torch.tensor(1e-8))
    with geometry("euclidean"):
        c = torch.tensor(1.0)
        np.testing.assert_allclose(lorentz.distance(x, x[:1], c)[1:], flat[1:], rtol=1e-5)
        np.testing.assert_allclose(
            lorentz.sqchord_matrix(x, x, c[None]), np.maximum(flat_squares(v), 1e-8), atol=1e-9
        )


def flat_squares(v):
    return ((v[:, None] - v[None]) ** 2).sum(-1)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_codes_are_the_nearest_by_the_tables(v, name):
    with geometry(name):
        q = LorentzProductQuantizer(2, 5, 4)
        with torch.no_grad():
            q.log_c.fill_(np.log(0.25))
            q.codebooks.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
        x = q.points(torch.tensor(v, dtype=torch.float32).view(20, 2, 5))
        assert torch.equal(q.codes(x).long(), q.tables(x).argmin(2))


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("metric", lorentz.METRICS)
def test_tables_and_pairs_are_the_distances(name, metric):
    """At every angle, obtuse ones between far points included."""
    v = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(0)) * 2
    with geometry(name):
        q = LorentzProductQuantizer(2, 3, 4, metric=metric, max_norm=1.5)
        with torch.no_grad():
            q.codebooks.copy_(v[:16].transpose(0, 1))
        x, words, c = q.points(v), q.codewords(), q.c
        want = lorentz.score_of(
            lorentz.sqchord(x[:, :, None], words[None], c[:, None]), c[:, None], metric
        )
        np.testing.assert_allclose(q.tables(x), want.detach(), atol=2e-3)
        np.testing.assert_allclose(
            q.product_score(x, x[:16]).detach(), want.sum(1).detach(), atol=4e-3
        )


@pytest.mark.parametrize("name", GEOMETRIES)
def test_kmeans_gains_by_its_steps(name):
    v = torch.randn(600, 4, generator=torch.Generator().manual_seed(0)) * 0.7
    c = torch.tensor(0.25)
    with geometry(name):
        x = lorentz.expmap0(lorentz.clip_norm(v, 1.5), c)

        def cost(steps):
            words = codebooks.lorentz_kmeans(v, 16, c, 1.5, seed=0, iterations=steps)
            return lorentz.sqchord_matrix(x, lorentz.expmap0(words, c), c[None]).amin(1).mean()

        assert cost(10) <= cost(0) * 1.0005


@pytest.mark.parametrize("name", GEOMETRIES)
def test_training_learns_in_each_and_nothing_is_left_behind(name):
    before = {key: getattr(lorentz, key) for key in dir(lorentz)}
    codes, attend = LorentzProductQuantizer.codes, LorentzProductQuantizer.attend
    x = np.random.default_rng(0).normal(size=(400, 24)).astype(np.float32)
    recipe = Recipe(
        width=16, hidden=16, epochs=2, curvature=0.25, train_curvature=False, guard=False
    )
    with geometry(name), straight_through():
        codec = train_codec(x, M=2, nbits=4, recipe=recipe.replace(quantized_weight=0.5))
        assert np.isfinite(codec.tables(x)).all()
        assert len(np.unique(codec.encode(x))) > 8
    assert {key: getattr(lorentz, key) for key in dir(lorentz)} == before
    assert codes is LorentzProductQuantizer.codes
    assert attend is LorentzProductQuantizer.attend


def test_straight_through_is_the_codeword_with_the_gradient_of_the_point():
    q = LorentzProductQuantizer(2, 3, 4)
    with torch.no_grad():
        q.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 2, 3, requires_grad=True)
    with straight_through():
        soft, p = q.attend(x)
    words = q.codewords()[torch.arange(2), q.codes(x).long()]
    torch.testing.assert_close(soft, words)
    assert torch.equal(p.sum(-1), torch.ones(2, 6))
    soft.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert q.codebooks.grad.abs().sum() > 0
