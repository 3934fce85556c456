"""Every geometry against geoopt in float64, 60-digit arithmetic and its own definition.

A geometry that is added to `registry.GeometryName` takes part in the tests that are parametrized by
`GEOMETRIES`; `REFERENCES` is what it is compared with, and must have every geometry.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq.errors import InvalidInputError
from hyperpq.geometry import GEOMETRIES, METRICS, Geometry, Lorentz, get_geometry
from hyperpq.geometry.base import CHORD_FLOOR

mpmath.mp.dps = 60
CURVATURES = (0.05, 0.25, 1.0, 4.0)
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Reference:
    """A space that is written without hyperpq, for one curvature.

    Attributes
    ----------
    expmap0 : callable
        Tangent vectors (n, D) -> ambient points (n, D + 1), time last, or (n, D). By geoopt.
    dist : callable
        Distances of two arrays of ambient points. By geoopt.
    exact : callable
        Distance of two points of D numbers each, the very ones that are given, in 60 digits.
    """

    expmap0: Callable[[torch.Tensor], torch.Tensor]
    dist: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    exact: Callable[[list[mpmath.mpf], list[mpmath.mpf]], mpmath.mpf]


def _squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def _exact_curved(c: float, sign: int):
    """The distance of a curved space by its chord."""
    k, arc = mpmath.mpf(c), mpmath.asin if sign > 0 else mpmath.asinh

    def exact(x, y):
        heights = [mpmath.sqrt(1 / k - sign * sum(a * a for a in one)) for one in (x, y)]
        half = mpmath.sqrt(k * (_squared(x, y) + sign * (heights[0] - heights[1]) ** 2)) / 2
        return 2 / mpmath.sqrt(k) * arc(half)

    return exact


def _lorentz(c: float) -> Reference:
    manifold = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))

    def expmap0(v):
        return manifold.expmap0(torch.cat([torch.zeros_like(v[..., :1]), v], -1)).roll(-1, -1)

    def dist(x, y):
        return manifold.dist(x.roll(1, -1), y.roll(1, -1))

    return Reference(expmap0, dist, _exact_curved(c, -1))


def _euclidean(c: float) -> Reference:
    manifold = geoopt.Euclidean(ndim=1)

    def exact(x, y):
        return mpmath.sqrt(_squared(x, y))

    return Reference(lambda v: manifold.expmap(torch.zeros_like(v), v), manifold.dist, exact)


def _sphere(c: float) -> Reference:
    manifold, root = geoopt.SphereExact(), c**0.5

    def expmap0(v):
        along = torch.cat([root * v, torch.zeros_like(v[..., :1])], -1)
        pole = torch.zeros_like(along)
        pole[..., -1] = 1
        return manifold.expmap(pole, along) / root

    def dist(x, y):
        return manifold.dist(root * x, root * y) / root

    return Reference(expmap0, dist, _exact_curved(c, 1))


REFERENCES = {"lorentz": _lorentz, "euclidean": _euclidean, "sphere": _sphere}


def drawn(geometry: Geometry, n: int, D: int, c: float, seed: int, dtype=torch.float64):
    """Tangent vectors (n, D) up to 0.95 of the useful radius, at most 2 / sqrt(c)."""
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(n, D, generator=g, dtype=torch.float64)
    radius = min(2.0, 0.95 * geometry.max_radius) / c**0.5
    length = torch.rand(n, 1, generator=g, dtype=torch.float64) * radius
    return (v / v.norm(dim=1, keepdim=True) * length).to(dtype)


def points(geometry: Geometry, n: int, D: int, c: float, seed: int, dtype=torch.float64):
    return geometry.expmap0(drawn(geometry, n, D, c, seed, dtype), torch.tensor(c, dtype=dtype))


@pytest.fixture(params=GEOMETRIES)
def geometry(request) -> Geometry:
    return get_geometry(request.param)


def test_names():
    assert [get_geometry(name).name for name in GEOMETRIES] == list(GEOMETRIES)
    assert set(REFERENCES) == set(GEOMETRIES)
    assert get_geometry("sphere") is get_geometry("sphere")
    with pytest.raises(
        InvalidInputError, match=r"geometry is 'torus'; expected .* or '\w+'\.$"
    ) as e:
        get_geometry("torus")
    assert all(repr(name) in str(e.value) for name in GEOMETRIES)


def test_names_are_known_without_torch():
    script = (
        "import sys; from hyperpq.geometry import GEOMETRIES; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", REFERENCES)
def test_agrees_with_geoopt(name, c, seed, dtype, tolerance):
    geometry, reference = get_geometry(name), REFERENCES[name](c)
    v, w = (drawn(geometry, 30, 5, c, 2 * seed + i, dtype) for i in range(2))
    tc = torch.tensor(c, dtype=dtype)
    x, y = geometry.expmap0(v, tc), geometry.expmap0(w, tc)
    assert x.dtype == dtype
    full_v, full_w = reference.expmap0(v.double()), reference.expmap0(w.double())
    whole = torch.cat([x, geometry.lift(x, tc)[:, -1:]], 1)[:, : full_v.shape[1]]
    torch.testing.assert_close(whole.double(), full_v, rtol=10 * tolerance, atol=10 * tolerance)
    want = reference.dist(full_v, full_w)
    assert (want > 1e-2).all()
    got = geometry.distance(x, y, tc)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=10 * tolerance, atol=0)
    for metric, wanted in (("l1", want), ("geodesic", want.square())):
        matrix = geometry.sqchord_matrix(x, y, tc[None])
        got = geometry.metric_from_sqchord(matrix, tc, metric).diagonal()
        torch.testing.assert_close(got.double(), wanted, rtol=1e3 * tolerance, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_maps_at_the_origin(geometry, c, seed, dtype, tolerance):
    """Lengths of tangent vectors are distances from the origin, and the maps are inverses."""
    v, tc = drawn(geometry, 40, 6, c, seed, dtype), torch.tensor(c, dtype=dtype)
    x = geometry.expmap0(v, tc)
    torch.testing.assert_close(geometry.logmap0(x, tc), v, rtol=tolerance, atol=tolerance)
    origin = geometry.expmap0(torch.zeros_like(v), tc)
    assert (origin == 0).all()
    torch.testing.assert_close(
        geometry.distance(x, origin, tc), v.norm(dim=1), rtol=tolerance, atol=0
    )


def exact_distance(name: str, x: np.ndarray, y: np.ndarray, c: float) -> mpmath.mpf:
    """Distance of the very numbers given, in 60 digits."""
    return REFERENCES[name](c).exact(*([mpmath.mpf(float(a)) for a in one] for one in (x, y)))


@pytest.mark.parametrize("separation", [1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", REFERENCES)
def test_distances_match_60_digits_at_every_separation(name, c, separation, dtype, tolerance):
    geometry, tc = get_geometry(name), torch.tensor(c, dtype=dtype)
    v = drawn(geometry, 30, 4, c, 3) * 0.8
    g = torch.Generator().manual_seed(4)
    step = torch.randn(30, 4, generator=g, dtype=torch.float64) * separation / c**0.5
    w = geometry.clip(v + step, min(2.0, 0.9 * geometry.max_radius) / c**0.5, tc)
    x, y = (geometry.expmap0(one.to(dtype), tc) for one in (v, w))
    got = geometry.distance(x, y, tc)
    for a, b, d in zip(x.numpy(), y.numpy(), got.tolist(), strict=True):
        if (a != b).any():
            want = exact_distance(name, a, b, float(tc))
            assert abs(d / want - 1) < tolerance


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("name", REFERENCES)
def test_distances_are_accurate_at_the_largest_radius(name, c):
    """Of points at every angle, by tables in float32."""
    geometry, tc = get_geometry(name), torch.tensor(c)
    radius = min(geometry.max_radius, 100.0) / c**0.5
    angles = torch.tensor([1e-2, 0.1, 0.5, 1.5, 3.0], dtype=torch.float64)
    v = radius * torch.stack([angles.cos(), angles.sin(), 0 * angles], 1)
    first = radius * torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    x, y = (geometry.expmap0(one.float(), tc) for one in (v, first))
    got = geometry.metric_from_sqchord(geometry.sqchord_table(x, y, tc[None]), tc, "l1")[:, 0]
    reference = REFERENCES[name](c)
    want = reference.dist(*(reference.expmap0(one) for one in (v, first.expand_as(v))))
    # `Sphere` explains the absolute error.
    torch.testing.assert_close(got.double() ** 2, want**2, rtol=1e-5, atol=5e-7 / c)


@pytest.mark.parametrize("c", CURVATURES)
def test_sign_is_that_of_triangles(geometry, c):
    """The side opposite the origin is longer than in flat space if the curvature is negative."""
    v, w = (drawn(geometry, 50, 4, c, seed) for seed in (12, 13))
    tc = torch.tensor(c, dtype=torch.float64)
    excess = geometry.distance(geometry.expmap0(v, tc), geometry.expmap0(w, tc), tc)
    excess = excess / (v - w).norm(dim=1) - 1
    assert (torch.where(excess.abs() < 1e-12, 0, excess).sign() == -geometry.sign).all()


@pytest.mark.parametrize("c", CURVATURES)
def test_whether_the_chord_is_an_inner_product(geometry, c):
    x, y = (points(geometry, 30, 4, c, seed) for seed in (14, 15))
    tc = torch.tensor(c, dtype=torch.float64)
    products = (geometry.lift(x, tc) * geometry.dual(y, tc)).sum(1)
    same = torch.isclose(2 * products + 2 * geometry.sign / tc, geometry.sqchord(x, y, tc))
    assert same.all() == geometry.chord_is_inner_product


@pytest.mark.parametrize("c", CURVATURES)
def test_clip_keeps_directions_within_the_space(geometry, c):
    v = torch.randn(50, 4, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    v *= torch.logspace(-2, 2, 50)[:, None]
    tc = torch.tensor(c, dtype=torch.float64)
    for max_norm in (0.1, 1.5, 4.0):
        clipped = geometry.clip(v, max_norm, tc)
        lengths = clipped.norm(dim=1)
        bound = float(lengths.max())
        assert bound <= max_norm * (1 + 1e-12)
        torch.testing.assert_close(lengths, v.norm(dim=1).clamp_max(bound))
        torch.testing.assert_close(clipped / lengths[:, None], v / v.norm(dim=1, keepdim=True))
        # No two clipped vectors are one point, up to the rounding of asin near the equator.
        again = geometry.logmap0(geometry.expmap0(clipped, tc), tc)
        torch.testing.assert_close(again, clipped, rtol=1e-6, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_metrics_are_those_of_the_chord(geometry, c, dtype):
    x, y = (points(geometry, 50, 3, c, seed, dtype) for seed in (5, 6))
    tc = torch.tensor(c, dtype=dtype)
    q2, d = geometry.sqchord(x, y, tc), geometry.distance(x, y, tc)
    by_name = {metric: geometry.metric_from_sqchord(q2, tc, metric) for metric in METRICS}
    assert torch.equal(by_name["chord"], q2)
    assert torch.equal(by_name["l1"], d)
    torch.testing.assert_close(by_name["geodesic"], d * d)
    for value in by_name.values():
        assert torch.equal(value.argsort(stable=True), q2.argsort(stable=True))
    rounding = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(geometry.sqchord(y, x, tc), q2, rtol=rounding, atol=0)
    assert (geometry.distance(x, x, tc) == 0).all()
    assert (d <= geometry.distance(x, x[:1], tc) + geometry.distance(x[:1], y, tc) + 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_and_tables_are_those_of_pairs(geometry, dtype):
    c = torch.tensor([0.2, 1.0, 2.0], dtype=dtype)
    x, y = (
        torch.stack([points(geometry, n, 4, float(one), n, dtype) for one in c]) for n in (7, 9)
    )
    y[:, 0] = x[:, 0]
    y[:, 1] = x[:, 1] + 1e-5
    wide = [a.double() for a in (x.unsqueeze(2), y.unsqueeze(1), c[:, None, None])]
    want = geometry.sqchord(*wide).to(dtype)
    table = geometry.sqchord_table(x, y, c[:, None])
    assert table.dtype == dtype
    torch.testing.assert_close(table, want, rtol=1e-6, atol=0)
    matrix = geometry.sqchord_matrix(x, y, c[:, None])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(matrix, want.clamp_min(CHORD_FLOOR), rtol=1e-4, atol=1e3 * eps)
    assert (matrix >= CHORD_FLOOR).all()


def test_products_of_lifted_points_rank_as_distances(geometry):
    c = torch.tensor([[0.3], [1.0]], dtype=torch.float64)
    x, y = (
        torch.stack([points(geometry, n, 5, float(one), n) for one in c[:, 0]]) for n in (60, 40)
    )
    d = geometry.sqchord_table(x, y, c)
    products = geometry.lift(x, c) @ geometry.dual(y, c).transpose(1, 2)
    assert torch.equal(products.argsort(2), d.argsort(2))
    found = geometry.nearest(x, y, c)
    assert torch.equal(found, d.argmin(2))
    # Of each point alone, and the first of equal ones.
    rows = torch.cat([geometry.nearest(x[:, i : i + 1], y, c) for i in range(60)], 1)
    assert torch.equal(rows, found)
    twice = torch.cat([y, y], 1)
    assert torch.equal(geometry.nearest(x, twice, c), found)


@given(seed=st.integers(0, 2**31), c=st.floats(0.05, 4), n=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_centroid_and_projected_sum_minimise_squared_chords(name, seed, c, n):
    geometry, tc = get_geometry(name), torch.tensor(c, dtype=torch.float64)
    v = drawn(geometry, n, 3, c, seed % 1000) / 2
    g = torch.Generator().manual_seed(seed)
    x, w = geometry.expmap0(v, tc), torch.rand(n, generator=g, dtype=torch.float64) + 1e-3
    best = geometry.centroid(x, w[None], tc[None])[0]
    total = (w[:, None] * geometry.lift(x, tc)).sum(0)
    torch.testing.assert_close(geometry.project(total, tc), best, rtol=1e-9, atol=1e-9)

    def cost(p):
        return (w * geometry.sqchord(x, p, tc)).sum()

    for scale in (1e-3, 1e-2, 1e-1):
        step = scale * torch.randn(3, generator=g, dtype=torch.float64) / c**0.5
        there = geometry.expmap0(geometry.logmap0(best, tc) + step, tc)
        assert cost(best) <= cost(there) * (1 + 1e-9) + 1e-12 / c


@pytest.mark.parametrize("seed", range(3))
def test_gradients_are_those_of_finite_differences(geometry, seed):
    c = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    v, w = (
        torch.stack([drawn(geometry, 1, 3, float(one), 7 * seed + k)[0] for one in c])
        for k in (1, 2)
    )
    inputs = [t.clone().requires_grad_() for t in (v, w, c)]
    chord = lambda v, w, c: geometry.sqchord(geometry.expmap0(v, c), geometry.expmap0(w, c), c)  # noqa: E731
    assert torch.autograd.gradcheck(chord, inputs)
    assert torch.autograd.gradcheck(
        lambda x, c: geometry.logmap0(geometry.expmap0(x, c), c), (inputs[0], inputs[2])
    )
    for metric in METRICS:
        assert torch.autograd.gradcheck(
            lambda v, w, c, metric=metric: geometry.metric_from_sqchord(chord(v, w, c), c, metric),
            inputs,
        )
        assert torch.autograd.gradcheck(
            lambda v, w, c, metric=metric: geometry.pairwise_distances(
                geometry.expmap0(v[:, None], c[:1]),
                geometry.expmap0(w[:, None], c[:1]),
                c[:1],
                metric,
            ),
            inputs,
        )
    weights = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, p, c: geometry.centroid(geometry.expmap0(v, c[:1]), p, c[:1]),
        (inputs[0], weights, inputs[2]),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_equal_points_and_the_origin_have_finite_gradients(geometry, metric, dtype):
    v = torch.zeros(4, 3, dtype=dtype)
    v[1:] = drawn(geometry, 3, 3, 1.0, 8, dtype)
    c = torch.ones(4, dtype=dtype)
    for w in (v.clone(), v.flip(0), torch.zeros_like(v)):
        leaves = [t.clone().requires_grad_() for t in (v, w, c)]
        x, y = (geometry.expmap0(one, leaves[2]) for one in leaves[:2])
        total = geometry.metric_from_sqchord(geometry.sqchord(x, y, leaves[2]), leaves[2], metric)
        pairs = geometry.pairwise_distances(x[:, None], y[:, None], leaves[2][:1], metric)
        grads = torch.autograd.grad(
            total.sum() + pairs.sum(), leaves, allow_unused=True, materialize_grads=True
        )
        assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_distances_are_sums_over_the_subspaces(geometry, metric):
    c = torch.tensor([0.2, 1.0, 2.0], dtype=torch.float64)
    x, y = (
        torch.stack([points(geometry, n, 4, float(one), n + 1) for one in c], 1) for n in (11, 6)
    )
    q2 = geometry.sqchord(x[:, None], y[None], c)
    want = geometry.metric_from_sqchord(q2, c, metric).sum(2)
    got = geometry.pairwise_distances(x, y, c, metric)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    narrow = geometry.pairwise_distances(x.float(), y.float(), c.float(), metric)
    torch.testing.assert_close(narrow.double(), want, rtol=1e-4, atol=1e-4)


def test_flat_space_is_the_limit_of_both_curvatures():
    flat = get_geometry("euclidean")
    v, w = torch.randn(2, 40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = flat.distance(v, w, torch.tensor(1.0))
    torch.testing.assert_close(want, (v - w).norm(dim=1))
    c = torch.tensor(1e-8, dtype=torch.float64)
    for name, side in (("lorentz", 1), ("sphere", -1)):
        bent = get_geometry(name)
        assert (flat.sign, bent.sign) == (0, -side)
        got = bent.distance(bent.expmap0(v, c), bent.expmap0(w, c), c)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
        # Points on rays from the origin part faster in hyperbolic space and slower on the sphere.
        c_large = torch.tensor(0.05, dtype=torch.float64)
        got = bent.distance(bent.expmap0(v, c_large), bent.expmap0(w, c_large), c_large)
        assert (side * (got - want) > 0).all()


def test_long_vectors_end_on_the_equator_of_the_sphere():
    sphere, c = get_geometry("sphere"), torch.tensor(4.0, dtype=torch.float64)
    v = torch.tensor([[0.6, 0.8], [-3.0, 4.0]], dtype=torch.float64)
    x = sphere.expmap0(v, c)
    torch.testing.assert_close(x, v / v.norm(dim=1, keepdim=True) / 2)
    # Half of a great circle of radius 1/2; times on the equator are 1e-4 for the gradient's sake.
    assert abs(float(sphere.distance(x[:1], -x[:1], c)) - np.pi / 2) < 1e-6


class Plain(Geometry):
    """Only the abstract methods, those of `Lorentz`: what a new geometry must define."""

    name = "plain"
    sign, max_radius = Lorentz.sign, Lorentz.max_radius
    expmap0, logmap0, lift, dual = Lorentz.expmap0, Lorentz.logmap0, Lorentz.lift, Lorentz.dual
    project, sqchord = Lorentz.project, Lorentz.sqchord
    sqchord_matrix = Lorentz.sqchord_matrix
    metric_from_sqchord = Lorentz.metric_from_sqchord


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_derived_agrees_with_the_faster_ways_of_lorentz(metric):
    plain, fast = Plain(), get_geometry("lorentz")
    c = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    x, y = (
        torch.stack([points(fast, n, 4, float(one), n) for one in c.detach()], 1).requires_grad_()
        for n in (12, 8)
    )
    weights = torch.rand(2, 3, 8, dtype=torch.float64)
    for of in (
        lambda g: g.pairwise_distances(x, y, c, metric),
        lambda g: g.centroid(y.transpose(0, 1), weights, c[:, None]),
    ):
        one, other = of(plain), of(fast)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        shares = torch.rand_like(one)
        for a, b in zip(
            torch.autograd.grad((shares * one).sum(), (x, y, c), allow_unused=True),
            torch.autograd.grad((shares * other).sum(), (x, y, c), allow_unused=True),
            strict=True,
        ):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
    with torch.no_grad():
        of_all = x.transpose(0, 1), y.transpose(0, 1), c[:, None]
        torch.testing.assert_close(
            plain.sqchord_table(*of_all), fast.sqchord_table(*of_all), rtol=1e-6, atol=0
        )


def test_an_incomplete_geometry_cannot_be_made():
    class Incomplete(Geometry):
        name, sign, max_radius = "incomplete", 0, 1.0

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
