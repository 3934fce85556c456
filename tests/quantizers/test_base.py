"""What every quantizer promises, tested on all of them."""

from __future__ import annotations

import pytest
import torch

from hyperpq.errors import InvalidInputError
from hyperpq.geometry import GEOMETRIES
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.quantizers.base import Quantizer
from hyperpq.quantizers.flat_pq import FlatProductQuantizer
from hyperpq.quantizers.product import ProductQuantizer

MAKERS = {
    **{name: lambda *a, name=name: ProductQuantizer(*a, geometry=name) for name in GEOMETRIES},
    "l2": FlatProductQuantizer,
    "ip": lambda *a: FlatProductQuantizer(*a, metric="ip"),
    "additive": AdditiveQuantizer,
}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture(params=[4, 8])
def quantizer(make, request) -> Quantizer:
    q = make(3, 5, request.param)
    with torch.no_grad():
        q.codebooks.normal_(0, 0.4, generator=torch.Generator().manual_seed(0))
    return q


def vectors(q: Quantizer, n: int) -> torch.Tensor:
    """Vectors (n, spaces, D); the last coordinate of an additive one is a squared length."""
    v = torch.randn(n, q.spaces, q.D, generator=torch.Generator().manual_seed(1)) / 2
    if q.spaces == 1:
        v[..., -1] = v[..., :-1].square().sum(-1) + 0.1
    return v


def test_sizes(quantizer):
    q = quantizer
    assert [q.M, q.D] == [3, 5]
    assert {4: 16, 8: 256}[q.nbits] == q.K
    assert q.codebooks.shape == (q.M, q.K, q.D)
    assert q.spaces in (1, q.M)
    assert len(q.curvatures) in (0, q.M)
    assert isinstance(q.metric, str)
    assert isinstance(q, torch.nn.Module)
    assert f"nbits={q.nbits}" in repr(q)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_types(quantizer, dtype):
    q, v = quantizer, vectors(quantizer, 7).to(dtype)
    assert q.clip(v).shape == v.shape
    x = q.points(v)
    assert (x.shape, x.dtype) == (v.shape, dtype)
    codes = q.codes(x)
    assert (codes.shape, codes.dtype) == ((7, q.M), torch.uint8)
    assert int(codes.max()) < q.K
    tables = q.tables(x)
    assert (tables.shape, tables.dtype) == ((7, q.M, q.K), dtype)
    assert torch.isfinite(tables).all()
    decoded = q.decode(codes)
    assert decoded.shape == v.shape
    for empty in (q.codes(x[:0]), q.tables(x[:0]), q.decode(codes[:0])):
        assert len(empty) == 0
    assert not (tables.requires_grad or decoded.requires_grad)


def test_decoded_vectors_have_their_codes(quantizer):
    q = quantizer
    if q.spaces == 1:
        pytest.skip("a sum of codewords may have a better code than its own")
    codes = torch.randint(q.K, (40, q.M), generator=torch.Generator().manual_seed(2))
    assert torch.equal(q.codes(q.points(q.decode(codes).double())).long(), codes)


@pytest.mark.parametrize("sizes", [(0, 4, 8), (2, 0, 8), (2, 4, 5), (2, 4, 16)])
def test_wrong_sizes_are_refused(make, sizes):
    with pytest.raises(InvalidInputError):
        make(*sizes)


def test_wrong_metrics_are_refused():
    for wrong in ("l1", "cosine"):
        with pytest.raises(InvalidInputError, match=r"expected 'l2' or 'ip'\."):
            FlatProductQuantizer(2, 2, metric=wrong)
    with pytest.raises(InvalidInputError, match=r"expected 'l1', 'geodesic' or 'chord'\."):
        ProductQuantizer(2, 2, metric="l2")
