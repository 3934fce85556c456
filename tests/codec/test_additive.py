"""The codec with an additive quantizer: recall, files, other lengths and wrong input."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


def clustered(n: int, seed: int, d: int = 40) -> np.ndarray:
    centers = np.random.default_rng(0).normal(size=(30, d)) / np.sqrt(1 + np.arange(d))
    rng = np.random.default_rng(seed)
    x = centers[rng.integers(0, 30, n)] + rng.normal(size=(n, d)) * 0.7 / np.sqrt(1 + np.arange(d))
    return (x + 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    return train_codec(
        clustered(1200, 1), M=4, recipe=Recipe().replace(objective="fidelity", epochs=2)
    )


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


def test_fewer_rows_than_coordinates_are_enough_for_short_codebooks():
    """16 codewords are learned from 20 rows of 41 coordinates."""
    recipe = Recipe().replace(objective="fidelity", epochs=1)
    codec = train_codec(clustered(20, 3), M=2, nbits=4, recipe=recipe)
    assert codec.encode(clustered(20, 3)).shape == (20, 1)
    assert len(np.unique(codec.encode(clustered(20, 3)))) > 8


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
    assert isinstance(again, AdditiveCodec)
    assert to_files(again) == files
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))
    np.testing.assert_array_equal(again.tables(x), codec.tables(x))


@pytest.mark.parametrize(
    "changes",
    [
        *({"score": "l1"}, {"D": 10**9}, {"D": 1}, {"M": 5}, {"nbits": 7}, {"nbits": 4}),
        *({"hidden": 8}, {"average_weight": 0.5}, {"head": "orthogonal"}),
        {"conditioning": "power"},
    ],
)
def test_edited_settings_are_refused(codec, changes):
    files = to_files(codec)
    settings = json.loads(files[SETTINGS_FILE]) | changes
    with pytest.raises(CorruptIndexError):
        from_files({**files, SETTINGS_FILE: json.dumps(settings).encode()})


@pytest.mark.parametrize(
    "learned", [{"M": 2}, {"F": 4}, {"max_norm": -1}, {"max_norm": float("inf")}]
)
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


@pytest.mark.parametrize(
    ("bits", "nbits"), [(8, 8), pytest.param(64, 8, marks=pytest.mark.slow), (12, 4)]
)
def test_with_bits_refits(codec, bits, nbits):
    x = clustered(60, 3)
    other = codec.with_bits(bits, nbits=nbits)
    assert (other.M, other.quantizer.metric) == (bits // nbits, "cosine")
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
    assert again.metric == "cosine"
    for a, b in zip(again.search(x[:5], 7), index.search(x[:5], 7), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.with_bits(32).code_size == 4


def test_wrong_input_is_named(codec):
    with pytest.raises(InvalidInputError, match="leave it out"):
        codec.with_bits(16, metric="l1")
    with pytest.raises(InvalidInputError, match="metric is 'l2'; expected 'cosine', for whose"):
        codec.with_bits(16, metric="l2")
    with pytest.raises(InvalidInputError, match="no rows"):
        codec.with_bits(16, x=np.zeros((0, 40), np.float32))
    plain = train_codec(clustered(20, 5), M=2, recipe=Recipe().replace(epochs=0))
    with pytest.raises(InvalidInputError, match="leave it out"):
        plain.with_bits(16, metric="cosine")
    for metric in ("inner", "cosine", "l2"):
        with pytest.raises(InvalidInputError, match=f"'{metric}' with the objective 'semantic'"):
            train_codec(clustered(20, 5), M=2, metric=metric, recipe=Recipe().replace(epochs=0))
    with pytest.raises(InvalidInputError, match="D is 1"):
        AdditiveConfig(8, 2, D=1)
