"""Networks run by PyTorch: ``timm:``, ``open_clip:``, ``torchscript:``, and the embedded on a GPU.

Features of one image may differ in the last bits with the images beside it, because PyTorch
chooses its kernels by batch size; the same batch gives the same bits.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from hyperpq.backbones.base import Backbone, check_normalization, first_line
from hyperpq.backbones.onnx_runtime import hash_model_files, read_sidecar
from hyperpq.datasets.decode import Preprocessing
from hyperpq.errors import BackboneError, MissingDependencyError
from hyperpq.utils.imports import need

_log = logging.getLogger(__name__)


class TorchBackbone(Backbone):
    """A PyTorch module of (n, 3, S, S) float32, normalised here, in full precision.

    The module's output is (n, d), or (n, d, h, w), which is averaged; d is found by a trial run.
    """

    def __init__(
        self,
        name: str,
        module: Callable[..., Any],
        *,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        import torch

        super().__init__(name, 0, preprocessing, weights_hash, device, mean=mean, std=std)
        self._module = module.eval().to(device)  # type: ignore[attr-defined]
        self._mean = torch.tensor(self.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(self.std, device=device).reshape(1, 3, 1, 1)
        size = preprocessing.size
        self.d = int(self._features(np.zeros((1, size, size, 3), np.uint8)).shape[1])

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # no TF32, as cudnn's flag below
        try:
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                ),
            ):
                x = torch.tensor(pixels, device=self.device).permute(0, 3, 1, 2).float()
                out = self._module((x / 255 - self._mean) / self._std)
                if isinstance(out, torch.Tensor) and out.ndim == 4:
                    out = out.mean(dim=(2, 3))
                if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != len(x):
                    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out)
                    raise BackboneError(
                        f"backbone {self.name!r}: output is {found}, expected a tensor of shape "
                        f"({len(x)}, d) or ({len(x)}, d, h, w); choose a network with pooled output"
                    )
                return np.asarray(out.float().cpu().numpy())
        except RuntimeError as error:  # also out of memory
            raise BackboneError(
                f"backbone {self.name!r} failed on {len(pixels)} images of "
                f"{self.preprocessing.size} pixels on {self.device} ({first_line(error)}); "
                "use device 'cpu' or another backbone"
            ) from error
        finally:
            torch.set_float32_matmul_precision(precision)


def load_timm(name: str, model: str, device: str, threads: int | None) -> Backbone:
    """Load ``timm:NAME`` with its published weights, preprocessing and pooled features.

    Only names of timm's own list: what a hub holds under any other name isn't known to be safe.

    Raises
    ------
    MissingDependencyError
        If timm isn't installed or can't be imported.
    BackboneError
        If there is no such model, or its weights can't be downloaded.
    """
    timm = _import("timm", "timm")
    known = timm.list_models(pretrained=True)
    if model not in known and model not in {tagged.partition(".")[0] for tagged in known}:
        raise _unknown(name, "timm", model, known, "timm.list_models(pretrained=True)")
    network = _fetch(name, lambda: timm.create_model(model, pretrained=True, num_classes=0))
    config = timm.data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise BackboneError(
            f"backbone {name!r} takes {channels} x {height} x {width}; three channels and a square "
            "are needed, choose another model"
        )
    crop = config["crop_mode"] != "squash"
    return _published(
        name,
        network,
        network.state_dict(),
        Preprocessing(
            size=int(height),
            resize="crop" if crop else "squash",
            crop_fraction=float(config["crop_pct"]) if crop else 1.0,
            interpolation=_interpolation(name, config["interpolation"]),
        ),
        config["mean"],
        config["std"],
        device,
        threads,
    )


def load_open_clip(name: str, model: str, device: str, threads: int | None) -> Backbone:
    """Load ``open_clip:MODEL/PRETRAINED``: the image side, its embedding before normalisation.

    Only pairs of OpenCLIP's own list, as with timm.

    Raises
    ------
    MissingDependencyError
        If OpenCLIP isn't installed or can't be imported.
    BackboneError
        If there is no such model, or its weights can't be downloaded.
    """
    open_clip = _import("open_clip", "open_clip")
    known = ["/".join(pair) for pair in open_clip.list_pretrained()]
    if model not in known:
        raise _unknown(name, "open_clip", model, known, "open_clip.list_pretrained()")
    architecture, _, tag = model.partition("/")
    network = _fetch(name, lambda: open_clip.create_model(architecture, pretrained=tag))
    config = open_clip.get_model_preprocess_cfg(network)
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = config.get("resize_mode", "shortest")
    if height != width or mode not in ("shortest", "squash"):
        raise BackboneError(
            f"backbone {name!r} takes {height} x {width} pixels resized by {mode!r}; a square, "
            "'shortest' or 'squash' are supported, choose another model"
        )
    weights = network.visual.state_dict()
    network.forward = network.encode_image
    return _published(
        name,
        network,
        weights,
        Preprocessing(
            size=int(height),
            resize="crop" if mode == "shortest" else "squash",
            interpolation=_interpolation(name, config.get("interpolation", "bicubic")),
        ),
        config["mean"],
        config["std"],
        device,
        threads,
    )


def load_torchscript(name: str, path: str, device: str, threads: int | None) -> Backbone:
    """Load ``torchscript:FILE``; a sidecar ``FILE.json`` as for ``onnx:FILE``.

    A TorchScript file is a program: load only files whose source is trusted.

    Raises
    ------
    BackboneError
        If the file is missing or isn't such a network.
    """
    import torch

    weights_hash = hash_model_files(name, [path])
    preprocessing, mean, std = read_sidecar(path, None)
    try:
        module = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{path}: not a TorchScript file ({first_line(error)}); make one with "
            "torch.jit.trace(...).save(...)"
        ) from error
    _set_threads(threads)
    return TorchBackbone(
        name,
        module,
        preprocessing=preprocessing,
        weights_hash=weights_hash,
        device=device,
        mean=mean,
        std=std,
    )


def hash_parameters(state: Mapping[str, Any]) -> str:
    """xxh3_128 of a state dict, hexadecimal: names, shapes, types and values in order of name."""
    import torch

    digest = xxhash.xxh3_128()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _published(
    name: str,
    network: Any,
    weights: Mapping[str, Any],
    preprocessing: Preprocessing,
    mean: Any,
    std: Any,
    device: str,
    threads: int | None,
) -> Backbone:
    mean, std = check_normalization(f"backbone {name!r}", mean, std)
    _set_threads(threads)
    return TorchBackbone(
        name,
        network,
        preprocessing=preprocessing,
        weights_hash=hash_parameters(weights),
        device=device,
        mean=mean,
        std=std,
    )


def _set_threads(threads: int | None) -> None:
    """PyTorch has one number of threads a process; without a wish it stays as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _import(module: str, extra: str) -> Any:
    try:
        return need(module, extra, f"backbones '{module}:...'")
    except RuntimeError as error:  # torchvision built for another PyTorch fails like this
        import torch

        raise MissingDependencyError(
            f"{module} is installed but can't be imported ({first_line(error)}); "
            f"install the torchvision that was built for PyTorch {torch.__version__}"
        ) from error


def _fetch(name: str, create: Callable[[], Any]) -> Any:
    try:
        return create()
    except Exception as error:  # downloads raise errors of several HTTP libraries
        raise BackboneError(
            f"backbone {name!r} can't be loaded ({type(error).__name__}: {first_line(error)}); "
            "its weights come from the internet on first use: load it once on a machine with a "
            "connection and copy that machine's ~/.cache/huggingface here, or use 'lite0'"
        ) from error


def _unknown(name: str, kind: str, model: str, known: Iterable[str], listing: str) -> BackboneError:
    close = difflib.get_close_matches(model, list(known), n=4, cutoff=0.5)
    hint = f"close are {', '.join(f'{kind}:{c}' for c in close)}; " if close else ""
    return BackboneError(f"no backbone {name!r} with weights: {hint}{listing} lists them all")


def _interpolation(name: str, wanted: str) -> str:
    if wanted in ("bicubic", "bilinear"):
        return wanted
    _log.warning("backbone %r asks for %s interpolation; bicubic is used", name, wanted)
    return "bicubic"
