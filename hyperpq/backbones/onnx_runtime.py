"""`OnnxBackbone`: networks in ONNX files, run by ONNX Runtime."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperpq.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    check_normalization,
    first_line,
    hash_files,
)
from hyperpq.backbones.onnx_session import ForkSafeSession, open_session
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError, InvalidInputError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
# Endings of the files in which exporters (torch.onnx, optimum) store external weights.
_EXTERNAL_WEIGHTS = (".data", "_data")


class OnnxBackbone(Backbone):
    """A network in an ONNX Runtime session.

    A uint8 input is (n, S, S, 3), and the network itself normalizes it; a float input is
    (n, 3, S, S) and is normalized here as ``(x / 255 - mean) / std``. The first output is (n, d),
    or (n, d, h, w), which is averaged over h and w.
    """

    def __init__(
        self,
        name: str,
        session: ForkSafeSession,
        *,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        self._session = session
        self._input = session.here.get_inputs()[0]
        self._output = session.here.get_outputs()[0].name
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
        batches = [self._run(x[start : start + step]) for start in range(0, len(x), step)]
        return np.concatenate(batches)[:count]

    def _run(self, x: np.ndarray) -> np.ndarray:
        try:
            (out,) = self._session.here.run(
                [self._output], {self._input.name: np.ascontiguousarray(x)}
            )
        except Exception as error:  # ONNX Runtime's errors have no common public base
            raise BackboneError(
                f"backbone {self.name!r} failed on an input of shape {x.shape} and dtype {x.dtype} "
                f"({first_line(error)}); expected a network for (n, 3, S, S) float or "
                "(n, S, S, 3) uint8."
            ) from error
        if out.ndim == 4:
            out = out.mean(axis=(2, 3), dtype=np.float32)
        if out.ndim != 2 or len(out) != len(x):
            raise BackboneError(
                f"backbone {self.name!r} returned shape {out.shape}; expected ({len(x)}, d) or "
                f"({len(x)}, d, h, w); export the network with pooled features as first output."
            )
        return out.astype(np.float32, copy=False)


def load_onnx(name: str, path: str, device: str, threads: int | None) -> Backbone:
    """Load ``onnx:FILE``.

    Parameters
    ----------
    name, path : str
        The full name of the backbone, and the file in it. A file ``FILE.json`` beside it may
        give ``size``, ``mean``, ``std``, ``resize``, ``crop_fraction`` and ``interpolation``.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int or None
        Threads on the CPU; None for all cores.

    Returns
    -------
    Backbone
        See `OnnxBackbone`. The size is that of the graph, else that of the sidecar, else 224; the
        normalization of a float input is that of the sidecar, else that of ImageNet.

    Raises
    ------
    BackboneError
        If the file is missing or is not such a network.
    """
    files = [path, *(path + end for end in _EXTERNAL_WEIGHTS if os.path.isfile(path + end))]
    weights_hash = hash_model_files(name, files)

    def open_again() -> InferenceSession:
        if hash_model_files(name, files) != weights_hash:
            raise BackboneError(
                f"{path} has changed since backbone {name!r} was loaded; load it again."
            )
        return open_session(path, device, threads, name)

    session = ForkSafeSession(open_session(path, device, threads, name), open_again)
    inputs = session.here.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise BackboneError(
            f"{path} has the inputs {found}; expected a single one, (n, 3, S, S) float or "
            "(n, S, S, 3) uint8."
        )
    takes_uint8 = inputs[0].type == "tensor(uint8)"
    height, width = inputs[0].shape[1:3] if takes_uint8 else inputs[0].shape[2:]
    channels = inputs[0].shape[3 if takes_uint8 else 1]
    if channels not in (3, None) and not isinstance(channels, str):
        raise BackboneError(
            f"{path} has an input of shape {inputs[0].shape} and type {inputs[0].type}; expected "
            "three channels, (n, 3, S, S) float or (n, S, S, 3) uint8."
        )
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise BackboneError(
            f"{path} has an input of {height} x {width} pixels; expected a square input."
        )
    size = next((side for side in (height, width) if isinstance(side, int)), None)
    preprocessing, mean, std = read_sidecar(path, size)
    return OnnxBackbone(
        name,
        session,
        preprocessing=preprocessing,
        weights_hash=weights_hash,
        device=device,
        mean=None if takes_uint8 else mean,
        std=None if takes_uint8 else std,
    )


def hash_model_files(name: str, paths: Sequence[str]) -> str:
    """`hash_files`, with an error that names the backbone if a file cannot be read."""
    try:
        return hash_files(paths)
    except OSError as error:
        raise BackboneError(
            f"backbone {name!r} cannot be loaded: {error.filename or paths[0]} cannot be read "
            f"({error.strerror}); give the path of an existing file."
        ) from error


def read_sidecar(path: str, size: int | None) -> tuple[Preprocessing, list[float], list[float]]:
    """Read preprocessing, mean and deviation from ``path + ".json"``, or return defaults.

    Parameters
    ----------
    path : str
        File of the model.
    size : int or None
        Side of the input if the model itself determines it.

    Raises
    ------
    BackboneError
        If the file is not a JSON object with known names and valid values, or contradicts the
        model.
    """
    sidecar = Path(path + ".json")
    values: Any = {}
    if sidecar.exists():
        try:
            values = json.loads(sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BackboneError(
                f"{sidecar} cannot be read as JSON ({error}); correct or remove it."
            ) from error
    if not isinstance(values, dict):
        raise BackboneError(
            f"{sidecar} holds a value of type {type(values).__name__}; expected a JSON object."
        )
    mean, std = check_normalization(
        str(sidecar), values.pop("mean", list(IMAGENET_MEAN)), values.pop("std", list(IMAGENET_STD))
    )
    if size is not None and values.setdefault("size", size) != size:
        raise BackboneError(
            f"{sidecar}: size is {values['size']}; expected {size}, the size of the model."
        )
    try:
        return Preprocessing.from_dict(values), mean, std
    except InvalidInputError as error:
        raise BackboneError(f"{sidecar}: {error}") from error
