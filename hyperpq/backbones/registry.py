"""The names of backbones, and `load_backbone`, which loads one by its name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hyperpq.backbones.auto_precision import choose_precision
from hyperpq.backbones.base import PRECISIONS, Backbone, Precision, PrecisionChoice
from hyperpq.backbones.combined import CombinedBackbone
from hyperpq.backbones.device_processes import NetworkSettings
from hyperpq.backbones.efficientnet_lite import (
    LITE_MODELS,
    lite_hash,
    lite_installed,
    load_lite,
)
from hyperpq.backbones.spread import SpreadBackbone
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import BackboneError, InvalidInputError
from hyperpq.utils.devices import (
    is_one_device,
    limit_torch_threads,
    resolve_device,
    resolve_devices,
)
from hyperpq.utils.validation import as_choice

if TYPE_CHECKING:
    import torch

# All embedded networks together.
_COMBINED = "lite-all"
_FAMILIES = {
    "timm": ("timm:NAME", "a model of timm (DINOv2, ViT, ConvNeXt...)", "timm"),
    "open_clip": ("open_clip:MODEL/PRETRAINED", "the image side of an OpenCLIP model", "open_clip"),
    "onnx": ("onnx:FILE", "a network in an ONNX file", "onnxruntime"),
    "torchscript": ("torchscript:FILE", "a network in a TorchScript file", "torch"),
}


def available_backbones() -> list[tuple[str, str, bool]]:
    """All kinds of backbones.

    Returns
    -------
    list of (str, str, bool)
        The name, or the form of the names; a description; and whether it is installed.
    """
    embedded = [(n, model.description, lite_installed(n)) for n, model in LITE_MODELS.items()]
    together = "all three of them side by side, slower and better"
    embedded.append((_COMBINED, together, all(installed for _, _, installed in embedded)))
    families = [
        (form, what, importlib.util.find_spec(module) is not None)
        for form, what, module in _FAMILIES.values()
    ]
    return embedded + families


def load_backbone(
    name: str = "lite0",
    *,
    device: str = "auto",
    threads: int | None = None,
    tuned: TunedWeights | None = None,
    precision: PrecisionChoice = "float32",
) -> Backbone:
    """Load an image encoder.

    Parameters
    ----------
    name : str
        ``lite0``, ``lite1``, ``lite2``, ``lite-all`` (these three side by side), ``timm:NAME``,
        ``open_clip:MODEL/PRETRAINED``, ``onnx:FILE`` or ``torchscript:FILE``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; several with commas between, such as
        ``cuda:0,cuda:1``, or ``cuda:all``, which take batches in turn, each in a process of its
        own.
    threads : int, optional
        Threads on the CPU, for each device; by default all cores. For PyTorch networks the number
        applies to the whole process.
    tuned : TunedWeights, optional
        What fine-tuning changed in this network. Features of the tuned network and of the network
        as it came cannot be compared, and have different ``weights_hash``.
    precision : {"float32", "int8", "bfloat16", "float16", "auto"}
        What the network multiplies and convolves in; an index records it. ``int8`` is for embedded
        networks: features are the same to the last bit on every processor, and on a GPU. On CPUs
        it is about twice as fast as float32; the cosine of its features to those of float32 is
        .996 and above (docs/results/encode.md). ``auto`` is ``int8`` where codes were found to be
        as good, which is so for ``lite0``, the network is as it came and on a CPU, and a short
        trial finds that it is faster; otherwise ``float32``. See `choose_precision`.
        ``bfloat16`` and ``float16`` are for GPUs. On a CPU the network computes in float32 all the
        same, so that queries on a CPU differ a little from what is indexed. Features of lite0 in
        float16 differ from those in float32 by .5 % of their length, in bfloat16 by 6 %; of the ten
        nearest of 400 scenes to float32 queries, 99.8 % and 96 % are the same, and precision@10 is
        the same within .001.

    Returns
    -------
    Backbone
        Call it with pixels to encode images. A pickle of it has its name and the tuned weights, and
        the network is loaded where the pickle is read.

    Raises
    ------
    InvalidInputError
        If there is no such device or precision, or ``threads`` is not a positive integer.
    MissingDependencyError
        If an optional package is needed; the message has the command that installs it.
    BackboneError
        If there is no such backbone or it cannot be loaded, if it does not have the precision, or
        if the tuned weights belong to another one.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        raise InvalidInputError(f"threads is {threads!r}; expected a positive integer.")
    as_choice(precision, "precision", (*PRECISIONS, "auto"))
    devices = [device] if is_one_device(device) else resolve_devices(device)
    if precision == "auto":
        precision = _chosen(name, devices, threads, tuned)
    if precision == "int8" and tuned is not None:
        raise BackboneError(
            f"precision is 'int8', but backbone {name!r} is fine-tuned; expected 'float32', as a "
            "tuned network loses too much in int8."
        )
    if len(devices) == 1:
        backbone = _load(name, devices[0], threads, tuned, precision)
    else:
        settings = NetworkSettings(name, threads, precision, tuned)
        backbone = SpreadBackbone(settings, devices, partial(_open_network, name))
    where = ",".join(backbone.devices)
    backbone.reload = partial(_reload, name, where, threads, tuned, backbone.identity())
    return backbone


