"""What a codec says of a row doesn't depend on the rows beside it, nor on the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq import HiHPQCodec, HiHPQIndex, PQCodec
from hyperpq.geometry import GEOMETRIES
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec
from hyperpq.utils.exact_matmul import ExactFactor, exact_matmul

X = np.abs(np.random.default_rng(7).normal(size=(1500, 40))).astype(np.float32)
X[700:720] = X[0:20]  # equal rows
KINDS = {
    "default": {"epochs": 2, "width": 32, "subspaces": 2, "levels": (8, 4)},
    "chord, branch": {"epochs": 1, "width": 24, "subspaces": 2, "hidden": 20},
    "untrained": {"epochs": 0},
    "few rows": {"epochs": 0},
    "fidelity": {"epochs": 1, "objective": "fidelity"},
    "balanced": {"epochs": 1, "objective": "balanced", "width": 32, "subspaces": 2},
    **{name: {"epochs": 0, "geometry": name} for name in GEOMETRIES if name != "lorentz"},
}


def made(kind):
    if kind == "plain":
        words = np.random.default_rng(1).normal(size=(4, 256, 10)).astype(np.float32)
        words[:, 128:] = words[:, :128]
        return PQCodec.from_codebooks(words)
    x = X[:40] if kind == "few rows" else X
    metric = "chord" if kind.startswith("chord") else "l1"
    return train_codec(x, M=3, metric=metric, recipe=Recipe().replace(**KINDS[kind]), seed=0)


@pytest.fixture(scope="module", params=[*KINDS, "plain"])
def codec(request):
    return made(request.param)


def answers(codec, x):
    return {"embed": codec.embed(x), "encode": codec.encode(x), "tables": codec.tables(x)}


# Two threads are slow where another process keeps a core busy: few batches are enough for them.
@pytest.mark.parametrize(
    ("threads", "sizes"), [(1, [1]), (1, [2, 3]), (1, [7, 64, 1, 20]), (2, [33, 64, 1, 2])], ids=str
)
def test_batches_and_threads_change_no_bit(codec, threads, sizes):
    x = X[:100]
    whole = answers(codec, x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start, parts = 0, []
        while start < len(x):
            size = sizes[len(parts) % len(sizes)]
            parts.append(answers(codec, x[start : start + size]))
            start += size
    finally:
        torch.set_num_threads(before)
    for name, expected in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), expected)


def test_batches_of_codes_change_no_bit(codec):
    """The distance of a code to itself was 0 in one batch and 2e-16 in another."""
    codes = codec.encode(X[:40])
    for name in ("decode", "code_tables"):
        answer = getattr(codec, name)
        parts = [answer(codes[start : start + 9]) for start in range(0, 40, 9)]
        np.testing.assert_array_equal(np.concatenate(parts), answer(codes))


def test_order_changes_no_bit(codec):
    x = X[:800]
    order = np.random.default_rng(2).permutation(len(x))
    whole, shuffled = answers(codec, x), answers(codec, x[order])
    for name, expected in whole.items():
        np.testing.assert_array_equal(shuffled[name], expected[order])


def test_equal_rows_have_equal_answers(codec):
    for found in answers(codec, X[:720]).values():
        np.testing.assert_array_equal(found[700:720], found[0:20])


# One instruction set for PyTorch and MKL, and how many threads.
PROCESSORS = {
    "plain": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An index in a directory."""
    index = HiHPQIndex(40, M=3, device="cpu")
    index.train(X, epochs=1)
    index.save(tmp_path_factory.mktemp("stored") / "index")
    return index


@pytest.mark.parametrize("processor", PROCESSORS)
def test_processors_change_no_code(stored, tmp_path, processor):
    """Codes and vectors of a stored codec, made by another instruction set."""
    x = X[:200]
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy as np\n"
        "from hyperpq import HiHPQIndex\n"
        "index = HiHPQIndex.load(sys.argv[2], device='cpu')\n"
        "x = np.load(sys.argv[1] + '/x.npy')\n"
        "np.savez(sys.argv[1] + '/found.npz', codes=index.encode(x), embed=index.embed(x))\n"
    )
    environment = {**os.environ, **PROCESSORS[processor]}
    subprocess.run(
        [sys.executable, "-c", program, tmp_path, stored.path], check=True, env=environment
    )
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_array_equal(found["codes"], stored.encode(x))
        np.testing.assert_array_equal(found["embed"], stored.embed(x))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5000), st.integers(1, 9), st.integers(-120, 120))
def test_products_are_near_and_row_by_row_the_same(n, k, m, exponent):
    generator = torch.Generator().manual_seed(n * k + m)
    a = torch.randn(n, k, generator=generator, dtype=torch.float64) * 2.0**exponent
    b = torch.randn(k, m, generator=generator, dtype=torch.float64)
    found = exact_matmul(a, b)
    apart = torch.stack([torch.cat([exact_matmul(r[None], c[:, None])[0] for c in b.T]) for r in a])
    assert torch.equal(found, apart)
    largest = (a.abs().amax(1, keepdim=True) * b.abs().amax(0)) if k else torch.zeros(n, m)
    assert ((found - a @ b).abs() <= 2.0**-20 * max(k, 1) ** 0.5 * largest + 1e-300).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5000), st.integers(1, 9), st.integers(-120, 120))
def test_products_of_two_slices_are_nearer_and_row_by_row_the_same(n, k, m, exponent):
    generator = torch.Generator().manual_seed(n * k + m)
    a = torch.randn(n, k, generator=generator, dtype=torch.float64) * 2.0**exponent
    b = torch.randn(k, m, generator=generator, dtype=torch.float64)
    factor = ExactFactor(b)
    found = factor.left_product(a)
    assert torch.equal(found, torch.cat([factor.left_product(row[None]) for row in a]))
    apart = [ExactFactor(column[:, None]).left_product(a) for column in b.T]
    assert torch.equal(found, torch.cat(apart, 1))
    largest = a.abs().amax(1, keepdim=True) * b.abs().amax(0)
    assert ((found - a @ b).abs() <= 2.0**-40 * k**0.5 * largest).all()


def test_tables_of_plain_codebooks_have_all_digits_in_any_batch():
    """A query at a codeword, where long vectors cancel, had other last bits in another batch."""
    words = X[:256].reshape(256, 4, 10).transpose(1, 0, 2)
    for shift in (0, 1000):
        codec = PQCodec.from_codebooks(np.ascontiguousarray(words + np.float32(shift)))
        x = X[:600] + np.float32(shift)
        tables = codec.tables(x)
        alone = np.concatenate([codec.tables(row[None]) for row in x])
        np.testing.assert_array_equal(tables, alone)
        assert (tables[np.arange(256), :, np.arange(256)] == 0).all()
        books = codec.quantizer.codebooks.double().numpy()
        exact = np.square(x.reshape(-1, 4, 1, 10).astype(np.float64) - books).sum(-1)
        np.testing.assert_allclose(tables, exact, rtol=7e-8)


def test_products_of_zeros():
    a = torch.zeros(3, 5, dtype=torch.float64)
    ones = torch.ones(5, 2, dtype=torch.float64)
    for product in (exact_matmul(a, ones), ExactFactor(ones).left_product(a)):
        assert torch.equal(product, torch.zeros(3, 2, dtype=torch.float64))


def test_codec_without_rows():
    codec = made("untrained")
    assert codec.encode(X[:0]).shape == (0, 3)
    assert isinstance(codec, HiHPQCodec)
