"""`TorchBackbone`: networks run by PyTorch, and those of TorchScript files.

Published networks (`published`) run here, and the embedded ones on a GPU. The features of an image
may depend in the last bits on the batch that it is in, because PyTorch chooses its kernels by batch
size; the same batch gives the same bits.

On a GPU a batch is copied to pinned memory and from there to the device while the network still
encodes the one before it, and convolutions have the layout that tensor cores take (channels last).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from hyperpq.backbones.base import (
    BATCH_SIZE,
    Backbone,
    Precision,
    first_line,
)
from hyperpq.backbones.onnx_runtime import hash_model_files, read_sidecar
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError
from hyperpq.utils.float32 import whole_float32
from hyperpq.utils.imports import need_torch

if TYPE_CHECKING:
    import torch

# Images of 224 pixels in a batch on a GPU, with this much memory and with less; larger images are
# fewer. A batch of 256 takes some 3 GB in EfficientNet-Lite0 and float32.
_GPU_BATCH, _SMALL_GPU_BATCH, _SMALL_GPU = 256, 64, 12 << 30
_GPU_SIDE = 224


class TorchBackbone(Backbone):
    """A PyTorch module that takes (n, 3, S, S) float32 images.

    The input is normalized here. The output of the module is (n, d), or (n, d, h, w), which is
    averaged over h and w; d is determined by a trial run.

    Parameters
    ----------
    precision : {"float32", "bfloat16", "float16"}
        What the identity of the network records.
    computes_in : {"float32", "bfloat16", "float16"}, optional
        What it multiplies and convolves in; unless given, ``precision`` on a GPU and float32 on a
        CPU. In float32 neither TF32 nor another short form is used. Of the shorter types PyTorch's
        autocast decides which operations keep float32; features are float32.

    Attributes
    ----------
    module : torch.nn.Module
        The module, on the device.
    """

    def __init__(
        self,
        name: str,
        module: torch.nn.Module,
        *,
        preprocessing: Preprocessing,
        weights_hash: str,
        device: str,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Precision = "float32",
        computes_in: Precision | None = None,
    ) -> None:
        import torch

        _one_thread_after_fork()
        super().__init__(name, 0, preprocessing, weights_hash, device, mean=mean, std=std)
        self.precision = precision
        on_gpu = torch.device(device).type == "cuda"
        computes_in = computes_in or (precision if on_gpu else "float32")
        self._half = None if computes_in == "float32" else getattr(torch, computes_in)
        self.module = module.eval().to(device)
        if on_gpu:
            # The stubs of PyTorch do not know the argument.
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            memory = torch.cuda.get_device_properties(device).total_memory
            self.batch_size = gpu_batch_size(preprocessing.size, memory)
            self.batches_in_flight = 1
        self._mean = torch.tensor(self.mean, device=device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(self.std, device=device).reshape(1, 3, 1, 1)
        size = preprocessing.size
        self.d = int(self._features(np.zeros((1, size, size, 3), np.uint8)).shape[1])

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        return self._begin(pixels)()

    def _begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        import torch

        try:
            with whole_float32(), torch.inference_mode(), self._autocast():
                x = _to_device(pixels, self.device).permute(0, 3, 1, 2).float()
                out = self.module((x / 255 - self._mean) / self._std)
                if isinstance(out, torch.Tensor) and out.ndim == 4:
                    out = out.float().mean(dim=(2, 3))
                if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != len(x):
                    found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out)
                    raise BackboneError(
                        f"backbone {self.name!r} returned {found}; expected a tensor of shape "
                        f"({len(x)}, d) or ({len(x)}, d, h, w); choose one with pooled output."
                    )
                collect = _from_device(out.float())
        except RuntimeError as error:
            raise self._failed(len(pixels), error) from error

        def features() -> np.ndarray:
            try:
                return collect()
            except RuntimeError as error:
                raise self._failed(len(pixels), error) from error

        return features

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        import torch

        if self._half is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self._half)

    def _failed(self, n: int, error: RuntimeError) -> BackboneError:  # also out of memory
        return BackboneError(
            f"backbone {self.name!r} failed on {n} images of "
            f"{self.preprocessing.size} pixels on {self.device} ({first_line(error)}); "
            "use device 'cpu' or another backbone."
        )


def gpu_batch_size(side: int, memory: int) -> int:
    """Images in a batch on a GPU with this many bytes of memory: a multiple of 32.

    The number depends on nothing else, so that the same images have the same features on the same
    kind of GPU.
    """
    most = _GPU_BATCH if memory >= _SMALL_GPU else _SMALL_GPU_BATCH
    fitting = int(most * min(1.0, (_GPU_SIDE / side) ** 2))
    return max(BATCH_SIZE, fitting // BATCH_SIZE * BATCH_SIZE)


def _to_device(pixels: np.ndarray, device: str) -> torch.Tensor:
    """A copy on a device; a GPU may still be copying when this returns."""
    import torch

    if torch.device(device).type != "cuda":
        return torch.tensor(pixels, device=device)
    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
    # PyTorch keeps the pinned memory until the copy is done.
    pinned.numpy()[...] = pixels
    return pinned.to(device, non_blocking=True)


def _from_device(features: torch.Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy features from their device; the result waits for them."""
    import torch

    if features.device.type != "cuda":
        here = np.asarray(features.cpu().numpy())
        return lambda: here
    pinned = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
    with torch.cuda.device(features.device):
        pinned.copy_(features, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

    def wait() -> np.ndarray:
        done.synchronize()
        return np.asarray(pinned.numpy())

    return wait


@functools.cache
def _one_thread_after_fork() -> None:
    """Let a forked child use PyTorch, which would wait for threads that the fork did not copy."""
    import torch

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def load_torchscript(name: str, path: str, device: str) -> Backbone:
    """Load ``torchscript:FILE``; a file ``FILE.json`` beside it is read as for ``onnx:FILE``.

    A TorchScript file is a program: load only files from a source that you trust.

    Raises
    ------
    BackboneError
        If the file is missing or is not such a network.
    """
    need_torch("TorchScript networks")
    import torch

    weights_hash = hash_model_files(name, [path])
    preprocessing, mean, std = read_sidecar(path, None)
    try:
        module = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{path} is not a TorchScript file ({first_line(error)}); write one with "
            "torch.jit.trace(...).save(...)."
        ) from error
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
    """xxh3_128 of a state dict, hexadecimal: names, shapes, dtypes and values, sorted by name."""
    import torch

    digest = xxhash.xxh3_128()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # As bytes, since NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
