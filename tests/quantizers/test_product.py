"""Quantizer: attention, codes, tables and decode against plain float64 loops."""

from __future__ import annotations

import geoopt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq import codes as packing
from hyperpq.errors import InvalidInputError
from hyperpq.geometry import GEOMETRIES, METRICS
from hyperpq.quantizers.product import ProductQuantizer


def make(M=3, D=4, nbits=4, seed=0, dtype=torch.float64, **options) -> ProductQuantizer:
    q = ProductQuantizer(M, D, nbits, **options)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        q.codebooks.copy_(torch.randn(q.codebooks.shape, generator=g))
        q.log_c.copy_(torch.linspace(-1, 1, M))
    return q.to(dtype)


def points(q, n, seed=1):
    g = torch.Generator().manual_seed(seed)
    return q.points(torch.randn(n, q.M, q.D, generator=g, dtype=q.log_c.dtype))


def geoopt_distances(q, x):
    """(n, M, K) distances by geoopt, in float64."""
    out = torch.empty(len(x), q.M, q.K, dtype=torch.float64)
    words = q.codewords().double()
    for m in range(q.M):
        k = 1 / q.c[m].double()
        manifold = geoopt.Lorentz(k=k)
        y, w = x[:, m].double(), words[m]
        full_y = torch.cat([(k + y.square().sum(1, keepdim=True)).sqrt(), y], 1)
        full_w = torch.cat([(k + w.square().sum(1, keepdim=True)).sqrt(), w], 1)
        out[:, m] = manifold.dist(full_y[:, None], full_w[None])
    return out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [4, 8])
def test_tables_and_codes_match_geoopt(metric, nbits):
    q = make(nbits=nbits, metric=metric)
    x = points(q, 20)
    d = geoopt_distances(q, x).detach()
    c = q.c.detach()[:, None]
    want = {"l1": d, "geodesic": d**2, "chord": 4 / c * torch.sinh(c.sqrt() * d / 2) ** 2}[metric]
    torch.testing.assert_close(q.tables(x), want, rtol=1e-6, atol=1e-9)
    assert torch.equal(q.codes(x).long(), d.argmin(-1))
    torch.testing.assert_close(q.pairwise_distances(x, x[:5]).detach().shape, torch.Size([20, 5]))


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_distances_of_codewords_is_the_adc_sum(metric):
    q = make(metric=metric, nbits=8)
    x = points(q, 6)
    codes = q.codes(points(q, 9, seed=5))
    decoded = q.geometry.expmap0(q.decode(codes), q.c)
    want = q.tables(x)[:, torch.arange(q.M), codes.long()].sum(-1)
    torch.testing.assert_close(q.pairwise_distances(x, decoded), want, rtol=1e-6, atol=1e-6)


def test_attention_is_the_lorentz_centroid_under_softmax():
    q = make(beta=3.0)
    x = points(q, 5)
    soft, p = q.attend(x)
    words = q.codewords()
    for i in range(5):
        for m in range(q.M):
            k = 1 / q.c[m]
            w = words[m]
            w0 = (k + w.square().sum(1)).sqrt()
            x0 = (k + x[i, m].square().sum()).sqrt()
            s = -2 * k - 2 * (w @ x[i, m] - w0 * x0)
            weight = torch.softmax(-3.0 * s, 0)
            torch.testing.assert_close(p[m, i], weight)
            a, a0 = weight @ w, weight @ w0
            torch.testing.assert_close(soft[i, m], k.sqrt() * a / (a0**2 - a @ a).sqrt())


def test_attention_sharpens_to_the_hard_code():
    q = make(beta=1e7)
    x = points(q, 30)
    hard = q.geometry.expmap0(q.decode(q.codes(x)), q.c)
    torch.testing.assert_close(q.attend(x)[0], hard, rtol=1e-4, atol=1e-4)


