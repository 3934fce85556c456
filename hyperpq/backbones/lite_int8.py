"""EfficientNet-Lite in 8-bit integers: `quantize` makes it, `build_int8_onnx` writes it as a file.

All signals of the network are bytes and all weights small integers, from the pixels to the last
feature map. Each sum is exact, and each result is scaled by one float32 number and rounded once. So
features are the same to the last bit on every processor, in any batch and with any number of
threads, which floating-point networks do not promise. On a GPU `int8_module.Int8Module` computes
the same numbers.

Nothing is calibrated with images. Batch normalization states the mean and the deviation of each
channel, from which its range follows (Nagel et al., "Data-Free Quantization", ICCV 2019). Each
channel has a range of its own, although the kernels know one scale for a signal: the scales of the
channels are folded into the weights before and after it. Of a fine-tuned network the cosine of
features was only .94 to .96, so `load_backbone` refuses int8 there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.lite_network import INPUT_MEAN, INPUT_STD, Block, Convolution
from hyperpq.backbones.onnx_writer import MICROSOFT, GraphWriter
from hyperpq.backbones.weight_rounding import (
    IMAGE_CORRELATION,
    MAP_CORRELATION,
    round_weights,
    smooth_covariance,
)

Floats = NDArray[np.float64]

MAX_PAIR = 128
"""The largest sum of the magnitudes of two weights side by side. Processors without VNNI add two
products of a byte and a weight in 16 bits, which saturate: 255 * 128 fits, and so the sums are the
same everywhere. Filters of several places have weights to 64, whatever is added to what."""
# Deviations above the mean that a channel can show, up to 6; the kinds were chosen by the cosine on
# 48 images of CIFAR-10, the 15 scenes and Grocery Store each. What filters of a feature map give
# has the longest tails: with 6 deviations the cosine falls to .985. The first feature map is worth
# a finer step; its values above are rare.
_STEM_DEVIATIONS, _POINTWISE_DEVIATIONS, _DEPTHWISE_DEVIATIONS = 4.5, 6.0, 16.0
# The same on both sides of the mean, of signals without ReLU6.
_LINEAR_DEVIATIONS = 4.5
_MIN_RANGE = 0.02
# Smooth parts of an image meet the same rounding everywhere, and what the stem loses by it is most
# of what the whole network loses. So stem and first depthwise layer are there twice, with bytes
# half a step apart and weights whose errors cancel: the cosine of lite2 rises from .983 to .992
# on the 15 scenes, and no speed was lost. Zero stays exact in the mean of both.
_TWINS = (-0.25, 0.25)
# A bias above would not be exact in float32, in which a GPU adds.
_MAX_BIAS = 1 << 22
PIXEL_ZERO, LINEAR_ZERO = 127, 128
"""Bytes that stand for the centre of pixels, and of signals without ReLU6."""


@dataclass(frozen=True, eq=False)
class Int8Convolution:
    """A convolution of bytes: ``zero_out + round(scale * (bias + sum of w * (x - zero_in)))``.

    Attributes
    ----------
    weight : ndarray, shape (out, in / groups, k, k), int8
        See `MAX_PAIR`.
    bias : ndarray, shape (out,), int32
    scale : ndarray, shape (out,), float32
    stride, padding, groups
        See `Convolution`; padding has the value ``zero_in``.
    zero_in, zero_out : int
        Bytes that stand for the centre of the input and the output. Results outside 0 to 255 are
        clipped.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    stride: int
    padding: tuple[int, int, int, int]
    groups: int
    zero_in: int
    zero_out: int


@dataclass(frozen=True, eq=False)
class Int8Block:
    """Convolutions in a row; ``residual`` says whether their input is added to their output.

    A sum is ``a + b - 128``, clipped to a byte: the blocks of a stage share their scales.
    """

    layers: tuple[Int8Convolution, ...]
    residual: bool


@dataclass(frozen=True, eq=False)
class Int8Network:
    """A whole network.

    Attributes
    ----------
    blocks : tuple of Int8Block
    feature_step : ndarray, shape (d,), float32
        What 1 in the sum over the last feature map adds to the feature.
    """

    blocks: tuple[Int8Block, ...]
    feature_step: NDArray[np.float32]


@dataclass(frozen=True)
class _Signal:
    """What the bytes of a signal mean: ``x = step * (byte - zero + offset) + centre``.

    All channels are there once for each offset, one copy after the other.
    """

    step: Floats
    centre: Floats
    zero: int
    # Mean of ``byte - zero + offset``.
    mean: Floats
    offsets: tuple[float, ...] = (0.0,)


