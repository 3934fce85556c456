"""The two ways to encode and compare: NumPy on a CPU, and PyTorch on the device of a codec."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from hyperpq import HiHPQIndex
from hyperpq.codec.coder import coder_of
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.frozen import FrozenCodec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import from_files, to_files
from hyperpq.codec.torch_coder import TorchCoder
from hyperpq.errors import NotTrainedError
from hyperpq.inference import heads, smoothing, spaces
from hyperpq.inference.additive import smallest
from hyperpq.quantizers.additive import smallest as smallest_tensors
from hyperpq.utils import exact_matmul, exact_products

D = 24
GEOMETRIES = ["lorentz", "euclidean", "sphere"]


def draw(n, seed=0, d=D):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, d)) * 2
    return (centres[rng.integers(0, 20, n)] + rng.normal(size=(n, d))).astype(np.float32)


X, QUERIES = draw(600), draw(40, 1)


def untrained(metric="l1", geometry="lorentz", nbits=8, hidden=0):
    """A codec with drawn weights."""
    torch.manual_seed(0)
    config = CodecConfig(
        D, 3, nbits, 5, metric=metric, geometry=geometry, hidden=hidden, smoothing_neighbours=4
    )
    codec = HiHPQCodec(config)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.normal_(std=0.5)
        codec.quantizer.log_c.uniform_(-1, 1)
        codec.mean.uniform_(0, 0.1)
    codec.set_centroids(torch.randn(400, 15))
    codec.is_trained = True
    return codec


def learned(name):
    if name in ("l2", "ip"):
        return PQCodec.fit(X, 4, metric=name)
    if name == "opq":
        return PQCodec.fit(X, 4, 4, rotation=16)
    objective, _, metric = name.partition(" ")
    options = {"metric": metric} if metric else {}
    index = HiHPQIndex(D, 4, objective=objective, device="cpu", **options)
    index.train(X, epochs=1)
    return index.codec


CODECS = {
    **{
        f"{metric} {geometry}": lambda m=metric, g=geometry: untrained(m, g)
        for metric in ("l1", "geodesic", "chord")
        for geometry in GEOMETRIES
    },
    "nibbles": lambda: untrained(nbits=4),
    "hidden": lambda: untrained(hidden=7),
    **{
        name: lambda n=name: learned(n)
        for name in ("fidelity", "fidelity l2", "fidelity ip", "balanced", "l2", "ip", "opq")
    },
}


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    return CODECS[request.param]()


def test_both_ways_agree(codec):
    """Codes to the last bit; tables and vectors up to the rounding of float64."""
    one, other = codec.frozen(), TorchCoder(codec)
    codes = one.encode(X)
    np.testing.assert_array_equal(codes, other.encode(X))
    for name, rows in [
        ("embed", X),
        ("tables", QUERIES),
        ("decode", codes),
        ("code_tables", codes[:50]),
        ("corrections", codes),
    ]:
        found, want = getattr(one, name)(rows), getattr(other, name)(rows)
        assert (found.dtype, found.shape) == (want.dtype, want.shape)
        scale = np.abs(want).max(initial=0)
        np.testing.assert_allclose(found, want, rtol=3e-7, atol=1e-9 * scale)
    for name in ("d", "M", "nbits", "metric", "code_size"):
        assert getattr(one, name) == getattr(other, name) == getattr(codec, name)
    for name in ("has_corrections", "approximates_features"):
        assert getattr(one, name) == getattr(other, name) == getattr(codec, name)
    assert one.feature_space().metric == other.feature_space().metric


def test_a_codec_on_a_cpu_encodes_by_numpy(codec):
    assert isinstance(codec.coder(), FrozenCodec)
    np.testing.assert_array_equal(codec.tables(QUERIES), codec.frozen().tables(QUERIES))


def test_tables_of_a_codec_have_the_distances_of_its_codes(codec):
    """The table of a query at the codewords of a row is the distance to what it decodes to."""
    coder = codec.frozen()
    codes = coder.encode(X[:30])
    at_codes = coder.code_tables(codes)
    unpacked = codes if coder.nbits == 8 else np.stack([codes & 15, codes >> 4], 2).reshape(30, -1)
    own = at_codes[np.arange(30)[:, None], np.arange(coder.M), unpacked[:, : coder.M]]
    if coder.metric in ("l1", "geodesic", "chord", "l2") and not coder.has_corrections:
        np.testing.assert_allclose(own, 0, atol=1e-6)


def test_rows_do_not_depend_on_their_batch(codec):
    coder = codec.frozen()
    for name in ("encode", "tables", "embed"):
        whole = getattr(coder, name)(X)
        for row in (0, 7, 599):
            np.testing.assert_array_equal(getattr(coder, name)(X[row : row + 1])[0], whole[row])


def test_weights_that_change_are_noticed_by_the_codec_alone():
    codec = untrained()
    coder = coder_of(codec)
    before = coder.encode(X)
    codec.quantizer.codebooks.data.mul_(-1)
    assert coder_of(codec) is coder
    np.testing.assert_array_equal(coder.encode(X), before)
    assert (codec.encode(X) != before).any()


def test_a_codec_that_is_not_trained():
    codec = HiHPQCodec(CodecConfig(D, 2, 8, 4))
    for call in (codec.frozen, codec.coder, lambda: coder_of(codec)):
        with pytest.raises(NotTrainedError, match="not trained"):
            call()


@given(st.integers(0, 99), st.integers(1, 5), st.integers(0, 40), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_products_have_the_bits_of_those_in_pytorch(seed, n, k, m):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=size) * 10.0 ** rng.integers(-9, 9) for size in ((n, k), (k, m)))
    one, other = torch.from_numpy(a), torch.from_numpy(b)
    found = exact_products.RoundedMatrix(b).left_product(a)
    np.testing.assert_array_equal(found, exact_matmul.exact_matmul(one, other).numpy())
    if k:
        found = exact_products.ExactMatrix(b).left_product(a)
        want = exact_matmul.ExactFactor(other).left_product(one)
        np.testing.assert_array_equal(found, want.numpy())
        found = exact_products.squared_lengths(a)
        np.testing.assert_array_equal(found, exact_matmul.squared_lengths(one).numpy())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_spaces_are_those_of_the_geometries(geometry):
    from hyperpq.geometry.registry import METRICS, get_geometry

    space, want = spaces.SPACES[geometry], get_geometry(geometry)
    rng = np.random.default_rng(0)
    c = rng.uniform(0.05, 5, 3)
    v, w = rng.normal(size=(50, 3, 6)), rng.normal(size=(20, 3, 6))
    v[0] = 0
    v[1, :, 1:] = 0
    w[:5] = v[5:10] + rng.normal(size=(5, 3, 6)) * 1e-7
    tensors = [torch.from_numpy(array) for array in (v, w, c)]
    v, w = (space.clip(array, 1.5, c) for array in (v, w))
    clipped = [want.clip(array, 1.5, tensors[2]) for array in tensors[:2]]
    np.testing.assert_allclose(v, clipped[0].numpy(), rtol=1e-14)
    x, y = space.expmap0(v, c), space.expmap0(w, c)
    np.testing.assert_allclose(x, want.expmap0(clipped[0], tensors[2]).numpy(), rtol=1e-13)
    points = [torch.from_numpy(array).transpose(0, 1) for array in (x, y)]
    column = tensors[2][:, None]
    q2 = space.table(y.swapaxes(0, 1), c[:, None])(x.swapaxes(0, 1))
    expected = want.sqchord_table(*points, column).numpy()
    np.testing.assert_allclose(q2, expected, rtol=1e-8)
    for metric in METRICS:
        found = space.metric(q2.swapaxes(0, 1), c[:, None], metric)
        d = want.metric_from_sqchord(torch.from_numpy(q2).transpose(0, 1), column, metric)
        np.testing.assert_allclose(found, d.numpy(), rtol=1e-13)
    lifted, dual = (f(y.swapaxes(0, 1), c[:, None]) for f in (space.lift, space.dual))
    np.testing.assert_allclose(lifted, want.lift(points[1], column).numpy(), rtol=1e-14)
    np.testing.assert_allclose(dual, want.dual(points[1], column).numpy(), rtol=1e-14)
    near = spaces.nearest_columns(space.lift(x.swapaxes(0, 1), c[:, None]), dual.swapaxes(1, 2))
    np.testing.assert_array_equal(near, want.nearest(*points, column).numpy())


def test_equal_columns_have_the_first_as_the_nearest():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 30, 5)), rng.normal(size=(2, 5, 40))
    right[:, :, 20:] = right[:, :, :20] * (1 + 1e-15)
    near = spaces.nearest_columns(left, right)
    exact = np.stack(
        [exact_products.RoundedMatrix(right[m]).left_product(left[m]) for m in range(2)]
    )
    np.testing.assert_array_equal(near, exact.argmin(-1))


@pytest.mark.parametrize("k", [1, 5, 16, 32])
def test_the_smallest_costs(k):
    cost = np.random.default_rng(0).normal(size=(20, 512))
    np.testing.assert_array_equal(smallest(cost, k), cost.argsort(1)[:, :k])
    np.testing.assert_array_equal(smallest(cost, k), smallest_tensors(torch.from_numpy(cost), k))


def test_stored_codecs_are_read_without_pytorch(codec, tmp_path):
    """What the files give is what the codec has, and torch is not imported for it."""
    files = to_files(codec)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "x.npy", QUERIES)
    script = """
