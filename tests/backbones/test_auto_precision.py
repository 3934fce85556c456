"""What ``precision="auto"`` chooses, without asking how fast this machine is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hyperpq.backbones import auto_precision, load_backbone
from hyperpq.backbones.auto_precision import VARIABLE, choose_precision, measure_gain
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError


class Timed:
    """A network that takes a number of seconds by a clock of its own."""

    preprocessing = Preprocessing(8)

    def __init__(self, seconds, now):
        self.seconds, self.now, self.calls = iter(seconds), now, []

    def __call__(self, pixels):
        self.calls.append(pixels)
        self.now[0] += next(self.seconds)


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """Replaces the measurement; the gains that it finds are taken from the list."""
    monkeypatch.setenv("HYPERPQ_CACHE", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    gains = []
    monkeypatch.setattr(auto_precision, "measure_gain", lambda usual, other: gains.pop())
    return gains


def choose(name="lite0", weights_hash="0" * 32):
    return choose_precision(name, weights_hash, lambda precision: precision)


@pytest.mark.parametrize("gain, expected", [(2.4, "int8"), (1.25, "int8"), (1.2, "float32")])
def test_the_faster_one_is_chosen_and_kept(trial, gain, expected):
    trial.append(gain)
    assert [choose(), choose()] == [expected] * 2
    assert trial == []
    # Other weights, another trial.
    trial.append(0.5 if expected == "int8" else 3.0)
    assert choose(weights_hash="1" * 32) != expected


def test_a_damaged_result_is_measured_again(trial, tmp_path):
    trial.append(0.5)
    assert choose() == "float32"
    (file,) = tmp_path.glob("speed-lite0-*")
    file.write_bytes(file.read_bytes()[:-1])
    trial.append(2.0)
    assert choose() == "int8"
    # Whole, but of another kind.
    auto_precision.write_cached(file.name.removesuffix(".xxh3"), b'{"gain": "fast"}')
    trial.append(0.5)
    assert choose() == "float32"


def test_other_processors_and_runtimes_have_results_of_their_own(trial, monkeypatch):
    trial += [0.5, 3.0]
    assert choose() == "int8"
    monkeypatch.setattr(auto_precision, "_processor", lambda: "another one")
    assert choose() == "float32"
    assert len(auto_precision._processor()) > 4


def test_a_network_that_was_not_measured_stays_in_float32(trial, monkeypatch):
    assert choose("lite9") == "float32"
    monkeypatch.setenv(VARIABLE, "int8")
    assert choose("lite9") == "int8"


def test_the_variable_takes_the_place_of_the_trial(trial, monkeypatch):
    for value in ("int8", "float32"):
        monkeypatch.setenv(VARIABLE, value)
        assert choose() == value
    monkeypatch.setenv(VARIABLE, "int4")
    with pytest.raises(InvalidInputError, match="HYPERPQ_PRECISION is 'int4'; expected float32 or"):
        choose()


def test_the_trial_takes_turns_and_medians():
    now = [0.0]
    # The first of each is not counted, and one outlier does not matter.
    usual, other = Timed([9, 2, 2, 50, 2, 2], now), Timed([90, 1, 1, 1, 40, 1], now)
    assert measure_gain(usual, other, clock=lambda: now[0]) == 2.0
    assert len(usual.calls) == len(other.calls) == 6
    shapes = {x.shape for x in itertools.chain(usual.calls, other.calls)}
    assert shapes == {(8, 8, 8, 3)}


def test_auto_is_for_embedded_networks_as_they_came(trial, monkeypatch):
    monkeypatch.setenv(VARIABLE, "int8")
    lite0 = load_backbone("lite0", device="cpu", precision="auto")
    assert lite0.identity()["dtype"] == lite0.precision == "int8"
    change = {"_bn1.bias": np.full(1280, 0.5, np.float32)}
    tuned = TunedWeights("lite0", lite0.base_hash, change)
    assert load_backbone("lite0", device="cpu", precision="auto", tuned=tuned).precision == (
        "float32"
    )
    with pytest.raises(BackboneError, match=r"precision is 'int8', but .* is fine-tuned"):
        load_backbone("lite0", device="cpu", precision="int8", tuned=tuned)


@pytest.mark.parametrize("name", ["timm:resnet18", "open_clip:ViT-B-32/openai", "onnx:a.onnx"])
def test_int8_is_for_embedded_networks(name):
    with pytest.raises(BackboneError, match=r"precision is 'int8'.*an embedded network"):
        load_backbone(name, device="cpu", precision="int8")