def quantize(blocks: Sequence[Block], size: int) -> Int8Network:
    """Make the integer network of a network.

    Parameters
    ----------
    blocks : sequence of Block
        See `fold_network`.
    size : int
        Side of the input in pixels.

    Returns
    -------
    Int8Network
        It depends on nothing but the arguments.
    """
    pixel = _Signal(
        np.full(3, 1 / (255 * INPUT_STD)),
        np.full(3, (PIXEL_ZERO / 255 - INPUT_MEAN) / INPUT_STD),
        PIXEL_ZERO,
        np.zeros(3),
    )
    signal, out = pixel, []
    # The first depthwise layer follows the stem at once, and both are computed twice.
    twins = [blocks[0].layers[0], blocks[1].layers[0]] if blocks[1].layers[0].groups > 1 else []
    for block, step in zip(blocks, _stage_steps(blocks), strict=True):
        before, layers = signal, []
        for layer in block.layers:
            is_stem = signal is pixel
            after = _clipped(layer, is_stem=is_stem) if layer.relu6 else _linear(layer, step)
            if any(layer is twin for twin in twins):
                after = replace(after, offsets=_TWINS)
            layers.append(_quantize_layer(layer, signal, after, is_stem=is_stem))
            signal = after
        if block.residual:
            # The step is the same, and so only the centres add up.
            centre = before.centre + signal.centre
            signal = _Signal(signal.step, centre, signal.zero, signal.mean)
        out.append(Int8Block(tuple(layers), block.residual))
    side = math.prod(layer.stride for block in blocks for layer in block.layers)
    places = (-(-size // side)) ** 2
    return Int8Network(tuple(out), (signal.step / places).astype(np.float32))


def _stage_steps(blocks: Sequence[Block]) -> list[Floats]:
    """The steps of the output of each block: of all blocks of a stage, what their sum needs."""
    steps: list[Floats] = []
    variance = np.zeros(0)
    for block in blocks:
        own = block.layers[-1].deviation ** 2
        variance = variance + own if block.residual else own
        step = np.maximum(_LINEAR_DEVIATIONS * np.sqrt(variance), 1e-3) / 127
        steps.append(step)
        # The blocks before in this stage are added to this one.
        for back in range(len(steps) - 1, 0, -1):
            if not blocks[back].residual:
                break
            steps[back - 1] = step
    return steps


def _clipped(layer: Convolution, *, is_stem: bool) -> _Signal:
    """The bytes of a signal after ReLU6."""
    deviations = _POINTWISE_DEVIATIONS
    if layer.groups > 1:
        deviations = _DEPTHWISE_DEVIATIONS
    elif is_stem:
        deviations = _STEM_DEVIATIONS
    top = np.clip(layer.mean + deviations * layer.deviation, _MIN_RANGE, 6.0)
    step = top / 255
    return _Signal(step, np.zeros_like(step), 0, _clipped_mean(layer, top) / step)


def _linear(layer: Convolution, step: Floats) -> _Signal:
    """The bytes of a signal around its mean."""
    return _Signal(step, layer.mean, LINEAR_ZERO, np.zeros_like(step))


def _clipped_mean(layer: Convolution, top: Floats) -> Floats:
    """Mean of a normal distribution that is clipped to [0, top]."""
    deviation = np.maximum(layer.deviation, 1e-9)
    low, high = -layer.mean / deviation, (top - layer.mean) / deviation
    density = [np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in (low, high)]
    below = [np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in values]) for values in (low, high)]
    inside = layer.mean * (below[1] - below[0]) + deviation * (density[0] - density[1])
    return inside + top * (1 - below[1])