def test_gradients_reach_codebooks_and_curvatures():
    q, x = make(M=2, D=2), points(make(M=2, D=2), 3).detach()

    def soft(codebooks, log_c):
        parameters = {"codebooks": codebooks, "log_c": log_c}
        return torch.func.functional_call(
            _Attend(q), {f"q.{k}": v for k, v in parameters.items()}, x
        )

    inputs = [p.detach().clone().requires_grad_() for p in (q.codebooks, q.log_c)]
    assert torch.autograd.gradcheck(soft, inputs)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(soft(*inputs).sum(), inputs))


class _Attend(torch.nn.Module):
    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, x):
        return self.q.attend(x)[0]


def test_equal_codewords_decode_alike():
    q = make(nbits=8)
    with torch.no_grad():
        q.codebooks.copy_(q.codebooks[:, :1].expand_as(q.codebooks))
    decoded = q.decode(q.codes(points(q, 8)))
    assert torch.equal(decoded, decoded[:1].expand_as(decoded))


def test_blocks_do_not_change_codes_or_tables(monkeypatch):
    q = make(nbits=8, dtype=torch.float32)
    x = points(q, 50)
    codes, tables = q.codes(x), q.tables(x)
    monkeypatch.setattr("hyperpq.quantizers.product._TABLE_ENTRIES", 7 * q.M * q.K)
    monkeypatch.setattr("hyperpq.quantizers.product._CODE_ENTRIES", 7 * q.M * q.K)
    assert torch.equal(q.codes(x), codes)
    # The product's shape decides its last bits in float64: rounded to float32 one may tip over.
    torch.testing.assert_close(q.tables(x), tables, rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_codes_are_the_nearest_by_the_tables(geometry):
    v = np.random.default_rng(0).normal(size=(40, 5)) * 0.6
    v = v * np.minimum(1, 1.5 / np.linalg.norm(v, axis=1, keepdims=True))
    q = ProductQuantizer(2, 5, 4, geometry=geometry)
    with torch.no_grad():
        q.log_c.fill_(np.log(0.25))
        q.codebooks.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    x = q.points(torch.tensor(v, dtype=torch.float32).view(20, 2, 5))
    assert torch.equal(q.codes(x).long(), q.tables(x).argmin(2))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("metric", METRICS)
def test_tables_and_pairs_are_the_distances(geometry, metric):
    """At every angle, obtuse ones between far points included."""
    v = torch.randn(60, 2, 3, generator=torch.Generator().manual_seed(0)) * 2
    q = ProductQuantizer(2, 3, 4, metric=metric, max_norm=1.5, geometry=geometry)
    with torch.no_grad():
        q.codebooks.copy_(v[:16].transpose(0, 1))
    x, words, c = q.points(v), q.codewords(), q.c
    q2 = q.geometry.sqchord(x[:, :, None], words[None], c[:, None])
    want = q.geometry.metric_from_sqchord(q2, c[:, None], metric)
    np.testing.assert_allclose(q.tables(x), want.detach(), atol=2e-3)
    np.testing.assert_allclose(
        q.pairwise_distances(x, x[:16]).detach(), want.sum(1).detach(), atol=4e-3
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_codes_and_tables_of_a_row_are_those_in_any_batch(geometry):
    q = make(M=2, D=6, nbits=8, geometry=geometry)
    with torch.no_grad():
        q.log_c.clamp_max_(0)
    x = points(q, 40)
    codes, tables = q.codes(x), q.tables(x).float()
    for rows in (slice(0, 1), slice(7, 20), slice(39, 40)):
        assert torch.equal(q.codes(x[rows]), codes[rows])
        assert torch.equal(q.tables(x[rows]).float(), tables[rows])


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_attention_is_the_centroid_in_each_geometry(geometry):
    q = make(M=2, beta=3.0, geometry=geometry)
    with torch.no_grad():
        q.log_c.clamp_max_(0)
    x = points(q, 5)
    soft, p = q.attend(x)
    words, c = q.codewords(), q.c[:, None]
    weights = torch.softmax(-3.0 * q.geometry.sqchord_table(x.transpose(0, 1), words, c), -1)
    torch.testing.assert_close(p, weights, rtol=1e-6, atol=1e-9)
    sums = p @ q.geometry.lift(words, c)
    torch.testing.assert_close(soft, q.geometry.project(sums, c).transpose(0, 1))
    assert (q.geometry.distance(soft, soft + 0, q.c) == 0).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_straight_through_is_the_codeword_with_the_gradient_of_the_point(geometry):
    q = ProductQuantizer(2, 3, 4, geometry=geometry)
    with torch.no_grad():
        q.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1)) / 4
    x.requires_grad_()
    hard = q.straight_through(x)
    words = q.codewords()[torch.arange(2), q.codes(x).long()]
    torch.testing.assert_close(hard, words)
    hard.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert q.codebooks.grad.abs().sum() > 0


