"""The start of a training: a PCA head and, if they are learned with it, k-means codebooks."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.quantizers.fit_product import fit_codebooks
from hyperpq.training.features import BATCH_ROWS, tangent_vectors
from hyperpq.training.recipe import Recipe
from hyperpq.training.task import TrainingTask

# Bits of a subquantizer on the subspaces that a representation is learned on.
LEARNING_NBITS = 8
# Attention sharpness beta, times the median squared distance to the nearest codeword.
ATTENTION_SHARPNESS = 2.0
# Features that set the scale of the head, at most about so many, and the attention sharpness.
_SCALE_ROWS = _SHARPNESS_ROWS = 8192
# Standard deviation of the entries of directions that the data don't have, times sqrt(d).
_EMPTY_DIRECTION_NOISE = 1e-3
# Deviations along directions, and lengths of tangent vectors, under these shares of the largest are
# rounding errors.
_MIN_DEVIATION, _MIN_LENGTH = 1e-9, 1e-6


def initialize_codec(task: TrainingTask) -> HiHPQCodec:
    """The codec that learning starts with.

    Parameters
    ----------
    task : TrainingTask
        What is trained.

    Returns
    -------
    HiHPQCodec
        On the device of the task, in evaluation mode. Its head is PCA. Its codebooks are fitted if
        they are learned with the head, and zero otherwise; so it doesn't count as trained.
    """
    recipe = task.recipe
    codec = HiHPQCodec(_config(task))
    codec.recipe = recipe.to_dict()
    codec.to(task.device).eval()
    with torch.no_grad():
        fit_normalization(codec, task.x)
        codec.quantizer.log_c.fill_(math.log(recipe.representation.curvature))
    fit_head(codec, task.x, recipe.representation.radius, task.seed)
    if recipe.learns_codebooks:
        initialize_codebooks(codec, task.x, recipe, task.seed)
    initialize_branch(codec, task.seed)
    return codec


def _config(task: TrainingTask) -> CodecConfig:
    representation, codebooks = task.recipe.representation, task.recipe.codebooks
    M = representation.subspaces or task.M
    return CodecConfig(
        task.x.shape[1],
        M,
        LEARNING_NBITS if representation.subspaces else task.nbits,
        max(1, representation.width // M),
        metric=task.metric,
        # If the data decide, `initialize_codebooks` sets it.
        beta=codebooks.beta or 1.0,
        max_norm=representation.max_norm,
        normalization=representation.normalization,
        head=representation.head,
        hidden=representation.hidden,
        dropout=representation.dropout,
        smoothing_weight=codebooks.smoothing_weight,
        smoothing_neighbours=codebooks.smoothing_neighbours,
        temperature=task.recipe.contrast.temperature,
        distil_epochs=codebooks.distil_epochs,
        geometry=representation.geometry,
    )


def fit_normalization(codec: HiHPQCodec, x: NDArray[np.float32]) -> None:
    """Set the mean of the signed square roots of features (n, d), which ``power`` subtracts."""
    if codec.config.normalization == "power":
        total = np.zeros(codec.d)
        for start in range(0, len(x), BATCH_ROWS):
            batch = x[start : start + BATCH_ROWS]
            total += (np.sign(batch) * np.sqrt(np.abs(batch))).sum(0, dtype=np.float64)
        codec.mean.copy_(torch.from_numpy((total / len(x)).astype(np.float32)))


@torch.no_grad()
def fit_head(codec: HiHPQCodec, x: NDArray[np.float32], radius: float, seed: int) -> None:
    """Set the head to PCA, scaled to a median length of the tangent vectors of a subspace.

    The directions are dealt out to the subspaces in turn, so that every subspace has its share of
    the strong ones. Directions that the data don't have (few images, d < M x D) start as small
    noise.

    Parameters
    ----------
    codec : HiHPQCodec
        Its head is changed.
    x : ndarray, shape (n, d), float32
        Features.
    radius : float
        The median length.
    seed : int
        Of the noise.
    """
    q = codec.quantizer
    width = q.M * q.D
    mean, variances, axes = _principal_axes(codec, x)
    found = min(width, codec.d)
    axes, deviations = axes[:, :found], variances[:found].clamp_min(0).sqrt()
    if codec.config.head == "linear":
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(codec.d, width, generator=generator, dtype=torch.float64)
        noise *= _EMPTY_DIRECTION_NOISE / codec.d**0.5
        empty = deviations <= _MIN_DEVIATION * deviations.max().clamp_min(1e-30)
        axes = torch.where(empty, noise[:, :found], axes)
        axes = torch.cat([axes, noise[:, found:]], 1)
    in_turn = torch.arange(width).view(q.D, q.M).T.flatten()
    axes = axes[:, in_turn]
    sample = torch.tensor(x[:: max(1, len(x) // _SCALE_ROWS)], device=codec.device)
    v = (codec.normalize(sample).cpu().double() - mean) @ axes
    lengths = v.unflatten(1, (q.M, q.D)).norm(dim=2)
    # Two or three features leave subspaces with nothing but rounding errors in them.
    filled = lengths[lengths > _MIN_LENGTH * lengths.max()]
    factor = radius / max(float(filled.median()) if len(filled) else 1.0, 1e-12)
    if codec.config.head == "orthogonal":
        codec.scale.fill_(factor)
        codec.weight.copy_(axes.float())
    else:
        codec.weight.copy_((axes * factor).float())
    codec.bias.copy_((-(mean @ axes) * factor).float())


def _principal_axes(codec: HiHPQCodec, x: NDArray[np.float32]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,) of the normalized features, and variances (d,) and axes (d, d), largest first."""
    second, mean = torch.zeros(codec.d, codec.d, dtype=torch.float64), torch.zeros(codec.d).double()
    for start in range(0, len(x), BATCH_ROWS):
        batch = torch.tensor(x[start : start + BATCH_ROWS], device=codec.device)
        normalized = codec.normalize(batch).cpu().double()
        second += normalized.T @ normalized
        mean += normalized.sum(0)
    mean /= len(x)
    variances, axes = torch.linalg.eigh(second / len(x) - torch.outer(mean, mean))
    axes = axes.flip(1)
    # eigh leaves signs free: the largest entry of each direction is made positive.
    largest = axes.abs().argmax(0)
    return mean, variances.flip(0), axes * axes[largest, torch.arange(codec.d)].sign()


