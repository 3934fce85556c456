"""`HiHPQCodec`: normalization, the head, encode / decode / tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig, CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.serialization import to_files
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

SMALL = Recipe().replace(width=12, subspaces=4, epochs=2, warmup_epochs=1, levels=(20, 5))


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 24)) * 3
    return np.abs(centers[rng.integers(0, 20, 400)] + rng.normal(size=(400, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def codec(x):
    return train_codec(x, M=3, recipe=SMALL)


@pytest.mark.parametrize("normalization", ["none", "unit", "power"])
def test_normalization_formula(normalization, x):
    x = np.concatenate([x - x.mean(), np.zeros((1, 24), np.float32)])
    codec = HiHPQCodec(CodecConfig(24, normalization=normalization))
    codec.mean.copy_(torch.linspace(-1, 1, 24))
    wide = x.astype(np.float64)
    if normalization == "power":
        wide = np.sign(wide) * np.sqrt(np.abs(wide)) - np.linspace(-1, 1, 24)
    if normalization != "none":
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(codec.normalize(torch.from_numpy(x)), wide, rtol=1e-4, atol=1e-6)


def test_decode_is_the_nearest_codeword_in_embedding_space(codec, x):
    codes, embedded = codec.encode(x), codec.embed(x)
    assert codes.shape == (400, 3)
    assert codes.dtype == np.uint8
    decoded = codec.decode(codes)
    assert decoded.shape == embedded.shape == (400, 12)
    tables = codec.tables(x)
    np.testing.assert_array_equal(tables.argmin(-1), codes)
    error = np.square(decoded - embedded).sum(1).mean()
    assert error < 0.3 * np.square(embedded - embedded.mean(0)).sum(1).mean()


def codecs_of_each_kind(x):
    learned = train_codec(x, M=3, recipe=SMALL.replace(hidden=8, dropout=0.5))
    additive = train_codec(x, M=2, recipe=Recipe().replace(objective="fidelity", epochs=0))
    return [learned, additive, PQCodec.fit(x, 4, 4)]


def test_train_of_a_codec_is_a_switch_and_says_so(x):
    """A message said ``call train(x)``, which PyTorch took for the switch of its modes."""
    for codec in codecs_of_each_kind(x):
        before = codec.encode(x), codec.embed(x), codec.tables(x)
        for mode in (x, None, 1, "default"):
            with pytest.raises(InvalidInputError, match=r"call HiHPQIndex\.train\(x\) or PQCodec"):
                codec.train(mode)
        assert not codec.training
        # Codes have no dropout in them, whatever the mode is.
        assert codec.train() is codec
        assert codec.training
        for one, other in zip(
            before, (codec.encode(x), codec.embed(x), codec.tables(x)), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        assert not codec.eval().training


def test_training_mode_does_not_show_in_other_lengths(x):
    codec = codecs_of_each_kind(x)[0]
    want = to_files(codec.with_bits(16, x=x[:300]))
    assert to_files(codec.train().with_bits(16, x=x[:300])) == want


@pytest.mark.parametrize(
    "make", [lambda: HiHPQCodec(CodecConfig(24)), lambda: AdditiveCodec(AdditiveConfig(24))]
)
def test_a_new_codec_is_not_trained(make, x):
    codec = make()
    assert not codec.is_trained
    codes = np.zeros((2, codec.code_size), np.uint8)
    calls = [
        lambda: codec.encode(x),
        lambda: codec.tables(x),
        lambda: codec.embed(x),
        lambda: codec.decode(codes),
        lambda: codec.with_bits(16),
        lambda: to_files(codec),
    ]
    for call in calls:
        with pytest.raises(NotTrainedError, match=r"HiHPQIndex\.train\(x\)"):
            call()


def test_untrained_and_bad_input(codec, x):
    with pytest.raises(NotTrainedError, match="train"):
        HiHPQCodec(CodecConfig(24)).encode(x)
    for bad in (codec.encode(x).astype(np.int64), codec.encode(x)[0], codec.encode(x)[:, :2]):
        with pytest.raises(InvalidInputError, match="codes have dtype"):
            codec.decode(bad)
    with pytest.raises(InvalidInputError, match="width 23"):
        codec.encode(x[:, :23])
