"""Additive quantizer: search of codes, tables, its fit, and the codec that carries it."""

from __future__ import annotations

import itertools
import json

import faiss
import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.quantizers.additive import DISCOUNT, AdditiveQuantizer, smallest
from hyperpq.quantizers.fit_additive import fit_additive
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


def vectors(n: int, D: int, seed: int = 0) -> torch.Tensor:
    """(y, s) with s above |y|^2."""
    y = torch.randn(n, D - 1, generator=torch.Generator().manual_seed(seed))
    more = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed + 1))
    return torch.cat([y, y.square().sum(1, keepdim=True) + more], 1)


def drawn(M: int, D: int, nbits: int = 4) -> AdditiveQuantizer:
    q = AdditiveQuantizer(M, D, nbits)
    with torch.no_grad():
        q.codebooks.normal_(generator=torch.Generator().manual_seed(5))
        q.stress.fill_(0.7)
    return q


def clustered(n: int, seed: int, d: int = 40) -> np.ndarray:
    centers = np.random.default_rng(0).normal(size=(30, d)) / np.sqrt(1 + np.arange(d))
    rng = np.random.default_rng(seed)
    x = centers[rng.integers(0, 30, n)] + rng.normal(size=(n, d)) * 0.7 / np.sqrt(1 + np.arange(d))
    return (x + 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    return train_codec(clustered(1200, 1), M=4, recipe=Recipe(objective="fidelity", epochs=2))


def costs(q: AdditiveQuantizer, v: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The cost of codes (C, M) for each vector, float64, as the docstring has it."""
    wide = v.double()
    total = q.codebooks.double()[torch.arange(q.M), codes].sum(1)
    y, s, z, N = wide[:, :-1], wide[:, -1], total[:, :-1], total[:, -1]
    miss = N - y @ z.T - (s - y.square().sum(1))[:, None] / 2
    return torch.cdist(y, z).square() + float(q.stress) * miss.square()


@pytest.mark.parametrize(("M", "D"), [(1, 2), (2, 4), (3, 9)])
def test_a_wide_beam_finds_the_best_code(M, D):
    q, v = drawn(M, D), vectors(40, D)
    every = torch.tensor(list(itertools.product(range(16), repeat=M)))
    cost = costs(q, v, every)
    found = q.codes(v[:, None], beam=16**M).long()
    own = costs(q, v, found).diagonal()
    torch.testing.assert_close(own, cost.amin(1).detach(), rtol=1e-5, atol=1e-5)


def test_a_wider_beam_costs_less_and_blocks_dont_matter():
    q, v = drawn(4, 12, 8), vectors(700, 12)
    mean = [costs(q, v, q.codes(v[:, None], beam).long()).diagonal().mean() for beam in (1, 4, 32)]
    assert mean[0] > mean[1] > mean[2]
    parts = torch.cat([q.codes(part[:, None]) for part in v.split(333)])
    assert (parts == q.codes(v[:, None])).float().mean() > 0.999
    assert q.codes(v[:0, None]).shape == (0, 4)


@pytest.mark.parametrize("k", [1, 4, 15, 16, 40])
def test_smallest_is_topk(k):
    cost = torch.randn(50, 256, generator=torch.Generator().manual_seed(k))
    want = cost.topk(k, dim=1, largest=False)
    assert torch.equal(smallest(cost, k), want[1])


def test_tables_sum_to_the_score_and_decode_agrees():
    q, v = drawn(3, 9, 8), vectors(20, 9, 3)
    codes = torch.randint(0, 256, (30, 3), generator=torch.Generator().manual_seed(1))
    tables = q.tables(v[:, None])
    assert tables.shape == (20, 3, 256)
    got = tables.double()[:, torch.arange(3), codes].sum(-1)
    total = q.codebooks.detach().double()[torch.arange(3), codes].sum(1)
    wide = v.double()
    want = wide[:, -1:] - 2 * wide[:, :-1] @ total[:, :-1].T + DISCOUNT * total[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    back = q.decode(codes.to(torch.uint8))
    assert back.shape == (30, 1, 9)
    torch.testing.assert_close(back[:, 0, :-1].double(), total[:, :-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_few_rows_are_their_own_codewords(n):
    v = vectors(n, 6)
    q = fit_additive(v, 3, seed=0)
    torch.testing.assert_close(q.decode(q.codes(v[:, None]))[:, 0], v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nbits", [4, 8])
def test_refinement_lowers_the_cost_and_repeats(nbits):
    v = vectors(1100, 9)
    start, *ends = (fit_additive(v, 2, nbits, seed=3, epochs=e) for e in (0, 4, 4))
    before, after = (
        costs(q, v, q.codes(v[:, None]).long()).diagonal().mean() for q in (start, ends[0])
    )
    assert after < before
    assert torch.equal(ends[0].codebooks, ends[1].codebooks)
    assert start.codebooks.shape == (2, 1 << nbits, 9)


def test_recall_is_above_that_of_pq():
    x, query, database = (clustered(n, n) for n in (2000, 200, 5000))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, query, database)]
    truth = np.argsort(-unit[1] @ unit[2].T, axis=1)[:, :10]
    index = HiHPQIndex(40, M=4, device="cpu")
    index.train(x, objective="fidelity", epochs=4)
    index.add(database)
    pq = faiss.IndexPQ(40, 4, 8)
    pq.train(unit[0])
    pq.add(unit[2])
    ours = recall_at(index.search(query, 10)[1], truth)
    assert ours > recall_at(pq.search(unit[1], 10)[1], truth) + 0.05


def test_scores_estimate_squared_distances(codec):
    x = clustered(300, 9)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    tables, codes = codec.tables(x), codec.encode(x)
    metric = sum(tables[:, m, codes[:, m]] for m in range(4))
    exact = 2 - 2 * unit @ unit.T
    assert np.corrcoef(metric.ravel(), exact.ravel())[0, 1] > 0.95
    assert abs(np.mean(metric) - np.mean(exact)) < 0.1 * np.mean(exact)


def test_codec_files_round_trip_bit_for_bit(codec):
    x = clustered(50, 2)
    files = to_files(codec)
    settings = json.loads(files[SETTINGS_FILE])
    assert settings["score"] == "inner"
    assert settings["D"] == codec.embed(x).shape[1] == codec.decode(codec.encode(x)).shape[1]
    again = from_files(files)
    assert to_files(again) == files
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))
    np.testing.assert_array_equal(again.tables(x), codec.tables(x))


@pytest.mark.parametrize(
    "changes", [{"score": "l1"}, {"D": 10**9}, {"D": 1}, {"M": 5}, {"nbits": 7}, {"nbits": 4}]
)
def test_edited_settings_are_refused(codec, changes):
    files = to_files(codec)
    settings = json.loads(files[SETTINGS_FILE]) | changes
    with pytest.raises(CorruptIndexError):
        from_files({**files, SETTINGS_FILE: json.dumps(settings).encode()})


@pytest.mark.parametrize("learned", [{"M": 2}, {"F": 4}])
def test_edited_facts_of_learning_are_refused(codec, learned):
    files = to_files(codec)
    settings = json.loads(files[SETTINGS_FILE])
    settings["learned"] |= learned
    with pytest.raises(CorruptIndexError, match="learned"):
        from_files({**files, SETTINGS_FILE: json.dumps(settings).encode()})


def test_damaged_stress_is_refused(codec):
    from safetensors.torch import load, save

    files = to_files(codec)
    for value in (-1.0, float("nan")):
        state = load(files[WEIGHTS_FILE]) | {"quantizer.stress": torch.tensor(value)}
        with pytest.raises(CorruptIndexError, match="stress"):
            from_files({**files, WEIGHTS_FILE: save(state)})


@pytest.mark.parametrize(("bits", "nbits"), [(8, 8), (64, 8), (12, 4)])
def test_with_bits_refits(codec, bits, nbits):
    x = clustered(60, 3)
    other = codec.with_bits(bits, nbits=nbits)
    assert (other.M, other.quantizer.metric) == (bits // nbits, "inner")
    np.testing.assert_array_equal(other.embed(x), codec.embed(x))
    assert other.encode(x).shape == (60, -(-bits // 8))
    again = other.with_bits(32)
    np.testing.assert_array_equal(again.encode(x), codec.with_bits(32).encode(x))
    assert from_files(to_files(other)).M == other.M
    elsewhere = codec.with_bits(bits, nbits=nbits, x=x)
    assert len(elsewhere.sample) == 60
    assert to_files(elsewhere) != to_files(other)


def test_index_on_disk(codec, tmp_path):
    x = clustered(1000, 4)
    index = HiHPQIndex(40, M=2, device="cpu")
    index.train(x, objective="fidelity", epochs=1)
    index.add(x)
    index.save(tmp_path / "i")
    again = HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert again.metric == "inner"
    for a, b in zip(again.search(x[:5], 7), index.search(x[:5], 7), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.with_bits(32).code_size == 4


def test_wrong_input_is_named(codec):
    for wrong in ({"nbits": 5}, {"M": 0}, {"D": 1}):
        with pytest.raises(InvalidInputError, match="is "):
            AdditiveQuantizer(**({"M": 2, "D": 3} | wrong))
    with pytest.raises(InvalidInputError, match="leave it out"):
        codec.with_bits(16, metric="l1")
    with pytest.raises(InvalidInputError, match="no rows"):
        codec.with_bits(16, x=np.zeros((0, 40), np.float32))
    plain = train_codec(clustered(20, 5), M=2, recipe=Recipe(epochs=0))
    with pytest.raises(InvalidInputError, match="leave it out"):
        plain.with_bits(16, metric="inner")
    with pytest.raises(InvalidInputError, match="objective='fidelity'"):
        train_codec(clustered(20, 5), M=2, metric="inner", recipe=Recipe(epochs=0))
    with pytest.raises(InvalidInputError, match="D is 1"):
        HiHPQCodec(8, 2, D=1, metric="inner")
