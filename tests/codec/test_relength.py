"""Codes of other lengths for a representation that was learned: `HiHPQCodec.with_bits`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq import scan
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import from_files, to_files
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.evaluation import recall_at
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 24)) * 1.5
    return (centres[rng.integers(0, 30, 700)] + rng.normal(size=(700, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def codec(x):
    recipe = Recipe().replace(width=24, hidden=16, epochs=2, batch=64, holdout_check=False)
    return train_codec(x, M=4, recipe=recipe)


def test_any_relative_gives_the_same_codec(codec):
    for bits, nbits in ((8, 8), (16, 8), (24, 8), (40, 8), (256, 8), (4, 4), (12, 4), (64, 4)):
        direct = codec.with_bits(bits, nbits=nbits)
        assert direct.code_size == -(-bits // 8)
        for detour in (8, 56, 264):
            again = codec.with_bits(detour).with_bits(bits, nbits=nbits)
            assert to_files(again) == to_files(direct)
        loaded = from_files(to_files(direct))
        assert to_files(loaded.with_bits(16)) == to_files(codec.with_bits(16))


def test_training_at_a_length_is_fitting_at_that_length(x, codec):
    recipe = Recipe().replace(width=24, hidden=16, epochs=2, batch=64, holdout_check=False)
    assert to_files(train_codec(x, M=2, recipe=recipe)) == to_files(codec.with_bits(16))


def test_representation_stays_the_same(x, codec):
    np.testing.assert_allclose(codec.with_bits(16).embed(x), codec.embed(x), atol=1e-5)
    odd = codec.with_bits(40).embed(x)
    np.testing.assert_allclose(odd[:, (odd != 0).any(0)], codec.embed(x), atol=1e-5)


def recall_of(codec, x, truth):
    """Recall@10 of the first rows, as many as ``truth`` (nq, 10) has."""
    return recall_at(scan.search(codec.tables(x[: len(truth)]), codec.encode(x), 10)[1], truth)


def test_more_bits_find_more_of_the_exact_neighbours(x, codec):
    v = codec.embed(x)
    truth = np.argsort(np.square(v[:60, None] - v[None]).sum(2), 1)[:, :10]
    recall = [recall_of(codec.with_bits(b, metric="geodesic"), x, truth) for b in (8, 32, 64)]
    assert recall[0] < recall[1] < recall[2]


def test_features_of_ones_own_and_another_metric(x, codec):
    other = codec.with_bits(16, x=x[:300], metric="chord", seed=3)
    assert other.quantizer.metric == "chord"
    assert to_files(other) != to_files(codec.with_bits(16, metric="chord", seed=3))
    with torch.no_grad():
        wide = codec.tangent(torch.from_numpy(x[:300])).flatten(1)
        same = other.tangent(torch.from_numpy(x[:300])).flatten(1)
    torch.testing.assert_close(same, wide)
    torch.testing.assert_close(other.sample.float(), wide, atol=1e-3, rtol=1e-3)
    assert len(other.centroids) == 150


def test_features_of_elsewhere_get_codes_of_their_own(x, codec):
    elsewhere = x[:, ::-1] * 0.5 + 2
    truth = np.argsort(np.square(x[:60, None] - x[None]).sum(2), 1)[:, :10]
    other = codec.with_bits(32, x=elsewhere)
    as_it_is = recall_of(codec.with_bits(32), elsewhere, truth)
    assert recall_of(other, elsewhere, truth) > as_it_is + 0.1
    # Vectors are smoothed with those of there, and not any more with those of the training.
    with torch.no_grad():
        there = codec.tangent(torch.from_numpy(elsewhere)).flatten(1)
    own, learned = (
        torch.cdist(one.centroids.float(), there).min(1).values.max() for one in (other, codec)
    )
    assert own < 1 < learned


@pytest.mark.parametrize("bits, nbits", [(0, 8), (12, 8), (-8, 8), (8.0, 8), (8, 5), (6, 4)])
def test_impossible_lengths(codec, bits, nbits):
    with pytest.raises(InvalidInputError, match="bits is"):
        codec.with_bits(bits, nbits=nbits)


def test_bad_calls(codec, x):
    with pytest.raises(NotTrainedError):
        HiHPQCodec(CodecConfig(24)).with_bits(16)
    with pytest.raises(InvalidInputError, match="no rows"):
        codec.with_bits(16, x=x[:0])
    with pytest.raises(InvalidInputError, match="metric is"):
        codec.with_bits(16, metric="l2")
