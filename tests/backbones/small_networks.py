"""A network of two convolutions, and images for it."""

from __future__ import annotations

import numpy as np
import torch

from hyperpq.backbones import base
from hyperpq.backbones.torch_modules import TorchBackbone
from hyperpq.datasets.preprocessing import Preprocessing

SIDE = 16


class Net(torch.nn.Module):
    """A convolution and a product, and the type that the convolution computes in."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 12, 1)
        self.seen = set()

    def forward(self, x):
        x = self.conv(x)
        self.seen.add(x.dtype)
        return self.head(x.relu())


def network(device="cpu", **options):
    return TorchBackbone(
        "net",
        Net(),
        preprocessing=Preprocessing(SIDE),
        weights_hash="0" * 32,
        device=device,
        mean=base.IMAGENET_MEAN,
        std=base.IMAGENET_STD,
        **options,
    )


def images(n, side=SIDE):
    return np.random.default_rng(n).integers(0, 256, (n, side, side, 3), np.uint8)
