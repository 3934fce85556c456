"""The objective ``fidelity``: codes that keep the exact cosine neighbours of the features.

Of a unit vector the leading principal components are kept, and its squared distance to the mean.
Both are affine functions of the vector, so the linear head of a codec computes them; additive codes
quantize them. See docs/method/fidelity.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.learned import evenly
from hyperpq.errors import InvalidInputError
from hyperpq.progress import ProgressLike
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.quantizers.fit_additive import fit_additive
from hyperpq.training.features import BATCH_ROWS, tangent_vectors
from hyperpq.training.task import TrainingTask
from hyperpq.utils.devices import single_thread

# Rows that are learned from at most: 168 MB at d = 1280.
MAX_ROWS = 1 << 15
# Principal components that are kept.
MAX_COMPONENTS = 64


@dataclass(frozen=True)
class FidelityState:
    """What `fit_fidelity` learned, and an `AdditiveCodec` of unit vectors takes over.

    Attributes
    ----------
    weight : Tensor, shape (d, D), float32
    bias : Tensor, shape (D,), float32
        Together: unit vectors to what `AdditiveQuantizer` takes.
    quantizer : AdditiveQuantizer
    """

    weight: Tensor
    bias: Tensor
    quantizer: AdditiveQuantizer


def train_fidelity(task: TrainingTask, progress: ProgressLike = None) -> AdditiveCodec:
    """Learn the codec of a task.

    Parameters
    ----------
    task : TrainingTask
        What is trained. Of its recipe only the epochs count.
    progress : Progress or bool, optional
        Told about each epoch.

    Returns
    -------
    AdditiveCodec
        Trained, in evaluation mode, on the device of the task.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As `fit_fidelity`.
    """
    x = task.x
    state = fit_fidelity(
        x,
        task.M,
        task.nbits,
        seed=task.seed,
        epochs=task.epochs,
        device=task.device,
        progress=progress,
    )
    codec = AdditiveCodec(
        AdditiveConfig(x.shape[1], task.M, task.nbits, state.quantizer.D, normalization="unit")
    )
    with torch.no_grad():
        codec.weight.copy_(state.weight)
        codec.bias.copy_(state.bias)
    codec.quantizer = state.quantizer
    codec.recipe = task.recipe.to_dict()
    codec.to(task.device).keep_sample(tangent_vectors(codec, evenly(x)))
    codec.is_trained = True
    return codec.eval()


@single_thread()
def fit_fidelity(
    x: NDArray[np.float32],
    M: int,
    nbits: int = 8,
    *,
    seed: int,
    epochs: int = 16,
    device: str = "cpu",
    progress: ProgressLike = None,
) -> FidelityState:
    """Learn a linear head and codebooks that keep exact cosine neighbours.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features, n >= 1. Of more than `MAX_ROWS` rows that many are taken evenly.
    M : int
        Number of codebooks.
    nbits : {4, 8}
        Bits of one code.
    seed : int
        Of every random choice: the same seed gives the same result on the same machine.
    epochs : int
        Passes over the rows; 0 leaves the start as it is.
    device : str
        Torch device that the refinement runs on.
    progress : Progress or bool, optional
        Told about each epoch.

    Returns
    -------
    FidelityState
        On the CPU.

    Raises
    ------
    InvalidInputError
        No rows, M or nbits out of range.
    MissingDependencyError
        faiss isn't installed.
    """
    if len(x) < 1 or M < 1 or nbits not in (4, 8):
        raise InvalidInputError(
            f"x has {len(x)} rows, M is {M} and nbits {nbits}; expected at least 1 row, M of at "
            "least 1 and nbits of 8 or 4."
        )
    rows = x[:: -(-len(x) // MAX_ROWS)]
    unit = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
    weight, bias = fit_fidelity_head(unit)
    v = torch.cat([block @ weight + bias for block in unit.split(BATCH_ROWS)])
    quantizer = fit_additive(
        v, M, nbits, seed=seed, epochs=epochs, device=device, progress=progress
    )
    return FidelityState(weight, bias, quantizer)


def fit_fidelity_head(unit: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (d, D) and bias (D,) of the map from unit vectors (n, d) to (y, s).

    With the mean m and the principal directions A, ``y = A^T (x - m)`` and
    ``s = |x - m|^2 = 1 + |m|^2 - 2 <m, x>``.
    """
    d = unit.shape[1]
    second, mean = torch.zeros(d, d, dtype=torch.float64), unit.mean(0, dtype=torch.float64)
    for block in unit.split(BATCH_ROWS):
        centered = block.double() - mean
        second += centered.T @ centered
    axes = torch.linalg.eigh(second)[1].flip(1)[:, :MAX_COMPONENTS]
    # eigh leaves signs free: the largest entry of each direction is made positive.
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1, 1)
    weight = torch.cat([axes, -2 * mean[:, None]], 1)
    bias = torch.cat([-mean @ axes, (1 + mean @ mean)[None]])
    return weight.float(), bias.float()