def test_vectors_end_at_the_equator_of_the_sphere():
    """At c = 10 it is at .497: longer vectors are shortened to it, those of codewords included."""
    q = ProductQuantizer(2, 3, 4, max_norm=1.5, geometry="sphere").double()
    with torch.no_grad():
        q.log_c.copy_(torch.tensor([10.0, 0.01]).log())
        q.codebooks.normal_(generator=torch.Generator().manual_seed(0))
    v = torch.tensor([[0.6, 0, 0], [1.2, 0, 0]], dtype=torch.float64)[:, None].expand(2, 2, 3)
    equator = np.pi / 2 / 10**0.5
    want = torch.tensor([[equator, 0.6], [equator, 1.2]], dtype=torch.float64)
    torch.testing.assert_close(q.clip(v).norm(dim=2), want, rtol=1e-6, atol=0)
    decoded = q.decode(torch.arange(16)[:, None].expand(16, 2))
    torch.testing.assert_close(
        q.geometry.logmap0(q.codewords(), q.c[:, None]).transpose(0, 1), decoded, rtol=1e-6, atol=0
    )
    assert (decoded[:, 0].norm(dim=1) <= equator * (1 + 1e-6)).all()
    assert (decoded[:, 1].norm(dim=1) > 1).any()
    # Beyond it the curvature still has a gradient, as it moves the equator.
    (slope,) = torch.autograd.grad(q.clip(v).sum(), q.log_c)
    assert slope[0] < 0 and slope[1] == 0


def test_the_earlier_name_is_the_quantizer_of_hyperbolic_space():
    import hyperpq

    assert hyperpq.ProductQuantizer is hyperpq.LorentzProductQuantizer is ProductQuantizer
    q = hyperpq.LorentzProductQuantizer(2, 3)
    assert q.curvatures.tolist() == [-1, -1]
    assert isinstance(q, ProductQuantizer)
    assert q.geometry.name == "lorentz"
    assert "geometry='lorentz'" in repr(q)


@pytest.mark.parametrize(
    "options",
    [
        {"nbits": 6},
        {"nbits": 16},
        {"M": 0},
        {"D": 0},
        {"metric": "cosine"},
        {"beta": 0.0},
        {"geometry": "x"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(InvalidInputError):
        ProductQuantizer(**{"M": 2, "D": 2, **options})


@given(n=st.integers(0, 20), M=st.integers(1, 33), nbits=st.sampled_from([4, 8]), data=st.data())
@settings(max_examples=50, deadline=None)
def test_packing_round_trip(n, M, nbits, data):
    seed = data.draw(st.integers(0, 2**31))
    codes = np.random.default_rng(seed).integers(0, 1 << nbits, (n, M)).astype(np.uint8)
    packed = packing.pack(codes, nbits)
    assert packed.shape == (n, packing.code_size(M, nbits))
    np.testing.assert_array_equal(packing.unpack(packed, M, nbits), codes)


def test_packing_is_that_of_faiss():
    faiss = pytest.importorskip("faiss")
    pq = faiss.ProductQuantizer(12, 3, 4)
    x = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    pq.train(x)
    centroids = faiss.vector_to_array(pq.centroids).reshape(3, 16, 4)
    near = [
        ((x[:, 4 * m : 4 * m + 4, None] - centroids[m].T) ** 2).sum(1).argmin(1) for m in range(3)
    ]
    want = pq.compute_codes(x)
    np.testing.assert_array_equal(packing.pack(np.stack(near, 1).astype(np.uint8), 4), want)
