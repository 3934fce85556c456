"""A network on several devices, which here are the CPU twice."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from small_networks import images, network

from hyperpq.backbones import load_backbone
from hyperpq.backbones.spread import SpreadBackbone
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.utils import devices


def spread(n=2, **options):
    return SpreadBackbone([network(**options) for _ in range(n)])


def test_features_are_those_of_one_device_in_order():
    x = images(150)
    both = spread(3)
    np.testing.assert_array_equal(both(x), network()(x))
    assert both.identity() == network().identity()
    assert both.devices == ("cpu", "cpu", "cpu")
    assert both.batches_in_flight == 2


def test_devices_take_turns_each_in_its_thread():
    seen = []

    class Noted(type(network())):
        def _begin(self, pixels):
            seen.append((self.number, threading.current_thread().name))
            return super()._begin(pixels)

    parts = []
    for number in range(2):
        part = network()
        part.__class__, part.number = Noted, number
        parts.append(part)
    SpreadBackbone(parts)(images(128))
    assert sorted(number for number, _ in seen) == [0, 0, 1, 1]
    assert all(name.startswith("device") for _, name in seen)


def test_pixels_may_change_at_once():
    both, x = spread(), images(64)
    want = network()(x)
    begun = both.begin(x)
    x[:] = 0
    np.testing.assert_array_equal(begun.features(), want)


def test_an_error_of_a_device_is_that_of_the_call():
    both = spread()

    def fail(pixels):
        raise BackboneError("out of memory")

    both._parts[1]._begin = fail
    with pytest.raises(BackboneError, match="out of memory"):
        both(images(96))


def test_a_list_of_devices_loads_the_network_on_each():
    both = load_backbone("lite0", device="cpu,cpu", threads=1)
    one = load_backbone("lite0", device="cpu", threads=1)
    x = images(40, 224)
    np.testing.assert_array_equal(both(x), one(x))
    again = pickle.loads(pickle.dumps(both))
    assert again.devices == ("cpu", "cpu")
    one.check_matches(both.identity())


def test_what_a_list_of_devices_may_be(monkeypatch):
    assert devices.resolve_devices("cpu,auto") == ("cpu", devices.resolve_device("auto"))
    assert devices.first_device("cpu,cpu") == "cpu"
    assert devices.first_device("auto") == "auto"
    with pytest.raises(InvalidInputError, match="device is 'tpu'"):
        devices.resolve_devices("cpu,tpu")

    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert devices.resolve_devices("cuda:all") == ("cuda:0", "cuda:1", "cuda:2")
    assert devices.first_device("cuda:2,cuda:1") == "cuda:2"
