"""Published networks by name: ``timm:NAME`` and ``open_clip:MODEL/PRETRAINED``.

Only names in the lists of the two packages are accepted, as other weights on a hub may not be safe
to load.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hyperpq.backbones.base import Backbone, Precision, check_normalization, first_line
from hyperpq.backbones.torch_modules import TorchBackbone, hash_parameters
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.preprocessing import Interpolation, Preprocessing
from hyperpq.errors import BackboneError, MissingDependencyError
from hyperpq.utils.imports import need, need_torch

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


def load_timm(
    name: str,
    model: str,
    device: str,
    tuned: TunedWeights | None = None,
    precision: Precision = "float32",
) -> Backbone:
    """Load ``timm:NAME`` with its published weights, preprocessing and pooled features.

    ``tuned`` is what fine-tuning changed.

    Only names in the list of timm are accepted, as other weights on a hub may not be safe to load.

    Raises
    ------
    MissingDependencyError
        If timm is not installed or cannot be imported.
    BackboneError
        If there is no such model, or its weights cannot be downloaded.
    """
    timm = _import("timm", "timm")
    known = timm.list_models(pretrained=True)
    if model not in known and model not in {tagged.partition(".")[0] for tagged in known}:
        raise _unknown(name, "timm", model, known, "timm.list_models(pretrained=True)")

    def create() -> torch.nn.Module:
        return _fetch(name, lambda: timm.create_model(model, pretrained=True, num_classes=0))

    network = create()
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise BackboneError(
            f"backbone {name!r} takes images of {channels} x {height} x {width}; expected three "
            "channels and a square; choose another model."
        )
    crop = config["crop_mode"] != "squash"
    return _published(
        name,
        create,
        network,
        "",
        Preprocessing(
            size=int(height),
            resize="crop" if crop else "squash",
            crop_fraction=float(config["crop_pct"]) if crop else 1.0,
            interpolation=_interpolation(name, config["interpolation"]),
        ),
        config,
        device,
        tuned,
        precision,
    )


def load_open_clip(
    name: str,
    model: str,
    device: str,
    tuned: TunedWeights | None = None,
    precision: Precision = "float32",
) -> Backbone:
    """Load ``open_clip:MODEL/PRETRAINED``: the image encoder, with embeddings not normalized.

    ``tuned`` is what fine-tuning changed in the image encoder.

    Only pairs in the list of OpenCLIP are accepted, as for timm.

    Raises
    ------
    MissingDependencyError
        If OpenCLIP is not installed or cannot be imported.
    BackboneError
        If there is no such model, or its weights cannot be downloaded.
    """
    open_clip = _import("open_clip", "open_clip")
    known = ["/".join(pair) for pair in open_clip.list_pretrained()]
    if model not in known:
        raise _unknown(name, "open_clip", model, known, "open_clip.list_pretrained()")
    architecture, _, tag = model.partition("/")

    def create() -> torch.nn.Module:
        clip = _fetch(name, lambda: open_clip.create_model(architecture, pretrained=tag))
        clip.forward = clip.encode_image
        return clip

    network = create()
    config = open_clip.get_model_preprocess_cfg(network)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = config.get("resize_mode", "shortest")
    if height != width or mode not in ("shortest", "squash"):
        raise BackboneError(
            f"backbone {name!r} takes {height} x {width} pixels, resized by {mode!r}; expected a "
            "square, resized by 'shortest' or 'squash'; choose another model."
        )
    return _published(
        name,
        create,
        network,
        "visual.",
        Preprocessing(
            size=int(height),
            resize="crop" if mode == "shortest" else "squash",
            interpolation=_interpolation(name, config.get("interpolation", "bicubic")),
        ),
        config,
        device,
        tuned,
        precision,
    )


def _published(
    name: str,
    create: Callable[[], torch.nn.Module],
    network: torch.nn.Module,
    prefix: str,
    preprocessing: Preprocessing,
    config: Mapping[str, Any],
    device: str,
    tuned: TunedWeights | None,
    precision: Precision,
) -> Backbone:
    """A published network, normalized by the ``mean`` and ``std`` of its configuration.

    Its features depend on the tensors whose names begin with the prefix.
    """
    mean, std = check_normalization(f"backbone {name!r}", config["mean"], config["std"])
    state = network.state_dict()
    weights = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    weights_hash = hash_parameters(weights)
    if tuned is not None:
        tuned.check_belongs(name, weights_hash)
        network.load_state_dict(tuned.apply(state))
    backbone = TorchBackbone(
        name,
        network,
        preprocessing=preprocessing,
        weights_hash=weights_hash,
        device=device,
        mean=mean,
        std=std,
        precision=precision,
    )
    backbone.open_network, backbone.trainable_prefix = create, prefix
    backbone.take_tuned(tuned)
    return backbone


def _import(module: str, extra: str) -> Any:
    need_torch(f"backbones '{module}:...'")
    try:
        return need(module, extra, f"backbones '{module}:...'")
    except RuntimeError as error:  # torchvision built for another PyTorch fails like this
        import torch

        raise MissingDependencyError(
            f"{module} is installed but cannot be imported ({first_line(error)}); "
            f"install the torchvision that was built for PyTorch {torch.__version__}."
        ) from error


def _fetch(name: str, create: Callable[[], Any]) -> Any:
    try:
        return create()
    except Exception as error:  # downloads raise errors of several HTTP libraries
        raise BackboneError(
            f"backbone {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "its weights are downloaded on first use: load it once on a machine with internet "
            "access and copy ~/.cache/huggingface from there, or use 'lite0'."
        ) from error


def _unknown(name: str, kind: str, model: str, known: Iterable[str], listing: str) -> BackboneError:
    close = difflib.get_close_matches(model, list(known), n=4, cutoff=0.5)
    hint = f"similar names are {', '.join(f'{kind}:{c}' for c in close)}; " if close else ""
    return BackboneError(
        f"backbone is {name!r}; expected a model with published weights; {hint}{listing} lists all."
    )


def _interpolation(name: str, wanted: str) -> Interpolation:
    if wanted == "bilinear":
        return "bilinear"
    if wanted != "bicubic":
        _log.warning("backbone %r asks for %s interpolation; bicubic is used", name, wanted)
    return "bicubic"
