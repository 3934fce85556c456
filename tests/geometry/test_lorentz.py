"""Lorentz geometry against geoopt (float64) and 60-digit arithmetic."""

from __future__ import annotations

import itertools

import geoopt
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq.geometry import METRICS, Lorentz, lorentz_chord
from hyperpq.geometry.base import clip_norm

mpmath.mp.dps = 60
LORENTZ = Lorentz()
CURVATURES = (1e-3, 0.1, 1.0, 3.0, 10.0)
RADII = (0.0, 1e-3, 0.5, 1.5, 5.0, 10.0)  # geodesic radius times sqrt(c)
SEPARATIONS = (1e-6, 1e-4, 1e-2, 1.0, 10.0)


def exact_sqchord(x: np.ndarray, y: np.ndarray, c: float) -> mpmath.mpf:
    """q^2 of the very numbers given, in 60 digits."""
    xs, ys, c_ = [mpmath.mpf(float(v)) for v in x], [mpmath.mpf(float(v)) for v in y], mpmath.mpf(c)
    x0 = mpmath.sqrt(1 / c_ + sum(v * v for v in xs))
    y0 = mpmath.sqrt(1 / c_ + sum(v * v for v in ys))
    return 2 * (x0 * y0 - sum(a * b for a, b in zip(xs, ys, strict=True))) - 2 / c_


def exact_distance(x: np.ndarray, y: np.ndarray, c: float) -> mpmath.mpf:
    q = mpmath.sqrt(exact_sqchord(x, y, c))
    root = mpmath.sqrt(mpmath.mpf(c))
    return 2 / root * mpmath.asinh(root * q / 2)


def pairs(dtype: torch.dtype):
    """Pairs at a given radius and separation: radial, across and in a random direction."""
    rng = np.random.default_rng(0)
    for c, radius, sep in itertools.product(CURVATURES, RADII, SEPARATIONS):
        root = c**0.5
        e = rng.normal(size=8)
        e /= np.linalg.norm(e)
        f = rng.normal(size=8)
        f -= (f @ e) * e
        f /= np.linalg.norm(f)
        x = np.sinh(radius) / root * e
        radial = np.sinh(radius + sep) / root * e
        angle = 2 * np.arcsin(min(1.0, np.sinh(sep / 2) / max(np.sinh(radius), 1e-9)))
        across = np.sinh(radius) / root * (np.cos(angle) * e + np.sin(angle) * f)
        for y in (radial, across, -x, x + sep * (e + f)):
            tx, ty = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)
            if not torch.equal(tx, ty):
                yield tx, ty, torch.tensor(c, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "near", "far"), [(torch.float32, 3e-6, 2e-4), (torch.float64, 6e-15, 4e-13)]
)
def test_distance_and_chord_match_60_digits(dtype, near, far):
    """To rounding up to radius 5; at 10 a step across is magnified cosh(10) times."""
    for x, y, c in pairs(dtype):
        want_q2 = exact_sqchord(x.numpy(), y.numpy(), float(c))
        want_d = exact_distance(x.numpy(), y.numpy(), float(c))
        got_q2 = mpmath.mpf(float(lorentz_chord.sqchord(x, y, c)))
        got_d = mpmath.mpf(float(LORENTZ.distance(x, y, c)))
        radius = mpmath.asinh(float(c) ** 0.5 * max(float(x.norm()), float(y.norm())))
        error = max(abs(got_q2 / want_q2 - 1) / 2, abs(got_d / want_d - 1))
        assert error < (near if radius < 9.9 else far)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("c", CURVATURES)
