"""The benchmark of encoding, on a few small images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import encode
from hyperpq.backbones.base import Backbone
from hyperpq.backbones.torch_modules import TorchBackbone
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import InvalidInputError
from hyperpq.utils.worker_process import processes_possible


class Means(Backbone):
    def __init__(self, precision):
        super().__init__("means", 3, Preprocessing(16), "0" * 32, "cpu", mean=None, std=None)
        self.precision, self.seen = precision, []

    def _features(self, pixels):
        self.seen.append(len(pixels))
        return pixels.mean((1, 2), dtype=np.float64).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / f"{i}.jpg")
    return tmp_path


def test_methods_take_turns():
    calls = []
    methods = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    rates = encode.measure(methods, 10, 3)
    assert calls == ["a", "b"] * 3
    assert all(low <= middle <= high for middle, low, high in rates.values())


def test_a_device_makes_no_views_of_files(folder, monkeypatch, capsys):
    """They would be those of threads under its name."""
    pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    monkeypatch.setattr(encode, "load_backbone", lambda *_, precision, **__: Means(precision))
    encode.main(["--images", str(folder), "--rounds", "1", "--workers", "device:1", "threads:1"])
    text = capsys.readouterr().out
    assert "decoding alone, device:1" in text
    assert "pipeline, float32, device:1" in text
    assert "views, threads:1" in text
    assert "views, device:1" not in text


@pytest.mark.skipif(not processes_possible(), reason="no decoding processes here")
def test_every_part_is_measured(folder, monkeypatch, capsys):
    monkeypatch.setattr(encode, "load_backbone", lambda *_, precision, **__: Means(precision))
    encode.main(
        [
            *("--images", str(folder), "--rounds", "1", "--precision", "float32", "bfloat16"),
            *("--batch", "2", "32", "--workers", "threads:1", "processes:1"),
        ]
    )
    text = capsys.readouterr().out
    for part in (
        "network alone, bfloat16, batches of 2",
        "decoding alone, threads:1",
        "decoding and 4 views, processes:1",
        "pipeline, float32, processes:1",
        "pipeline, bfloat16, threads:1 / network alone, bfloat16, batches of 32: ",
        "pipeline, bfloat16, processes:1 / both together: ",
        "network alone, bfloat16, batches of 2 / float32: ",
        "pipeline, bfloat16, threads:1 / float32: ",
    ):
        assert part in text


@pytest.mark.skipif(not processes_possible(), reason="no decoding processes here")
def test_threads_of_the_network_take_turns(folder, monkeypatch, capsys):
    asked = []

    def load(*_, precision, threads, **__):
        asked.append((precision, threads))
        return Means(precision)

    monkeypatch.setattr(encode, "load_backbone", load)
    options = ["--rounds", "1", "--precision", "float32", "int8", "--threads", "1", "2"]
    encode.main(["--images", str(folder), *options, "--workers", "threads:1"])
    text = capsys.readouterr().out
    assert asked == [("float32", 1), ("int8", 1), ("float32", 2), ("int8", 2)]
    assert "network alone, int8, 2 threads, batches of 32 / float32: " in text


def test_a_compiled_network_gives_the_same_features(folder, monkeypatch, capsys):
    loaded = []

    def load(*_, precision, **__):
        loaded.append(
            TorchBackbone(
                "mean",
                torch.nn.AdaptiveAvgPool2d(1),
                preprocessing=Preprocessing(16),
                weights_hash="0" * 32,
                device="cpu",
                mean=[0.5] * 3,
                std=[0.5] * 3,
            )
        )
        return loaded[-1]

    monkeypatch.setattr(encode, "load_backbone", load)
    options = ["--rounds", "1", "--workers", "threads:1", "--compile", "default"]
    encode.main(["--images", str(folder), *options])
    assert "pipeline, float32, compiled (default), threads:1" in capsys.readouterr().out
    usual, compiled = loaded
    assert compiled.module._compiled_call_impl is not None
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(compiled(pixels), usual(pixels), atol=1e-6)


def test_only_networks_of_pytorch_are_compiled():
    with pytest.raises(InvalidInputError, match="compile is given, but Means"):
        encode._compile(Means("float32"), "default")


def test_what_network_and_decoding_allow_together():
    """An image takes 1 / 100 s of all cores in the network and 1 / 25 s in decoding."""
    assert encode.allowed(100, 25, "cpu") == pytest.approx(20)
    assert encode.allowed(100, 25, "cuda:0") == 25


def test_batches_of_another_size_leave_the_network_as_it_was():
    network = Means("float32")
    encode._network(network, 7, 20)()
    assert network.seen == [7, 7, 7]
    assert network.batch_size == 32
