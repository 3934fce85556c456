"""The layers of EfficientNet-Lite, from its weights, and `build_onnx`, which writes them as a file.

The family is described in https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite:
EfficientNet without squeeze-and-excitation, with ReLU6, and with stem and head of one width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.onnx_writer import GraphWriter

# The input of these networks is (x / 255 - 0.498) / 0.502. With the usual mean and deviation of
# ImageNet, the top-1 accuracy on 200 ImageNet samples falls from 0.90 to 0.81.
INPUT_MEAN, INPUT_STD = 0.498, 0.502

_STEM_WIDTH, _HEAD_WIDTH = 32, 1280
# Of the seven stages: side of the kernels, stride of the first block, and by how much it widens.
_KERNELS = (3, 3, 5, 3, 5, 5, 3)
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
# Added to the variance in batch normalization.
_EPSILON = 1e-3


@dataclass(frozen=True)
class LiteShape:
    """What differs between the networks of the family.

    Attributes
    ----------
    size : int
        Side of the input, in pixels.
    widths : tuple of int
        Channels of the output of each of the seven stages.
    repeats : tuple of int
        Blocks of each stage.
    """

    size: int
    widths: tuple[int, ...]
    repeats: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution that its batch normalization is folded into.

    Attributes
    ----------
    weight : ndarray, shape (out, in / groups, k, k), float64
    bias : ndarray, shape (out,), float64
    mean, deviation : ndarray, shape (out,), float64
        Of the output before it is clipped, as the batch normalization was trained to give it.
    stride : int
    padding : tuple of int
        Zeros that are added above, left, below and right.
    groups : int
        1, or as many as there are channels.
    relu6 : bool
        Whether the output is clipped to [0, 6].
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    stride: int
    padding: tuple[int, int, int, int]
    groups: int
    relu6: bool


@dataclass(frozen=True, eq=False)
class Block:
    """Convolutions in a row; ``residual`` says whether their input is added to their output."""

    layers: tuple[Convolution, ...]
    residual: bool


def fold_network(shape: LiteShape, state: Mapping[str, NDArray[Any]]) -> list[Block]:
    """All convolutions of a network, from its input to its last feature map.

    Parameters
    ----------
    shape : LiteShape
        Of the network.
    state : mapping of str to ndarray
        Its tensors, by the names that the package ``efficientnet_lite_pytorch`` gives them.

    Returns
    -------
    list of Block
        The stem, the blocks and the head.

    Raises
    ------
    ValueError
        If a tensor is absent or has another shape.
    """
    fold = _Folding(shape.size, state)
    stem = fold.layer("_conv_stem", "_bn0", 3, _STEM_WIDTH, kernel=3, stride=2)
    blocks, width = [Block((stem,), residual=False)], _STEM_WIDTH
    stages = zip(shape.repeats, shape.widths, _KERNELS, _STRIDES, _EXPANSIONS, strict=True)
    number = 0
    for repeats, out, kernel, first_stride, expansion in stages:
        for repeat in range(repeats):
            at, stride, wide = (
                f"_blocks.{number}.",
                1 if repeat else first_stride,
                width * expansion,
            )
            layers = []
            if expansion != 1:
                layers.append(fold.layer(f"{at}_expand_conv", f"{at}_bn0", width, wide))
            layers.append(
                fold.layer(
                    f"{at}_depthwise_conv",
                    f"{at}_bn1",
                    wide,
                    wide,
                    kernel=kernel,
                    stride=stride,
                    depthwise=True,
                )
            )
            layers.append(fold.layer(f"{at}_project_conv", f"{at}_bn2", wide, out, relu6=False))
            blocks.append(Block(tuple(layers), residual=stride == 1 and width == out))
            width, number = out, number + 1
    blocks.append(Block((fold.layer("_conv_head", "_bn1", width, _HEAD_WIDTH),), residual=False))
    return blocks


class _Folding:
    """Makes the layers in their order, and keeps count of the side of the feature map."""

    def __init__(self, size: int, state: Mapping[str, NDArray[Any]]) -> None:
        self._size, self._state = size, state

    def layer(
        self,
        name: str,
        norm: str,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        relu6: bool = True,
    ) -> Convolution:
        """A convolution and the batch normalization after it, in float64."""
        groups = inputs if depthwise else 1
        weight = self._tensor(f"{name}.weight", (outputs, inputs // groups, kernel, kernel))
        gain, variance, bias, mean = (
            self._tensor(f"{norm}.{kind}", (outputs,))
            for kind in ("weight", "running_var", "bias", "running_mean")
        )
        deviation, gain = np.abs(gain), gain / np.sqrt(variance + _EPSILON)
        # "Same" padding as in TensorFlow: an odd row is below, an odd column on the right.
        after = -(-self._size // stride)
        missing = max((after - 1) * stride + kernel - self._size, 0)
        near, far = missing // 2, missing - missing // 2
        self._size = after
        return Convolution(
            weight * gain[:, None, None, None],
            bias - mean * gain,
            bias,
            deviation,
            stride,
            (near, near, far, far),
            groups,
            relu6,
        )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        found = self._state.get(name)
        if found is None:
            raise ValueError(f"it has no {name}")
        if found.shape != shape or found.dtype != np.float32:
            raise ValueError(
                f"{name} has shape {found.shape} and type {found.dtype}; expected {shape} and "
                "float32"
            )
        return found.astype(np.float64)


def build_onnx(blocks: Sequence[Block], size: int) -> bytes:
    """Write a network with the normalization of its input as an ONNX file.

    Parameters
    ----------
    blocks : sequence of Block
        See `fold_network`.
    size : int
        Side of the input in pixels.

    Returns
    -------
    bytes
        The input ``pixels`` is (n, size, size, 3) uint8, not normalized; the output ``features``
        is (n, d) float32, the mean over the last feature map.
    """
    graph = GraphWriter()
    zero, six = graph.constant(np.array([0.0])), graph.constant(np.array([6.0]))
    x = graph.cast_to_float(graph.node("Transpose", "pixels", perm=[0, 3, 1, 2]))
    x = graph.node("Mul", x, graph.constant(np.array([1 / (255 * INPUT_STD)])))
    x = graph.node("Sub", x, graph.constant(np.array([INPUT_MEAN / INPUT_STD])))
    for block in blocks:
        start = x
        for layer in block.layers:
            x = graph.node(
                "Conv",
                x,
                graph.constant(layer.weight),
                graph.constant(layer.bias),
                strides=[layer.stride] * 2,
                pads=layer.padding,
                group=layer.groups,
            )
            if layer.relu6:
                x = graph.node("Clip", x, zero, six)
        if block.residual:
            x = graph.node("Add", x, start)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    return graph.to_bytes("pixels", size, x, len(blocks[-1].layers[-1].bias))
