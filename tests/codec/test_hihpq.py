"""Codec: conditioning, encode / decode / tables, files in and out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.errors import CorruptIndexError, FormatVersionError, InvalidInputError, NotTrainedError
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


@pytest.mark.parametrize("conditioning", ["none", "unit", "root"])
def test_conditioning_formula(conditioning, x):
    x = np.concatenate([x - x.mean(), np.zeros((1, 24), np.float32)])
    codec = HiHPQCodec(24, conditioning=conditioning)
    codec.mean.copy_(torch.linspace(-1, 1, 24))
    wide = x.astype(np.float64)
    if conditioning == "root":
        wide = np.sign(wide) * np.sqrt(np.abs(wide)) - np.linspace(-1, 1, 24)
    if conditioning != "none":
        wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(codec.condition(torch.from_numpy(x)), wide, rtol=1e-4, atol=1e-6)


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


def test_files_round_trip_bit_for_bit(codec, x):
    files = to_files(codec)
    again = from_files(files)
    assert to_files(again) == files
    np.testing.assert_array_equal(again.tables(x[:9]), codec.tables(x[:9]))
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))


def test_untrained_and_bad_input(codec, x):
    with pytest.raises(NotTrainedError, match="train"):
        HiHPQCodec(24).encode(x)
    for bad in (codec.encode(x).astype(np.int64), codec.encode(x)[0], codec.encode(x)[:, :2]):
        with pytest.raises(InvalidInputError, match="codes have dtype"):
            codec.decode(bad)
    with pytest.raises(InvalidInputError, match="width 23"):
        codec.encode(x[:, :23])


def edited(files, **changes):
    settings = json.loads(files[SETTINGS_FILE])
    settings.update(changes)
    return {**files, SETTINGS_FILE: json.dumps(settings).encode()}


@pytest.mark.parametrize(
    "changes",
    [
        {"M": 4},
        {"d": 10**12},
        {"D": 10**9},
        {"d": -1},
        {"nbits": 7},
        {"score": "x"},
        {"format": "zip"},
        {"beta": "high"},
        {"head": None},
        {"recipe": 3},
        {"d": 24.5},
    ],
)
def test_edited_settings_are_refused_before_memory_is_asked_for(codec, changes):
    with pytest.raises(CorruptIndexError):
        from_files(edited(to_files(codec), **changes))


def test_another_version_is_named(codec):
    with pytest.raises(FormatVersionError, match="has version 99, this hyperpq reads version 3"):
        from_files(edited(to_files(codec), version=99))


@pytest.mark.parametrize(
    "changes",
    [{"M": 0}, {"F": 10**9}, {"F": 7}, {"max_norm": -1}, {"sample": -1}, {"sample": 10**12}],
)
def test_edited_facts_of_learning_are_refused(codec, changes):
    files = to_files(codec)
    learned = json.loads(files[SETTINGS_FILE])["learned"] | changes
    with pytest.raises(CorruptIndexError):
        from_files(edited(files, learned=learned))


def test_damaged_weights_are_refused(codec):
    from safetensors.torch import load, save

    files = to_files(codec)
    for damage in (b"", b"junk" * 10, files[WEIGHTS_FILE][:-5], files[WEIGHTS_FILE] + b"x"):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: damage})
    state = load(files[WEIGHTS_FILE])
    for name, value in (
        ("weight", state["weight"] * float("nan")),
        ("weight", state["weight"].double()),
        ("weight", state["weight"][:-1]),
        ("quantizer.log_c", state["quantizer.log_c"] + 50),
        ("extra", torch.zeros(1)),
    ):
        with pytest.raises(CorruptIndexError):
            from_files({**files, WEIGHTS_FILE: save({**state, name: value.contiguous()})})
    for missing in files:
        with pytest.raises(CorruptIndexError):
            from_files({k: v for k, v in files.items() if k != missing})


def test_orthogonal_head_is_refused_when_too_wide():
    with pytest.raises(InvalidInputError, match="orthogonal"):
        HiHPQCodec(8, 4, D=16, head="orthogonal")
