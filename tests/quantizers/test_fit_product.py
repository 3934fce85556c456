"""k-means in each geometry, and distillation of codebooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq.geometry import GEOMETRIES, Geometry, get_geometry
from hyperpq.quantizers.fit_product import (
    approximate_nearest,
    distil_codebooks,
    fit_codebooks,
    manifold_kmeans,
)
from hyperpq.quantizers.product import ProductQuantizer


@pytest.fixture(scope="module")
def v():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 5)) * 0.7
    return torch.tensor(centres[rng.integers(0, 12, 500)] + rng.normal(size=(500, 5)) * 0.1).float()


@pytest.fixture(params=GEOMETRIES)
def geometry(request) -> Geometry:
    return get_geometry(request.param)


def kmeans_of(v, K, c, max_norm, geometry, **options):
    return manifold_kmeans(v, K, c, max_norm, geometry=geometry, seed=0, **options)


@pytest.mark.parametrize("c", [0.01, 0.25, 1.0, 4.0])
def test_kmeans_is_a_fixed_point_of_lloyd_in_float64(v, c, geometry):
    c, r = torch.tensor(c), min(2.0, geometry.max_radius / c**0.5)
    words = kmeans_of(v, 12, c, r, geometry, iterations=30).double()
    points = geometry.expmap0(geometry.clip(v.double(), r, c), c.double())
    own = approximate_nearest(points, geometry.expmap0(words, c.double()), c.double(), geometry)
    for k in own.unique():
        centre = geometry.centroid(
            points[own == k], torch.ones(1, int((own == k).sum())).double(), c.double()
        )
        torch.testing.assert_close(
            geometry.logmap0(centre, c.double())[0], words[k], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", ["lorentz", "sphere"])
def test_kmeans_lowers_the_error_of_the_curved_space(v, name):
    geometry = get_geometry(name)
    c = torch.tensor(4.0)
    v = v * 2
    r = min(2.4, geometry.max_radius / 2)

    def error(words):
        points = geometry.expmap0(geometry.clip(v, r, c), c)
        words = geometry.expmap0(words, c)
        own = words[approximate_nearest(points, words, c, geometry)]
        return float(geometry.sqchord(points, own, c).mean())

    before, after = (error(kmeans_of(v, 8, c, r, geometry, iterations=i)) for i in (0, 10))
    assert after < before


def test_kmeans_gains_by_its_steps(geometry):
    v = torch.randn(600, 4, generator=torch.Generator().manual_seed(0)) * 0.7
    c = torch.tensor(0.25)
    x = geometry.expmap0(geometry.clip(v, 1.5, c), c)

    def cost(steps):
        words = kmeans_of(v, 16, c, 1.5, geometry, iterations=steps)
        return geometry.sqchord_matrix(x, geometry.expmap0(words, c), c[None]).amin(1).mean()

    assert cost(10) <= cost(0) * 1.0005


def test_nearest_is_that_of_the_distances(geometry, monkeypatch):
    g = torch.Generator().manual_seed(3)
    c = torch.tensor(0.5).double()
    points, words = (
        geometry.expmap0(geometry.clip(torch.randn(n, 4, generator=g).double(), 2.0, c), c)
        for n in (200, 16)
    )
    want = geometry.sqchord(points[:, None], words[None], c).argmin(1)
    assert torch.equal(approximate_nearest(points, words, c, geometry), want)
    monkeypatch.setattr("hyperpq.quantizers.fit_product._MAX_DISTANCES", 7 * 16)
    assert torch.equal(approximate_nearest(points, words, c, geometry), want)


@pytest.mark.parametrize("n", [1, 3, 16])
def test_few_vectors_are_their_own_codewords(v, n, geometry):
    c = torch.tensor(1.0)
    words, clipped = kmeans_of(v[:n], 16, c, 9.0, geometry), geometry.clip(v[:n], 9.0, c)
    assert words.shape == (16, 5)
    assert torch.equal(words.unique(dim=0), clipped.unique(dim=0))


def test_codebooks_are_those_of_each_subspace(geometry):
    v = torch.randn(300, 3, 4, generator=torch.Generator().manual_seed(2)) * 0.4
    q = ProductQuantizer(3, 4, 4, max_norm=1.2, geometry=geometry.name)
    with torch.no_grad():
        q.log_c.copy_(torch.tensor([-1.0, 0.0, 0.3]))
    fit_codebooks(q, v, seed=5)
    for m in range(3):
        own = manifold_kmeans(
            v[:, m].contiguous(), 16, q.c.detach()[m], 1.2, geometry=geometry, seed=5 + m
        )
        assert torch.equal(q.codebooks[m], own)
    assert q.codebooks.requires_grad


def ranked(q, v, target):
    """Mean cross-entropy between the continuous ranking and that by codes, float64, by a loop."""
    points, space = q.points(v), target.points(v.flatten(1).unflatten(1, (target.M, target.D)))
    words = q.decode(q.codes(points))
    coded = q.geometry.expmap0(q.clip(words), q.c)
    total = 0.0
    for i in range(len(v)):
        others = torch.arange(len(v)) != i
        d, coded_d = (
            q.geometry.distance(one[i][None].double(), many[others].double(), c.double()).sum(1)
            for one, many, c in ((space, space, target.c), (points, coded, q.c))
        )
        p, log_p = torch.softmax(-d / 0.1, 0), torch.log_softmax(-coded_d / 0.25, 0)
        total -= float((p * log_p).sum())
    return total / len(v)


@pytest.mark.parametrize(
    ("metric", "geometry"),
    [("l1", "lorentz"), ("chord", "lorentz"), ("l1", "euclidean"), ("l1", "sphere")],
)
def test_distillation_ranks_vectors_it_has_not_seen(metric, geometry):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 16)) * 0.35
    v = centres[rng.integers(0, 40, 2600)] + rng.normal(size=(2600, 16)) * 0.1
    v = torch.tensor(v.reshape(2600, 2, 8)).float()
    target = ProductQuantizer(4, 4, 4, geometry=geometry)
    target.requires_grad_(False)
    q = ProductQuantizer(2, 8, 4, metric=metric, geometry=geometry)
    with torch.no_grad():
        fit_codebooks(q, v[:2000], seed=0)
        before, start = ranked(q, v[2000:2200], target), q.codebooks.clone()
    with torch.no_grad():
        distil_codebooks(q, v[:2000], target, v[:2000].flatten(1), 0.25, 4, seed=0)
        after = ranked(q, v[2000:2200], target)
    assert after < before
    assert not torch.equal(q.codebooks, start)
    assert (q.log_c == 0).all() and q.codebooks.grad is None and q.log_c.grad is None
    # The same again, bit for bit; and codewords stay near their vectors.
    again = ProductQuantizer(2, 8, 4, metric=metric, geometry=geometry)
    with torch.no_grad():
        again.codebooks.copy_(start)
        distil_codebooks(again, v[:2000], target, v[:2000].flatten(1), 0.25, 4, seed=0)
    assert torch.equal(again.codebooks, q.codebooks)
    assert float((q.codebooks.detach() - start).norm(dim=2).max()) < 0.5


def test_few_vectors_are_not_distilled():
    v = torch.randn(1023, 1, 4)
    q, target = ProductQuantizer(1, 4, 4), ProductQuantizer(1, 4, 4)
    with torch.no_grad():
        q.codebooks.normal_()
        start = q.codebooks.clone()
        distil_codebooks(q, v, target, v.flatten(1), 0.25, 4, seed=0)
    assert torch.equal(q.codebooks, start)