def _quantize_layer(
    layer: Convolution, before: _Signal, after: _Signal, *, is_stem: bool
) -> Int8Convolution:
    """Fold the meaning of input and output into the weights, and round these."""
    depthwise = layer.groups > 1
    # Which copies of the input a copy of the output is made of, in equal shares.
    copies = range(len(before.offsets))
    reads = [[own] if depthwise else list(copies) for own in range(len(after.offsets))]
    # Along the axis of the weights that has the channels of the input.
    by_input = (slice(None), None) if depthwise else (None, slice(None))
    weight = layer.weight * before.step[by_input][..., None, None]
    weight = weight / after.step[:, None, None, None] / len(reads[0])
    sums = (layer.weight.sum(axis=(2, 3)) * before.centre[by_input]).sum(axis=1)
    bias = (layer.bias + sums - after.centre) / after.step
    rows = weight.reshape(len(weight), -1)
    limit = MAX_PAIR // 2
    pointwise = weight.shape[2] == 1
    step = _pair_step(rows) if pointwise else abs(rows).max(axis=1) / limit
    scale = np.maximum(np.maximum(step, 1e-12), abs(bias) / _MAX_BIAS).astype(np.float32)
    exact = scale.astype(np.float64)
    rows = rows / exact[:, None]
    covariance = None
    if not pointwise:
        correlation = IMAGE_CORRELATION if is_stem else MAP_CORRELATION
        covariance = smooth_covariance(weight.shape[2], weight.shape[1], correlation)
    weights, biases = [], []
    # What the copies before lack of the weights is given to the next one.
    lacking = np.zeros_like(rows)
    for own, offset in zip(reads, after.offsets, strict=True):
        columns, total = [], (bias - offset) / exact
        for copy in own:
            wanted = rows + lacking
            if covariance is None:
                rounded = np.rint(wanted)
            else:
                rounded = round_weights(wanted, covariance, limit)
            lacking = wanted - rounded
            # What is left of the error on average goes into the bias, and so does the offset.
            error = (rounded - rows).reshape(weight.shape).sum(axis=(2, 3))
            used = rounded.reshape(weight.shape).sum(axis=(2, 3))
            total = total - (error * before.mean[by_input]).sum(axis=1)
            total = total + used.sum(axis=1) * before.offsets[copy]
            columns.append(rounded.reshape(weight.shape))
        weights.append(np.concatenate(columns, axis=1))
        biases.append(total)
    return Int8Convolution(
        np.concatenate(weights).astype(np.int8),
        np.rint(np.concatenate(biases)).astype(np.int32),
        np.tile(scale, len(reads)),
        layer.stride,
        layer.padding,
        layer.groups * len(reads) if depthwise else 1,
        before.zero,
        after.zero,
    )


def _pair_step(rows: Floats) -> Floats:
    """The smallest steps (n,) with which no two rounded weights side by side exceed `MAX_PAIR`."""
    magnitude = np.pad(abs(rows), ((0, 0), (0, rows.shape[1] % 2)))
    pairs = magnitude[:, ::2] + magnitude[:, 1::2]
    # Of a twin, each of the two is rounded by up to 1.
    return pairs.max(axis=1) / (MAX_PAIR - 2)


def build_int8_onnx(network: Int8Network, size: int) -> bytes:
    """Write an integer network as an ONNX file.

    Parameters
    ----------
    network : Int8Network
        See `quantize`.
    size : int
        Side of the input in pixels.

    Returns
    -------
    bytes
        Input and output are those of `build_onnx`. Of the operators, ``QLinearConv`` for images
        whose channels come last and ``QLinearAdd`` are extensions of ONNX Runtime, which it has on
        the CPU only.
    """
    graph = GraphWriter()
    one = graph.constant(np.array(1, np.float32))
    zeros = {
        value: graph.constant(np.array(value, np.uint8)) for value in (0, PIXEL_ZERO, LINEAR_ZERO)
    }
    x = "pixels"
    for block in network.blocks:
        start = x
        for layer in block.layers:
            x = graph.node(
                "QLinearConv",
                *(x, one, zeros[layer.zero_in]),
                graph.constant(layer.weight),
                graph.constant(layer.scale),
                graph.constant(np.zeros(len(layer.weight), np.int8)),
                *(one, zeros[layer.zero_out]),
                graph.constant(layer.bias),
                domain=MICROSOFT,
                channels_last=1,
                strides=[layer.stride] * 2,
                pads=layer.padding,
                group=layer.groups,
            )
        if block.residual:
            same = (one, zeros[LINEAR_ZERO])
            x = graph.node("QLinearAdd", x, *same, start, *same, *same, domain=MICROSOFT)
    # Sums of whole numbers are exact in float32.
    total = graph.node(
        "ReduceSum", graph.cast_to_float(x), graph.constant(np.array([1, 2])), keepdims=0
    )
    features = graph.node("Mul", total, graph.constant(network.feature_step))
    return graph.to_bytes("pixels", size, features, len(network.feature_step))
