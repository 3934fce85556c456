"""Features of many images by a network that is being fine-tuned, and its statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.datasets.device_resize import resize_squares
from hyperpq.progress import Phase
from hyperpq.training.finetune_images import TrainingImages, ahead, load_squares

# Images in a batch, without gradients.
_BATCH_CPU, _BATCH_CUDA = 32, 256
# Images that the statistics of batch normalization are computed from.
_STATISTICS_IMAGES = 2048


def precision(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """bfloat16 where a GPU has it, float32 on a CPU."""
    is_cuda = device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_cuda)


def batches(
    images: TrainingImages, rows: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Squares on the device, a batch at a time, with their places in ``rows``."""
    pinned = device.type == "cuda"
    size = _BATCH_CUDA if pinned else _BATCH_CPU
    places = [slice(start, start + size) for start in range(0, len(rows), size)]
    jobs = [partial(load_squares, images, rows[place], pinned=pinned) for place in places]
    for place, pixels in zip(places, ahead(jobs), strict=True):
        yield place, pixels.to(device, non_blocking=True)


@torch.no_grad()
def network_features(
    network: TrainableNetwork,
    images: TrainingImages,
    rows: NDArray[np.int64],
    phase: Phase,
    make: Callable[[Tensor, NDArray[np.int64]], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Features (n, d) of images; of each the mean with its mirrored one.

    Parameters
    ----------
    network : TrainableNetwork
        In evaluation mode.
    images : TrainingImages
        Where the images come from.
    rows : ndarray, shape (n,), int64
        Which of them.
    phase : Phase
        Told about each image.
    make : callable, optional
        Makes the input (b, 3, S, S), from 0 to 255, of squares and their rows: views, of which no
        mirrored ones are taken.
    """
    found: list[Tensor] = []
    for place, pixels in batches(images, rows, network.device):
        with precision(network.device):
            if make is not None:
                features = network(make(pixels, rows[place]))
            else:
                x = resize_squares(pixels, network.size)
                features = (network(x) + network(x.flip(3))) / 2
        found.append(features.cpu())
        phase.advance(len(pixels))
    return np.ascontiguousarray(torch.cat(found).numpy(), np.float32)


def plain_squares(size: int) -> Callable[[Tensor, NDArray[np.int64]], Tensor]:
    """For `network_features`: whole images, without the mean with mirrored ones."""

    def make(pixels: Tensor, rows: NDArray[np.int64]) -> Tensor:
        return resize_squares(pixels, size)

    return make


def rooted(x: NDArray[np.float32], of: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors of features: signed roots, minus the mean root of the features ``of``."""
    mean = (np.sign(of) * np.sqrt(np.abs(of))).mean(0, dtype=np.float64).astype(np.float32)
    z = np.sign(x) * np.sqrt(np.abs(x)) - mean
    return np.asarray(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))


@torch.no_grad()
def recalibrate(network: TrainableNetwork, images: TrainingImages, rows: NDArray[np.int64]) -> None:
    """Compute the statistics of the batch normalizations that learn anew, from plain images.

    In training they follow augmented views of another size, and in few steps only a part of the
    way.
    """
    norms = network.batch_norms()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    # All else as in a search: without dropout and skipped blocks.
    network.eval()
    for norm in norms:
        norm.train()
    step = max(1, len(rows) // _STATISTICS_IMAGES)
    for _, pixels in batches(images, rows[::step][:_STATISTICS_IMAGES], network.device):
        # A smaller last batch would count as much as the others.
        with precision(network.device):
            network(resize_squares(pixels, network.size))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
