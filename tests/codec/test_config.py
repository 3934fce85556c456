"""Settings of codecs: what is refused, and where."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hyperpq.codec.config import AdditiveConfig, CodecConfig, PQConfig
from hyperpq.errors import InvalidInputError


@pytest.mark.parametrize(
    "bad",
    [
        {"d": 0},
        {"d": 1.5},
        {"D": 0},
        {"nbits": 5},
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


@pytest.mark.parametrize("bad", [{"d": 0}, {"D": 1}, {"nbits": 3}, {"normalization": "root"}])
def test_additive_settings(bad):
    with pytest.raises(InvalidInputError, match=f"{next(iter(bad))} is "):
        AdditiveConfig(**({"d": 8} | bad))


def test_settings_do_not_change():
    for config in (CodecConfig(8), AdditiveConfig(8), PQConfig(8, 2)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.d = 9
        assert config == dataclasses.replace(config)
    assert CodecConfig(8, beta=np.float32(2), max_norm=1).beta == 2.0
    assert PQConfig(12, 4).D == 3
