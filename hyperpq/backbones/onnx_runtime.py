"""Networks in ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperpq.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    check_normalization,
    first_line,
    hash_files,
)
from hyperpq.datasets.decode import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError, MissingDependencyError
from hyperpq.utils.devices import usable_cores

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
# Where exporters put weights that don't fit into the file itself (torch.onnx, optimum).
_EXTERNAL = (".data", "_data")


class OnnxBackbone(Backbone):
    """A network in an ONNX Runtime session.

    A uint8 input is (n, S, S, 3) and normalises by itself; a float one is (n, 3, S, S) and gets
    ``(x / 255 - mean) / std``. The first output is (n, d), or (n, d, h, w), which is averaged.
    """

    def __init__(
        self,
        name: str,
        session: Any,
        *,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._output = session.get_outputs()[0].name
        self._dtype = _DTYPES[self._input.type]
        batch = self._input.shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None
        super().__init__(name, 0, preprocessing, weights_hash, device, mean=mean, std=std)
        size = preprocessing.size
        self.d = int(self._features(np.zeros((1, size, size, 3), np.uint8)).shape[1])

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        count, step = len(pixels), self._fixed_batch or len(pixels)
        if missing := -count % step:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        x = pixels
        if self._dtype != np.uint8:
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            scaled = (pixels / np.float32(255) - mean) / std
            x = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=self._dtype)
        parts = [self._run(x[start : start + step]) for start in range(0, len(x), step)]
        return np.concatenate(parts)[:count]

    def _run(self, x: np.ndarray) -> np.ndarray:
        try:
            (out,) = self._session.run([self._output], {self._input.name: np.ascontiguousarray(x)})
        except Exception as error:  # ONNX Runtime's errors have no common public base
            raise BackboneError(
                f"backbone {self.name!r} failed on input {x.shape} of {x.dtype} "
                f"({first_line(error)}); it must take (n, 3, S, S) float or (n, S, S, 3) uint8"
            ) from error
        if out.ndim == 4:
            out = out.mean(axis=(2, 3), dtype=np.float32)
        if out.ndim != 2 or len(out) != len(x):
            raise BackboneError(
                f"backbone {self.name!r}: output has shape {out.shape}, expected ({len(x)}, d) or "
                f"({len(x)}, d, h, w); export the network with pooled features as first output"
            )
        return out.astype(np.float32, copy=False)


def open_session(model: bytes | str, device: str, threads: int | None, name: str) -> Any:
    """Start ONNX Runtime on a model's bytes or path.

    Raises
    ------
    MissingDependencyError
        If `device` is a GPU and this ONNX Runtime has no support for it.
    BackboneError
        If the model can't be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Spinning threads take the cores from those that decode: with two of these beside it a build
    # was 5 to 20 % faster without, and the network alone lost nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != "cpu":
        if not onnx_on_gpu():
            raise MissingDependencyError(
                f"backbone {name!r} on {device!r} needs ONNX Runtime with CUDA; install it with: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu, or use device 'cpu'"
            )
        number = int(device.partition(":")[2] or 0)
        cuda = {"device_id": number, "use_tf32": "0"}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common public base
        raise BackboneError(
            f"backbone {name!r} can't be loaded by ONNX Runtime ({first_line(error)}); "
            "give a valid ONNX file"
        ) from error


def load_onnx(name: str, path: str, device: str, threads: int | None) -> Backbone:
    """Load ``onnx:FILE``.

    Parameters
    ----------
    name, path : str
        The backbone's whole name, and the file in it. ``FILE.json`` beside it may hold ``size``,
        ``mean``, ``std``, ``resize``, ``crop_fraction`` and ``interpolation``.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int or None
        Threads on CPU; None for all cores.

    Returns
    -------
    Backbone
        See `OnnxBackbone`. The size is the graph's own, else the sidecar's, else 224; the
        normalisation of a float input is the sidecar's, else ImageNet's.

    Raises
    ------
    BackboneError
        If the file is missing or isn't such a network.
    """
    files = [path, *(path + end for end in _EXTERNAL if os.path.isfile(path + end))]
    weights_hash = hash_model_files(name, files)
    session = open_session(path, device, threads, name)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise BackboneError(
            f"{path}: inputs are {found}; expected one of (n, 3, S, S) float or (n, S, S, 3) uint8"
        )
    whole = inputs[0].type == "tensor(uint8)"
    height, width = inputs[0].shape[1:3] if whole else inputs[0].shape[2:]
    channels = inputs[0].shape[3 if whole else 1]
    if channels not in (3, None) and not isinstance(channels, str):
        raise BackboneError(
            f"{path}: input has shape {inputs[0].shape} of {inputs[0].type}; expected 3 channels, "
            "(n, 3, S, S) float or (n, S, S, 3) uint8"
        )
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise BackboneError(f"{path}: input is {height} x {width} pixels; a square is needed")
    size = next((side for side in (height, width) if isinstance(side, int)), None)
    preprocessing, mean, std = read_sidecar(path, size)
    return OnnxBackbone(
        name,
        session,
        preprocessing=preprocessing,
        weights_hash=weights_hash,
        device=device,
        mean=None if whole else mean,
        std=None if whole else std,
    )


def onnx_on_gpu() -> bool:
    """Whether this ONNX Runtime can use a GPU."""
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def hash_model_files(name: str, paths: Sequence[str]) -> str:
    """`hash_files`, with an error that names the backbone if one can't be read."""
    try:
        return hash_files(paths)
    except OSError as error:
        raise BackboneError(
            f"backbone {name!r}: {error.filename or paths[0]} can't be read ({error.strerror}); "
            "give the path of an existing file"
        ) from error


def read_sidecar(path: str, size: int | None) -> tuple[Preprocessing, list[float], list[float]]:
    """Read ``path + ".json"``: preprocessing, mean and deviation; defaults without one.

    Parameters
    ----------
    path : str
        The model's file.
    size : int or None
        Side of the input if the model itself fixes it.

    Raises
    ------
    BackboneError
        If the file isn't a JSON object with known names and good values, or contradicts the model.
    """
    sidecar = Path(path + ".json")
    values: Any = {}
    if sidecar.exists():
        try:
            values = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BackboneError(f"{sidecar}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise BackboneError(f"{sidecar}: found {type(values).__name__}, expected a JSON object")
    mean, std = check_normalization(
        str(sidecar), values.pop("mean", list(IMAGENET_MEAN)), values.pop("std", list(IMAGENET_STD))
    )
    if size is not None and values.setdefault("size", size) != size:
        raise BackboneError(f"{sidecar}: size is {values['size']}, but the model takes {size}")
    try:
        return Preprocessing.from_dict(values), mean, std
    except InvalidInputError as error:
        raise BackboneError(f"{sidecar}: {error}") from error