import sys
from pathlib import Path
import numpy as np
from hyperpq.codec.stored_codec import StoredCodec
files = {path.name: path.read_bytes() for path in Path('.').glob('codec.*')}
coder = StoredCodec.read(files).freeze()
x = np.load('x.npy')
np.savez('out.npz', codes=coder.encode(x), tables=coder.tables(x), vectors=coder.embed(x))
assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["codes"], codec.encode(QUERIES))
    np.testing.assert_array_equal(found["tables"], codec.tables(QUERIES))
    np.testing.assert_array_equal(found["vectors"], codec.embed(QUERIES))
    assert to_files(from_files(files)) == files


@pytest.mark.parametrize("normalization", ["unit", "power"])
@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_the_length_of_features_does_not_matter(normalization, scale):
    codec = untrained()
    codec.config = replace(codec.config, normalization=normalization)
    codec.mean.zero_()
    x = X * np.float32(scale)
    for coder in (codec.frozen(), TorchCoder(codec)):
        np.testing.assert_array_equal(coder.encode(x), coder.encode(X))


def test_the_error_function_is_that_of_scipy():
    rng = np.random.default_rng(0)
    ends = [0.0, -0.0, 1.0, -1.0, 6.0, 1e-300, np.inf, -np.inf]
    x = np.concatenate([rng.normal(size=5000), rng.uniform(-8, 8, 5000), ends])
    np.testing.assert_allclose(heads._erf(x), erf(x), rtol=4e-16, atol=0)
    assert np.signbit(heads._erf(np.array([-0.0]))).all()


@pytest.mark.parametrize("width", [1, 2, 7, 64, 256])
def test_sums_of_few_rows_are_those_of_many(width):
    """They are added in turn, whatever the number of vectors."""
    rng = np.random.default_rng(width)
    x = rng.normal(size=(90, width)) * 10.0 ** rng.integers(-8, 8, (90, 1))
    for count in (1, 2, 12, 40):
        which = rng.integers(0, 90, (9, count))
        many = smoothing.sum_of_rows(x, which)
        for n in (1, 2, 4):
            np.testing.assert_array_equal(smoothing.sum_of_rows(x, which[:n]), many[:n])