def test_maps_match_60_digits_and_each_other(dtype, tolerance, c):
    rng = np.random.default_rng(1)
    for radius in RADII:
        v = rng.normal(size=(4, 6))
        v = torch.tensor(
            v / np.linalg.norm(v, axis=1, keepdims=True) * radius / c**0.5, dtype=dtype
        )
        tc = torch.tensor(c, dtype=dtype)
        x = LORENTZ.expmap0(v, tc)
        for row, got in zip(v.numpy(), x.numpy(), strict=True):
            norm = mpmath.sqrt(sum(mpmath.mpf(float(a)) ** 2 for a in row))
            t = mpmath.sqrt(mpmath.mpf(float(tc))) * norm
            factor = mpmath.sinh(t) / t if t else mpmath.mpf(1)
            want = np.array([float(factor * mpmath.mpf(float(a))) for a in row])
            np.testing.assert_allclose(got, want, rtol=tolerance * (1 + radius))
        np.testing.assert_allclose(LORENTZ.logmap0(x, tc), v, rtol=tolerance * 4, atol=1e-30)


@pytest.mark.parametrize("c", CURVATURES)
def test_agrees_with_geoopt(c):
    manifold = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    g = torch.Generator().manual_seed(2)
    v, w = torch.randn(2, 20, 5, generator=g, dtype=torch.float64) / c**0.5
    tc = torch.tensor(c, dtype=torch.float64)
    x, y = LORENTZ.expmap0(v, tc), LORENTZ.expmap0(w, tc)
    full = [torch.cat([lorentz_chord.time_part(p, tc)[:, None], p], 1) for p in (x, y)]
    zero = torch.zeros(20, 1, dtype=torch.float64)
    torch.testing.assert_close(manifold.expmap0(torch.cat([zero, v], 1)), full[0])
    torch.testing.assert_close(manifold.logmap0(full[0])[:, 1:], LORENTZ.logmap0(x, tc))
    torch.testing.assert_close(manifold.dist(*full), LORENTZ.distance(x, y, tc), rtol=1e-7, atol=0)
    torch.testing.assert_close(
        manifold.inner(None, *full), -(LORENTZ.lift(x, tc) * LORENTZ.dual(y, tc)).sum(1)
    )
    for p in full:
        assert manifold.check_point_on_manifold(p, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("radius", [0.0, 0.6, 1.5, 5.0])
def test_tables_are_right_to_float32_for_near_pairs_too(radius):
    """Separations from 0 to far, two curvatures, one query without a near codeword."""
    g = torch.Generator().manual_seed(4)
    c = torch.tensor([[0.3], [2.0]])
    words = torch.randn(2, 30, 6, generator=g)
    words *= radius / words.norm(dim=-1, keepdim=True) / c[..., None].sqrt()
    steps = 10.0 ** torch.arange(-8, 1)[:, None] * torch.randn(2, 9, 6, generator=g)
    x = torch.cat([words[:, :1], words[:, :9] + steps, 3 + words[:, :1]], 1)
    got = lorentz_chord.sqchord_table(x, words, c)
    wide = (x.double().unsqueeze(2), words.double().unsqueeze(1), c.double()[..., None])
    want = lorentz_chord.sqchord(*wide)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-44)
    assert (got[:, 0, 0] == 0).all()
    assert ((want > 0) & (want < 1e-12)).any()


def test_matrix_route_agrees_with_pairs():
    g = torch.Generator().manual_seed(3)
    c = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    x = LORENTZ.expmap0(torch.randn(3, 7, 4, generator=g, dtype=torch.float64), c[:, None])
    y = LORENTZ.expmap0(torch.randn(3, 9, 4, generator=g, dtype=torch.float64), c[:, None])
    got = lorentz_chord.sqchord_matrix(x, y, c[:, None])
    want = lorentz_chord.sqchord(x[:, :, None], y[:, None], c[:, None, None])
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("where", ["apart", "equal", "origin", "one at origin"])
def test_gradients(where):
    g = torch.Generator().manual_seed(4)
    v, w = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    if where == "equal":
        w = v.clone()
    elif where == "origin":
        v, w = torch.zeros_like(v), torch.zeros_like(w)
    elif where == "one at origin":
        v = torch.zeros_like(v)
    c = torch.tensor([0.2, 0.7, 1.0, 1.5, 4.0], dtype=torch.float64)
    inputs = [t.clone().requires_grad_() for t in (v, w, c)]

    def points(v, w, c):
        return LORENTZ.expmap0(v, c), LORENTZ.expmap0(w, c), c

    assert torch.autograd.gradcheck(lambda *a: lorentz_chord.sqchord(*points(*a)), inputs)
    assert torch.autograd.gradcheck(LORENTZ.expmap0, (inputs[0], inputs[2]))
    assert torch.autograd.gradcheck(LORENTZ.logmap0, (inputs[0], inputs[2]))
    weights = torch.rand(2, 5, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, w: LORENTZ.centroid(v, w, torch.ones(1, dtype=v.dtype)), (inputs[0], weights)
    )
    if where in ("apart", "one at origin"):
        assert torch.autograd.gradcheck(lambda *a: LORENTZ.distance(*points(*a)), inputs)
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        for metric in METRICS:
            x, y, cc = points(*leaves)
            total = lorentz_chord.metric_from_sqchord(
                lorentz_chord.sqchord(x, y, cc), cc, metric
            ).sum()
            matrix = lorentz_chord.sqchord_matrix(x, y, cc[:1])
            total = total + lorentz_chord.metric_from_sqchord(matrix, cc[0], metric).sum()
            for grad in torch.autograd.grad(total, leaves):
                assert torch.isfinite(grad).all()


