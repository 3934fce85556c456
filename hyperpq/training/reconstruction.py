"""The objective ``fidelity``: codes that keep the exact neighbours of the features.

Of a vector the leading principal components are kept, and its squared distance to the mean.
Additive codes quantize them. With the metric cosine vectors have unit length, and both are affine
functions of the vector. See docs/method/fidelity.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.sample import evenly
from hyperpq.errors import InvalidInputError
from hyperpq.progress import ProgressLike
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.quantizers.fit_additive import fit_additive
from hyperpq.quantizers.flat_metrics import FidelityMetric
from hyperpq.training.features import BATCH_ROWS, tangent_vectors
from hyperpq.training.task import TrainingTask
from hyperpq.utils.devices import single_thread

# Rows that are learned from at most: 168 MB at d = 1280.
MAX_ROWS = 1 << 15
# Principal components that are kept: this many, or one for each bit of a longer code. At 128 bits,
# with 64 and 128 of them recall@10 is .737 and .831 (scenes).
MIN_COMPONENTS = 64
# Scales are 2^-63 to 2^63: their squares are float32.
_MAX_EXPONENT = 63


@dataclass(frozen=True)
class FidelityHead:
    """The map of a feature to what `AdditiveQuantizer` takes, see `AdditiveCodec`.

    Attributes
    ----------
    weight : Tensor, shape (d, D), float32
    bias : Tensor, shape (D,), float32
    mean : Tensor, shape (d,), float32
    scale : float
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: float

    def put_into(self, codec: AdditiveCodec) -> None:
        """Give the map to a codec."""
        with torch.no_grad():
            for name in ("weight", "bias", "mean"):
                getattr(codec, name).copy_(getattr(self, name))
            codec.scale.fill_(self.scale)


@dataclass(frozen=True)
class FidelityState:
    """What `fit_fidelity` learned, and an `AdditiveCodec` takes over.

    Attributes
    ----------
    head : FidelityHead
    quantizer : AdditiveQuantizer
    """

    head: FidelityHead
    quantizer: AdditiveQuantizer


def train_fidelity(
    task: TrainingTask, progress: ProgressLike = None, *, metric: FidelityMetric = "cosine"
) -> AdditiveCodec:
    """Learn the codec of a task.

    Parameters
    ----------
    task : TrainingTask
        What is trained. Of its recipe only the epochs count.
    progress : Progress or bool, optional
        Told about each epoch.
    metric : {"cosine", "l2", "ip"}
        Whose neighbours codes keep.

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
        metric=metric,
        seed=task.seed,
        epochs=task.epochs,
        device=task.device,
        progress=progress,
    )
    codec = AdditiveCodec(
        AdditiveConfig(
            x.shape[1],
            task.M,
            task.nbits,
            state.quantizer.D,
            normalization="unit" if metric == "cosine" else "none",
            metric=metric,
        )
    )
    state.head.put_into(codec)
    codec.quantizer = state.quantizer
    codec.recipe = task.recipe.to_dict()
    sample = evenly(x)
    if metric == "cosine":
        sample = scaled_rows(sample)
    codec.to(task.device).keep_sample(tangent_vectors(codec, sample))
    codec.is_trained = True
    return codec.eval()


@single_thread()
def fit_fidelity(
    x: NDArray[np.float32],
    M: int,
    nbits: int = 8,
    *,
    metric: FidelityMetric = "cosine",
    seed: int,
    epochs: int = 16,
    device: str = "cpu",
    progress: ProgressLike = None,
) -> FidelityState:
    """Learn a linear head and codebooks that keep exact neighbours.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features, n >= 1. Of more than `MAX_ROWS` rows that many are taken evenly.
    M : int
        Number of codebooks.
    nbits : {4, 8}
        Bits of one code.
    metric : {"cosine", "l2", "ip"}
        Whose neighbours.
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
    rows, components = x[:: -(-len(x) // MAX_ROWS)], max(MIN_COMPONENTS, M * nbits)
    if metric == "cosine":
        unit = torch.from_numpy(unit_rows(rows))
        head = fit_unit_head(unit, components)
        v = torch.cat([b @ head.weight + head.bias for b in unit.split(BATCH_ROWS)])
    else:
        centered = metric == "l2"
        head = fit_head(torch.tensor(rows), components, is_centered=centered)
        codec = AdditiveCodec(
            AdditiveConfig(x.shape[1], 1, D=len(head.bias), normalization="none", metric=metric)
        )
        head.put_into(codec)
        v = tangent_vectors(codec, rows)[:, 0]
    quantizer = fit_additive(
        v, M, nbits, metric=metric, seed=seed, epochs=epochs, device=device, progress=progress
    )
    return FidelityState(head, quantizer)


def unit_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, d) of unit length; a row of zeros stays zero."""
    scaled = scaled_rows(x)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return (scaled / np.where(length > 0, length, 1)).astype(np.float32)


def scaled_rows(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, d) times powers of two, so that the largest value of each is from 0.5 to 1.

    Squares of larger and of smaller values leave float32. No bit of a direction changes.
    """
    largest = np.abs(x).max(1, keepdims=True)
    return np.ldexp(x, -np.frexp(largest)[1])


def fit_unit_head(unit: Tensor, components: int) -> FidelityHead:
    """The map of unit vectors (n, d).

    With the mean m and the principal directions A, ``y = A^T (x - m)`` and
    ``s = |x - m|^2 = 1 + |m|^2 - 2 <m, x>``.
    """
    mean = unit.mean(0, dtype=torch.float64)
    axes = _axes(unit, mean, components)
    weight = torch.cat([axes, -2 * mean[:, None]], 1)
    bias = torch.cat([-mean @ axes, (1 + mean @ mean)[None]])
    return FidelityHead(weight.float(), bias.float(), torch.zeros(len(mean)), 1.0)


def fit_head(x: Tensor, components: int, *, is_centered: bool) -> FidelityHead:
    """The map of vectors (n, d) whose lengths count, centered or not.

    The scale makes their mean squared length about 1. It is a power of two, so that no bit of a
    distance changes.
    """
    mean = x.mean(0, dtype=torch.float64) if is_centered else x.new_zeros(x.shape[1]).double()
    mean = mean.float()
    axes = _axes(x, mean.double(), components)
    length = sum(
        float((block.double() - mean.double()).square().sum()) for block in x.split(BATCH_ROWS)
    ) / len(x)
    exponent = round(math.log2(length) / 2) if length > 0 else 0
    scale = 2.0 ** -min(max(exponent, -_MAX_EXPONENT), _MAX_EXPONENT)
    weight = torch.cat([axes, axes.new_zeros(len(axes), 1)], 1)
    return FidelityHead(weight.float(), torch.zeros(weight.shape[1]), mean, scale)


def _axes(x: Tensor, center: Tensor, components: int) -> Tensor:
    """Up to so many leading directions (d, D - 1) of vectors (n, d) about a center (d,)."""
    d = x.shape[1]
    second = torch.zeros(d, d, dtype=torch.float64)
    for block in x.split(BATCH_ROWS):
        centered = block.double() - center
        second += centered.T @ centered
    axes = torch.linalg.eigh(second)[1].flip(1)[:, :components]
    # eigh leaves signs free: the largest entry of each direction is made positive.
    return axes * torch.where(axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1, 1)