@torch.no_grad()
def initialize_codebooks(
    codec: HiHPQCodec, x: NDArray[np.float32], recipe: Recipe, seed: int
) -> None:
    """Set codebooks by k-means, and the attention sharpness if the recipe leaves it to the data.

    Parameters
    ----------
    codec : HiHPQCodec
        Its quantizer is changed.
    x : ndarray, shape (n, d), float32
        Features.
    recipe : Recipe
        Of the training.
    seed : int
        Of k-means.
    """
    v, q = tangent_vectors(codec, x), codec.quantizer
    fit_codebooks(q, v, seed=seed)
    if not recipe.codebooks.beta:
        points = q.points(v[:_SHARPNESS_ROWS].to(codec.device))
        words = q.codewords()[torch.arange(q.M), q.codes(points).long()]
        nearest = float(q.geometry.sqchord(points, words, q.c).median())
        codec.set_beta(ATTENTION_SHARPNESS / max(nearest, 1e-6))


@torch.no_grad()
def initialize_branch(codec: HiHPQCodec, seed: int) -> None:
    """Set the residual branch: random weights in, zeros out, so that it adds nothing yet."""
    if codec.config.hidden:
        generator = torch.Generator().manual_seed(seed)
        bound = codec.d**-0.5
        for value in (codec.up, codec.up_bias):
            value.copy_(bound * (2 * torch.rand(value.shape, generator=generator) - 1))