def _reload(
    name: str,
    device: str,
    threads: int | None,
    tuned: TunedWeights | None,
    identity: dict[str, Any],
) -> Backbone:
    """Load the same network again, in the process that reads a pickle of it."""
    backbone = load_backbone(
        name, device=device, threads=threads, tuned=tuned, precision=identity["dtype"]
    )
    backbone.check_matches(identity)
    return backbone


def _open_network(name: str) -> torch.nn.Module:
    """The PyTorch module of a network that this process has not loaded."""
    network = _load(name, "cpu", None, None, "float32")
    assert network.open_network is not None
    return network.open_network()


def _chosen(
    name: str, devices: Sequence[str], threads: int | None, tuned: TunedWeights | None
) -> Precision:
    """The precision that ``auto`` means."""
    if name not in (*LITE_MODELS, _COMBINED) or tuned is not None:
        return "float32"
    if len(devices) > 1 or resolve_device(devices[0]) != "cpu":
        return "float32"
    # Its parts are of one family, and the trial of one of them says enough.
    timed = "lite0" if name == _COMBINED else name
    return choose_precision(
        name, lite_hash(timed), lambda precision: load_lite(timed, "cpu", threads, None, precision)
    )


def _load(
    name: str,
    device: str,
    threads: int | None,
    tuned: TunedWeights | None,
    precision: Precision,
) -> Backbone:
    if name in LITE_MODELS:
        return load_lite(name, resolve_device(device), threads, tuned, precision)
    if name == _COMBINED:
        where = resolve_device(device)
        parts = [
            load_lite(part, where, threads, tuned and tuned.part(part, lite_hash(part)), precision)
            for part in LITE_MODELS
        ]
        return CombinedBackbone(name, parts, tuned)
    kind, _, rest = name.partition(":")
    if kind not in _FAMILIES or not rest:
        raise _unknown(name)
    if tuned is not None and kind not in ("timm", "open_clip"):
        raise BackboneError(
            f"backbone {name!r} cannot take tuned weights, as its file holds a finished program; "
            "expected an embedded network, timm:NAME or open_clip:MODEL/PRETRAINED."
        )
    if precision == "int8" and kind in ("timm", "open_clip"):
        raise BackboneError(
            f"precision is 'int8', which backbone {name!r} does not have; expected 'float32', "
            "'bfloat16' or 'float16', or an embedded network."
        )
    if precision != "float32" and kind not in ("timm", "open_clip"):
        raise BackboneError(
            f"precision is {precision!r}, but the file of backbone {name!r} says what it computes "
            "in; expected 'float32', or an embedded network, timm:NAME or "
            "open_clip:MODEL/PRETRAINED."
        )
    if kind == "onnx":
        from hyperpq.backbones.onnx_runtime import load_onnx
        from hyperpq.backbones.onnx_session import onnx_on_gpu

        on_cpu = device == "auto" and not onnx_on_gpu()
        return load_onnx(name, rest, resolve_device("cpu" if on_cpu else device), threads)
    from hyperpq.backbones import published, torch_modules

    where = resolve_device(device)
    if kind == "torchscript":
        backbone = torch_modules.load_torchscript(name, rest, where)
    elif kind == "timm":
        backbone = published.load_timm(name, rest, where, tuned, precision)
    else:
        backbone = published.load_open_clip(name, rest, where, tuned, precision)
    # PyTorch has one number of threads per process.
    if threads is None:
        limit_torch_threads()
    else:
        import torch

        torch.set_num_threads(threads)
    return backbone


def _unknown(name: str) -> BackboneError:
    embedded = [*LITE_MODELS, _COMBINED]
    forms = [*embedded, *(form for form, _, _ in _FAMILIES.values())]
    close = difflib.get_close_matches(name.partition(":")[0], [*embedded, *_FAMILIES], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return BackboneError(f"backbone is {name!r}; expected one of {', '.join(forms)}{hint}")
