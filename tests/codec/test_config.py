"""Settings of codecs: what is refused, and where."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from hyperpq.codec.config import AdditiveConfig, CodecConfig, PQConfig
from hyperpq.errors import InvalidInputError


@pytest.mark.parametrize(
    "bad",
    [
        {"d": 0},
        {"d": 1.5},
        {"M": 0},
        {"M": 2.0},
        {"M": "4"},
        {"M": 1025},
        {"D": 0},
        {"D": None},
        {"nbits": 5},
        {"nbits": 8.0},
        {"nbits": "8"},
        {"metric": "inner"},
        {"metric": None},
        {"beta": 0},
        {"beta": "high"},
        {"max_norm": -1.0},
        {"max_norm": float("inf")},
        {"normalization": "root"},
        {"head": "mlp"},
        {"hidden": -1},
        {"hidden": 2.0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"smoothing_weight": 1.1},
        {"smoothing_weight": float("nan")},
        {"smoothing_neighbours": -1},
        {"temperature": 0},
        {"distil_epochs": True},
        {"geometry": "hyperbolic"},
    ],
    ids=str,
)
def test_what_is_refused_is_named(bad):
    (name,) = bad
    with pytest.raises(InvalidInputError, match=rf"\b{name} is .*; .*\.$"):
        CodecConfig(**({"d": 8} | bad))


def test_orthogonal_head_is_refused_when_too_wide():
    with pytest.raises(InvalidInputError, match="orthogonal"):
        CodecConfig(8, 4, D=16, head="orthogonal")
    assert CodecConfig(64, 4, D=16, head="orthogonal").width == 64


@pytest.mark.parametrize(
    "bad",
    [{"d": 0}, {"D": 1}, {"D": 2.5}, {"M": True}, {"nbits": 3}, {"normalization": "root"}],
    ids=str,
)
def test_additive_settings(bad):
    with pytest.raises(InvalidInputError, match=f"{next(iter(bad))} is "):
        AdditiveConfig(**({"d": 8} | bad))


@pytest.mark.parametrize(
    "bad",
    [{"d": 0}, {"d": "8"}, {"M": 0}, {"M": 2.0}, {"M": None}, {"nbits": 8.0}, {"metric": "l1"}],
    ids=str,
)
def test_settings_of_plain_codebooks(bad):
    with pytest.raises(InvalidInputError, match=rf"^{next(iter(bad))} is .*; expected .*\.$"):
        PQConfig(**({"d": 8, "M": 2} | bad))


@pytest.mark.parametrize(
    "config",
    [
        CodecConfig(np.int64(8), M=np.uint8(2), D=np.int32(4), dropout=np.float32(0.25)),
        AdditiveConfig(np.int64(8), nbits=np.int16(4)),
        PQConfig(np.int64(8), np.int64(2), rotation=np.int64(4)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_numbers_of_numpy_can_be_stored(config):
    plain = dataclasses.asdict(config)
    assert json.loads(json.dumps(plain)) == plain
    assert config == type(config)(**plain)


def test_settings_do_not_change():
    for config in (CodecConfig(8), AdditiveConfig(8), PQConfig(8, 2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.d = 9
        assert config == dataclasses.replace(config)
    assert CodecConfig(8, beta=np.float32(2), max_norm=1).beta == 2.0
    assert PQConfig(12, 4).D == 3
