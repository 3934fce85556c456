"""`Int8Module`: the integer network of `lite_int8` as a PyTorch module, for GPUs.

It computes with whole numbers in float32. No sum can reach 2**24, below which float32 holds every
whole number; so the order of the additions does not matter, and features are those of ONNX Runtime
to the last bit.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from hyperpq.backbones.lite_int8 import LINEAR_ZERO, PIXEL_ZERO, Int8Convolution, Int8Network
from hyperpq.backbones.lite_network import INPUT_MEAN, INPUT_STD


class Int8Module(torch.nn.Module):
    """Takes normalized images (n, 3, S, S) float32, and gives features (n, d) float32."""

    def __init__(self, network: Int8Network) -> None:
        super().__init__()
        self._network = network
        for i, layer in enumerate(self._layers()):
            self.register_buffer(f"weight{i}", torch.from_numpy(layer.weight).float())
            self.register_buffer(f"bias{i}", torch.from_numpy(layer.bias).float())
            scale = torch.from_numpy(layer.scale)[:, None, None]
            self.register_buffer(f"scale{i}", scale)
        self.register_buffer("feature_step", torch.from_numpy(network.feature_step))

    def _layers(self) -> list[Int8Convolution]:
        return [layer for block in self._network.blocks for layer in block.layers]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        # The bytes again, minus the one that stands for the centre.
        x = torch.round(images * (255 * INPUT_STD) + 255 * INPUT_MEAN) - PIXEL_ZERO
        number = 0
        for block in self._network.blocks:
            start = x
            for layer in block.layers:
                x = self._convolve(number, layer, x)
                number += 1
            if block.residual:
                x = (x + start).clamp(-LINEAR_ZERO, 255 - LINEAR_ZERO)
        return x.sum(dim=(2, 3)) * self.get_buffer("feature_step")

    def _convolve(self, number: int, layer: Int8Convolution, x: torch.Tensor) -> torch.Tensor:
        top, left, bottom, right = layer.padding
        total = functional.conv2d(
            functional.pad(x, (left, right, top, bottom)),
            self.get_buffer(f"weight{number}"),
            self.get_buffer(f"bias{number}"),
            stride=layer.stride,
            groups=layer.groups,
        )
        # As ONNX Runtime does: scaled, clipped, and rounded half to even.
        scaled = total * self.get_buffer(f"scale{number}")
        return scaled.clamp(-layer.zero_out, 255 - layer.zero_out).round()
