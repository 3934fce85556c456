"""A small network that can be fine-tuned in a moment, in the place of ``lite0``."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from hyperpq.backbones import registry
from hyperpq.backbones.base import Backbone
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.training import FinetuneSettings

SIDE, WIDTH = 32, 24
SETTINGS = FinetuneSettings(
    rounds=2, epochs=1, batch=8, resolution=SIDE, neighbours=4, width=8, holdout_check=False
)


def module() -> nn.Module:
    """The same weights in each call: two convolutions with batch normalization."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, WIDTH, 3, stride=2),
    )
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layers.eval()


class TinyNetwork(Backbone):
    """Features of `module`, tuned if there are changes."""

    def __init__(self, tuned):
        prep = Preprocessing(SIDE, "squash", 1.0, "bicubic")
        mean = (0.5, 0.5, 0.5)
        super().__init__("lite0", WIDTH, prep, "1" * 32, "cpu", mean=mean, std=mean)
        self.open_network = module
        self._module = module()
        if tuned is not None:
            self._module.load_state_dict(tuned.apply(self._module.state_dict()))
        self.take_tuned(tuned)

    def _features(self, pixels):
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            return self._module((x / 255 - 0.5) / 0.5).mean((2, 3)).numpy()


def load(name="lite0", *, device="auto", threads=None, tuned=None, precision="float32"):
    network = TinyNetwork(tuned)
    network.precision = "float32" if precision == "auto" else precision
    network.reload = partial(load, name, tuned=tuned, precision=precision)
    return network


def install(monkeypatch=None):
    """Load this network wherever a network is loaded by its name."""
    import hyperpq.backbones
    import hyperpq.images.build.finetune_stage
    import hyperpq.images.build.pipeline

    for place in (
        hyperpq.backbones,
        registry,
        hyperpq.images.build.finetune_stage,
        hyperpq.images.build.pipeline,
    ):
        if monkeypatch is None:
            place.load_backbone = load
        else:
            monkeypatch.setattr(place, "load_backbone", load)