def test_gradients_broadcast():
    g = torch.Generator().manual_seed(5)
    x = torch.randn(4, 1, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 2, 3, generator=g, dtype=torch.float64, requires_grad=True)
    c = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lorentz_chord.sqchord, (x, y, c))


@given(
    seed=st.integers(0, 2**31),
    radius=st.floats(0, 3),
    c=st.floats(1e-3, 10),
    n=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_centroid_minimises_the_weighted_sum_of_squared_chords(seed, radius, c, n):
    g = torch.Generator().manual_seed(seed)
    tc = torch.tensor(c, dtype=torch.float64)
    v = torch.randn(n, 3, generator=g, dtype=torch.float64) * radius / c**0.5
    x, w = LORENTZ.expmap0(v, tc), torch.rand(n, generator=g, dtype=torch.float64) + 1e-3
    best = LORENTZ.centroid(x, w[None], tc)[0]

    def cost(p):
        return (w * lorentz_chord.sqchord(x, p, tc)).sum()

    for _ in range(8):
        step = torch.randn(3, generator=g, dtype=torch.float64) * 10 ** float(
            torch.empty(1).uniform_(-4, 0, generator=g)
        )
        assert cost(best) <= cost(best + step) * (1 + 1e-9) + 1e-12 / c


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("radius", RADII[:-1])
def test_centroid_matches_60_digits(c, radius):
    rng = np.random.default_rng(7)
    for dtype, eps in ((torch.float32, 1.2e-7), (torch.float64, 2.3e-16)):
        v = torch.tensor(rng.normal(size=(5, 4)), dtype=dtype)
        v = v / v.norm(dim=1, keepdim=True) * radius / c**0.5
        tc = torch.tensor(c, dtype=dtype)
        x, w = LORENTZ.expmap0(v, tc), torch.tensor(rng.random(5), dtype=dtype)
        got = LORENTZ.centroid(x, w[None], tc)[0]
        xs = [[mpmath.mpf(float(a)) for a in row] for row in x]
        ws, c_ = [mpmath.mpf(float(a)) for a in w], mpmath.mpf(float(tc))
        space = [sum(wi * row[j] for wi, row in zip(ws, xs, strict=True)) for j in range(4)]
        times = [mpmath.sqrt(1 / c_ + sum(a * a for a in row)) for row in xs]
        time = sum(wi * t for wi, t in zip(ws, times, strict=True))
        norm = mpmath.sqrt(c_ * (time**2 - sum(a * a for a in space)))
        want = np.array([float(a / norm) for a in space])
        scale = np.abs(want).max() + 1e-30
        bound = 40 * eps * np.cosh(radius) ** 2
        assert np.abs(got.double().numpy() - want).max() / scale < max(bound, 40 * eps)


def test_clip_norm():
    v = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], requires_grad=True)
    out = clip_norm(v, 1.0)
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    (grad,) = torch.autograd.grad(out.sum(), v)
    assert torch.isfinite(grad).all()
    torch.testing.assert_close(grad[2], torch.ones(2))
