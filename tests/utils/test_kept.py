"""What is kept until tensors change, and the rounded heads of codecs that are kept with it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hyperpq import PQCodec
from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig, CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.utils.kept import Kept


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.arange(4.0))
        self.kept = Kept()
        self.made = 0

    def get(self):
        def make():
            self.made += 1
            return self.value.detach().clone()

        return self.kept.get((self.value,), make)


def optimizer_step(holder):
    holder.value.sum().backward()
    torch.optim.AdamW([holder.value], lr=0.1, fused=True).step()


def in_place(holder):
    with torch.no_grad():
        holder.value[2] = 7


def load(holder):
    holder.load_state_dict({"value": torch.ones(4)})


def replace(holder):
    holder.value = nn.Parameter(torch.ones(4))


def through_data(holder):
    holder.value.data[1] = 9


def through_numpy(holder):
    holder.value.detach().numpy()[1] = 9


def convert(holder):
    holder.double()


# PyTorch does not count the first and the last two as changes of a tensor.
CHANGES = [optimizer_step, in_place, load, replace, convert, through_data, through_numpy]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed(change):
    holder = Holder()
    for _ in range(3):
        torch.testing.assert_close(holder.get(), holder.value.detach())
    assert holder.made == 1
    change(holder)
    for _ in range(3):
        assert torch.equal(holder.get(), holder.value)
    assert holder.made == 2


def test_copies_keep_nothing_and_inference_tensors_are_compared():
    holder = Holder()
    holder.get()
    other = copy.deepcopy(holder)
    assert torch.equal(other.get(), other.value)
    assert (holder.made, other.made) == (1, 2)
    assert pickle.loads(pickle.dumps(holder.kept)).get((holder.value,), lambda: 5) == 5
    with torch.inference_mode():
        holder.value = nn.Parameter(torch.ones(4))
        holder.get()
        holder.value[1] = 3
        assert torch.equal(holder.get(), holder.value)


QUANTIZER = ["quantizer.codebooks", "quantizer.log_c"]


def filled(codec):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in codec.parameters():
            value.copy_(torch.randn(value.shape, generator=generator))
    codec.is_trained = True
    return codec.eval()


def hihpq():
    codec = filled(
        HiHPQCodec(CodecConfig(24, 2, 4, 6, hidden=5, smoothing_weight=0.3, smoothing_neighbours=2))
    )
    codec.sample = nn.Buffer(torch.zeros(0, 12, dtype=torch.float16))
    codec.set_centroids(torch.randn(200, 12, generator=torch.Generator().manual_seed(1)))
    return codec


def rotated():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    return PQCodec.from_codebooks(rng.normal(size=(4, 16, 6)), rotation=rotation)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (
            hihpq,
            [
                "weight",
                "scale",
                "bias",
                "up",
                "up_bias",
                "down",
                "centroids",
                *QUANTIZER,
            ],
        ),
        (lambda: filled(AdditiveCodec(AdditiveConfig(24, 2, 4, 6))), ["weight", "scale", "bias"]),
        (rotated, ["rotation", "quantizer.codebooks"]),
    ],
)
def test_codes_and_tables_follow_changed_weights(make, names):
    codec = make()
    x = np.random.default_rng(3).normal(size=(200, 24)).astype(np.float32)
    for name in names:
        before = codec.tables(x)
        value = dict([*codec.named_parameters(), *codec.named_buffers()])[name]
        # No multiple, which a direction or an orthonormal row would not show.
        change = torch.linspace(0.5, 2, value.numel()).view(value.shape)
        with torch.no_grad():
            value.mul_(change if value.ndim else 1.5)
        after = codec.tables(x)
        assert not np.array_equal(after, before)
        # A copy has nothing kept.
        fresh = copy.deepcopy(codec)
        assert fresh.tables(x).tobytes() == after.tobytes()
        assert fresh.encode(x).tobytes() == codec.encode(x).tobytes()
        assert fresh.embed(x).tobytes() == codec.embed(x).tobytes()


@pytest.mark.parametrize("make", [hihpq, rotated])
def test_a_codec_made_in_inference_mode(make):
    x = np.random.default_rng(3).normal(size=(20, 24)).astype(np.float32)
    want = make().tables(x)
    with torch.inference_mode():
        codec = make()
        np.testing.assert_array_equal(codec.tables(x), want)
    np.testing.assert_array_equal(codec.tables(x), want)
    np.testing.assert_array_equal(codec.encode(x), make().encode(x))
