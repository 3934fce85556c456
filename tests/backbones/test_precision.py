"""Precision of a network, batches of a GPU, and batches that are begun before others are done."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from small_networks import images, network

from hyperpq.backbones import load_backbone
from hyperpq.backbones.combined import CombinedBackbone
from hyperpq.backbones.torch_modules import gpu_batch_size
from hyperpq.errors import BackboneError, InvalidInputError

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_network_computes_in_the_type_that_is_asked_for(half):
    exact, rounded = network(), network(precision=half, computes_in=half)
    x = images(9)
    want, found = exact(x), rounded(x)
    assert rounded.module.seen == {getattr(torch, half)}
    assert exact.module.seen == {torch.float32}
    assert found.dtype == np.float32
    assert 0 < np.abs(found - want).max() < 0.02 * np.abs(want).max()


def test_on_a_cpu_features_are_those_of_float32():
    recorded = network(precision="bfloat16")
    np.testing.assert_array_equal(recorded(images(5)), network()(images(5)))
    assert recorded.module.seen == {torch.float32}


def test_the_precision_is_part_of_the_identity():
    half = network(precision="bfloat16")
    identity = json.loads(json.dumps(half.identity()))
    assert identity["dtype"] == "bfloat16"
    half.check_matches(identity)
    with pytest.raises(BackboneError, match="feature type float32; expected bfloat16"):
        network().check_matches(identity)
    together = CombinedBackbone("all", [half, network(precision="bfloat16")])
    assert together.identity()["dtype"] == "bfloat16"
    assert together(images(2)).shape == (2, 24)


def test_the_embedded_network_keeps_its_precision_in_a_pickle():
    lite0 = load_backbone("lite0", device="cpu", precision="float16")
    again = pickle.loads(pickle.dumps(lite0))
    assert again.identity() == lite0.identity()
    assert again.precision == "float16"


def test_what_has_no_precision_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="precision"):
        load_backbone("lite0", device="cpu", precision="int4")
    for name in ("onnx:a.onnx", "torchscript:a.pt"):
        with pytest.raises(BackboneError, match="expected 'float32'"):
            load_backbone(name, device="cpu", precision="float16")


@pytest.mark.parametrize(
    "side, gib, expected",
    [(224, 80, 256), (224, 8, 64), (260, 80, 160), (518, 80, 32), (32, 80, 256), (2000, 8, 32)],
)
def test_batches_of_a_gpu(side, gib, expected):
    assert gpu_batch_size(side, gib << 30) == expected


def test_batches_may_be_begun_before_others_are_done():
    net = network()
    first, second = images(40), images(70)
    begun = [net.begin(first), net.begin(second)]
    changed = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(begun[1].features(), net(second))
    np.testing.assert_array_equal(begun[0].features(), net(changed))
    assert net.begin(images(0)).features().shape == (0, 12)
    with pytest.raises(InvalidInputError, match="pixels have shape"):
        net.begin(images(2, 8))


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("precision, error", [("float32", 1e-3), ("bfloat16", 0.05)])
def test_a_gpu_with_batches_in_flight(precision, error):
    net = network("cuda", precision=precision)
    assert (net.batches_in_flight, net.batch_size) == (1, net.batch_size)
    x = images(600)
    want = network()(x)
    found = net(x)
    assert np.abs(found - want).max() < error * np.abs(want).max()
    np.testing.assert_array_equal(found, net(x))
