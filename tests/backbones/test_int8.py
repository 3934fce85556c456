"""The integer network: its numbers are exact everywhere, and its features near those of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash
from numpy.lib.stride_tricks import sliding_window_view

from hyperpq.backbones import efficientnet_lite as lite
from hyperpq.backbones import load_backbone
from hyperpq.backbones.lite_int8 import MAX_PAIR, build_int8_onnx, quantize
from hyperpq.backbones.lite_network import Block, Convolution
from hyperpq.backbones.torch_modules import TorchBackbone
from hyperpq.backbones.weight_rounding import round_weights, smooth_covariance
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.folder import list_images
from hyperpq.datasets.preprocessing import to_pixels
from hyperpq.utils.imports import import_onnxruntime

# xxh3_128 of the files. They are the same with other kernels of NumPy and OpenBLAS (AVX2, SSE2).
GRAPHS = {
    "lite0": "878bc14da2ecfc320a1f2618286e525c",
    "lite1": "323ce92ddf58e73683c1c96baa5d89b6",
    "lite2": "dc50d2ef6db11e382d82c9e69cebf4f7",
}
SIDE = 20


def layer(rng, inputs, outputs, kernel=1, stride=1, depthwise=False, relu6=True):
    shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
    near, far = (kernel - 1) // 2, kernel // 2 if stride == 1 else kernel - 1 - (kernel - 1) // 2
    return Convolution(
        rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape),
        rng.normal(0, 1, outputs),
        rng.normal(1, 1, outputs),
        rng.uniform(0.0, 2, outputs),
        stride,
        (near, near, far, far),
        inputs if depthwise else 1,
        relu6,
    )


@pytest.fixture(scope="module")
def small():
    """A network with every kind of layer, and a channel that never changes."""
    rng = np.random.default_rng(1)
    stem = layer(rng, 3, 8, 3, 2)
    dead = np.arange(8) == 3
    stem.weight[dead], stem.deviation[dead], stem.mean[dead] = 1e-9, 0.0, -4.0

    def block(inputs, outputs, kernel, stride, residual, wide=12):
        inner = (
            layer(rng, inputs, wide),
            layer(rng, wide, wide, kernel, stride, depthwise=True),
            layer(rng, wide, outputs, relu6=False),
        )
        return Block(inner[wide == inputs :], residual)

    return [
        Block((stem,), residual=False),
        block(8, 6, 3, 1, residual=False, wide=8),
        block(6, 6, 5, 1, residual=True),
        block(6, 6, 3, 1, residual=True),
        block(6, 7, 5, 2, residual=False),
        Block((layer(rng, 7, 16),), residual=False),
    ]


def reference(network, pixels):
    """The definition of the network in 64-bit integers; every sum, and the features."""
    sums = []

    def convolve(layer, x):
        top, left, bottom, right = layer.padding
        centred = x.astype(np.int64) - layer.zero_in
        padded = np.pad(centred, ((0, 0), (top, bottom), (left, right), (0, 0)))
        kernel = layer.weight.shape[2]
        # (n, height, width, channels, kernel, kernel)
        windows = sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
        windows = windows[:, :: layer.stride, :: layer.stride]
        weight = layer.weight.astype(np.int64)
        if layer.groups > 1:
            total = np.einsum("nyxcij,cij->nyxc", windows, weight[:, 0])
        else:
            total = np.einsum("nyxcij,ocij->nyxo", windows, weight)
        total = total + layer.bias
        sums.append(total)
        scaled = np.rint(total.astype(np.float32) * layer.scale)
        return np.clip(scaled + layer.zero_out, 0, 255).astype(np.int64)

    x = pixels
    for block in network.blocks:
        start = x
        for one in block.layers:
            x = convolve(one, x)
        if block.residual:
            x = np.clip(x + start - 128, 0, 255)
    return sums, x.sum(axis=(1, 2)).astype(np.float32) * network.feature_step


def run(graph, pixels, threads=1):
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def noise(n, side):
    return np.random.default_rng(2).integers(0, 256, (n, side, side, 3), np.uint8)


def test_the_file_computes_what_the_network_is_defined_as(small):
    network = quantize(small, SIDE)
    pixels = np.concatenate([noise(3, SIDE), np.full((1, SIDE, SIDE, 3), 255, np.uint8)])
    sums, features = reference(network, pixels)
    assert max(abs(total).max() for total in sums) < 2**24
    np.testing.assert_array_equal(run(build_int8_onnx(network, SIDE), pixels), features)
    assert (np.ptp(features, axis=0) > 0).sum() >= 8


@pytest.fixture(scope="module", params=list(GRAPHS))
def quantized(request):
    name = request.param
    size = lite.LITE_MODELS[name].shape.size
    return name, size, quantize(lite._blocks(name, lite._weights_path(name)), size)


def test_the_file_is_the_same_on_every_machine(quantized):
    name, size, network = quantized
    assert xxhash.xxh3_128(build_int8_onnx(network, size)).hexdigest() == GRAPHS[name]


def test_no_sum_can_saturate(quantized):
    """Neither two products in 16 bits, as without VNNI, nor a sum in float32, as on a GPU."""
    for block in quantized[2].blocks:
        for one in block.layers:
            weight = abs(one.weight.astype(np.int64))
            # Side by side is by channel, or by place: which one kernels take is theirs to choose.
            for order in (weight, weight.transpose(0, 2, 3, 1)):
                rows = order.reshape(len(weight), -1)
                rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
                assert (rows[:, ::2] + rows[:, 1::2]).max() <= MAX_PAIR
            assert 255 * MAX_PAIR < 2**15
            total = 255 * weight.sum(axis=(1, 2, 3)) + abs(one.bias.astype(np.int64))
            assert total.max() < 2**24


@pytest.fixture(scope="module")
def lite0():
    return load_backbone("lite0", device="cpu", precision="int8", threads=1)


@pytest.fixture(scope="module")
def pixels(drawn, lite0):
    prep = lite0.preprocessing
    images = [to_pixels(open_image(f.path), prep) for f in list_images([drawn])[::7][:10]]
    return np.concatenate([np.stack(images), noise(2, prep.size)])


def test_features_are_near_those_of_float32(lite0, pixels):
    want = load_backbone("lite0", device="cpu", threads=1)(pixels)
    found = lite0(pixels)
    cosine = (want * found).sum(axis=1) / (
        np.linalg.norm(want, axis=1) * np.linalg.norm(found, axis=1)
    )
    assert cosine.min() > 0.98
    assert cosine.mean() > 0.99


def test_features_do_not_depend_on_batch_or_threads(lite0, pixels):
    together = lite0(pixels)
    np.testing.assert_array_equal(np.concatenate([lite0(x[None]) for x in pixels]), together)
    two = load_backbone("lite0", device="cpu", precision="int8", threads=2)
    np.testing.assert_array_equal(two(pixels[5:]), together[5:])


def twin(device):
    """What computes in int8 on a GPU, on any device of PyTorch."""
    on_cpu = load_backbone("lite0", device="cpu", precision="int8")
    module = lite._gpu_module("lite0", lite._weights_path("lite0"), None, "int8")
    return TorchBackbone(
        "lite0",
        module,
        preprocessing=on_cpu.preprocessing,
        weights_hash=on_cpu.weights_hash,
        device=device,
        mean=on_cpu.mean,
        std=on_cpu.std,
        precision="int8",
        computes_in="float32",
    )


def test_pytorch_computes_the_same_numbers(lite0, pixels):
    module = twin("cpu")
    assert module.identity() == lite0.identity()
    np.testing.assert_array_equal(module(pixels[-4:]), lite0(pixels[-4:]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", list(GRAPHS))
def test_a_gpu_computes_the_same_numbers(name):
    here, there = (load_backbone(name, device=d, precision="int8") for d in ("cpu", "cuda"))
    assert there.identity() == here.identity()
    for x in (noise(70, here.preprocessing.size), noise(1, here.preprocessing.size)):
        np.testing.assert_array_equal(there(x), here(x))


@pytest.mark.parametrize("kernel, channels", [(3, 1), (5, 1), (3, 3)])
def test_rounded_weights_err_less_on_smooth_images(kernel, channels):
    covariance = smooth_covariance(kernel, channels, 0.9)
    np.testing.assert_array_equal(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0
    weights = np.random.default_rng(0).normal(0, 20, (50, len(covariance))).clip(-64.4, 64.4)
    found, nearest = round_weights(weights, covariance, 64), np.rint(weights).clip(-64, 64)
    np.testing.assert_array_equal(found, np.rint(found))
    assert abs(found).max() <= 64

    def error(rounded):
        left = rounded - weights
        return np.einsum("ni,ij,nj->n", left, covariance, left)

    assert (error(found) <= error(nearest) + 1e-9).mean() > 0.85
    assert error(found).mean() < 0.5 * error(nearest).mean()


def test_rounded_weights_are_nearly_the_best():
    """Beside all ways to round four weights up or down."""
    covariance = smooth_covariance(2, 1, 0.9)
    weights = np.random.default_rng(0).normal(0, 5, (200, 4))
    ways = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), -1).reshape(-1, 4)
    left = np.floor(weights)[:, None] + ways - weights[:, None]
    best = np.einsum("nwi,ij,nwj->nw", left, covariance, left).min(axis=1)
    left = round_weights(weights, covariance, 64) - weights
    found = np.einsum("ni,ij,nj->n", left, covariance, left)
    assert found.mean() < 1.1 * best.mean()
