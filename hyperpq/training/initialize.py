"""Where training starts: conditioning, PCA head and k-means codebooks; and their repair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.learned import LearnedCodec
from hyperpq.quantizers.fit_product import fit_codebooks
from hyperpq.training.recipe import Recipe

_ROWS = 8192
# beta times the median squared distance to the nearest codeword.
SHARPNESS = 2.0


def start_codec(
    x: NDArray[np.float32],
    M: int,
    nbits: int,
    metric: Metric,
    recipe: Recipe,
    seed: int,
    device: str,
) -> HiHPQCodec:
    """The codec that learning starts with: PCA, and codebooks if they are learned with the head."""
    learned_M = recipe.representation.subspaces or M
    config = CodecConfig(
        x.shape[1],
        learned_M,
        8 if recipe.representation.subspaces else nbits,
        max(1, recipe.representation.width // learned_M),
        metric=metric,
        beta=recipe.codebooks.beta or 1.0,
        max_norm=recipe.representation.max_norm,
        normalization=recipe.representation.normalization,
        head=recipe.representation.head,
        hidden=recipe.representation.hidden,
        dropout=recipe.representation.dropout,
        smoothing_weight=recipe.codebooks.smoothing_weight,
        smoothing_neighbours=recipe.codebooks.smoothing_neighbours,
        temperature=recipe.contrast.temperature,
        distil_epochs=recipe.codebooks.distil_epochs,
        geometry=recipe.representation.geometry,
    )
    codec = HiHPQCodec(config)
    codec.recipe = recipe.to_dict()
    codec.to(device).eval()
    with torch.no_grad():
        fit_conditioning(codec, x)
        codec.quantizer.log_c.fill_(math.log(recipe.representation.curvature))
    fit_head(codec, x, recipe.representation.radius, seed)
    if recipe.learns_codebooks:
        start_codebooks(codec, x, seed)
    fill_branch(codec, seed)
    return codec


def fit_conditioning(codec: HiHPQCodec, x: NDArray[np.float32]) -> None:
    """Set the mean of the signed roots (``root`` only)."""
    if codec.config.normalization == "power":
        total = np.zeros(codec.d)
        for start in range(0, len(x), _ROWS):
            block = x[start : start + _ROWS]
            total += (np.sign(block) * np.sqrt(np.abs(block))).sum(0, dtype=np.float64)
        codec.mean.copy_(torch.from_numpy((total / len(x)).astype(np.float32)))


@torch.no_grad()
def fit_head(codec: HiHPQCodec, x: NDArray[np.float32], radius: float, seed: int) -> None:
    """PCA directions, dealt out to the subspaces in turn, scaled to a median radius.

    Dealing in turn gives every subspace its share of the strong directions. Directions that the
    data don't have (few images, d < M x D) start as small noise.
    """
    q, device = codec.quantizer, codec.device
    second, mean = torch.zeros(codec.d, codec.d, dtype=torch.float64), torch.zeros(codec.d).double()
    for start in range(0, len(x), _ROWS):
        block = (
            codec.normalize(torch.tensor(x[start : start + _ROWS], device=device)).cpu().double()
        )
        second += block.T @ block
        mean += block.sum(0)
    mean /= len(x)
    values, vectors = torch.linalg.eigh(second / len(x) - torch.outer(mean, mean))
    width = q.M * q.D
    have = min(width, codec.d)
    axes = vectors.flip(1)[:, :have]
    # eigh leaves signs free: the largest entry of each direction is made positive.
    largest = axes.abs().argmax(0)
    axes = axes * axes[largest, torch.arange(have)].sign()
    spread = values.flip(0)[:have].clamp_min(0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    if codec.config.head == "linear":
        noise = torch.randn(codec.d, width, generator=generator, dtype=torch.float64)
        noise *= 1e-3 / codec.d**0.5
        empty = spread <= 1e-9 * spread.max().clamp_min(1e-30)
        axes = torch.where(empty, noise[:, :have], axes)
        axes = torch.cat([axes, noise[:, have:]], 1)
    deal = torch.arange(width).view(q.D, q.M).T.flatten()
    axes = axes[:, deal]
    sample = torch.tensor(x[:: max(1, len(x) // _ROWS)], device=device)
    v = (codec.normalize(sample).cpu().double() - mean) @ axes
    norms = v.unflatten(1, (q.M, q.D)).norm(dim=2)
    # Two or three features leave subspaces with nothing but rounding errors in them.
    real = norms[norms > 1e-6 * norms.max()]
    factor = radius / max(float(real.median()) if len(real) else 1.0, 1e-12)
    if codec.config.head == "orthogonal":
        codec.scale.fill_(factor)
        codec.weight.copy_(axes.float())
    else:
        codec.weight.copy_((axes * factor).float())
    codec.bias.copy_((-(mean @ axes) * factor).float())


@torch.no_grad()
def tangents(codec: LearnedCodec, x: NDArray[np.float32]) -> Tensor:
    """Unclipped tangent vectors of features, shape (n, M, D), on the CPU."""
    blocks = [
        codec.tangent(torch.tensor(x[start : start + _ROWS], device=codec.device)).cpu()
        for start in range(0, len(x), _ROWS)
    ]
    return torch.cat(blocks)


@torch.no_grad()
def conditioned(codec: HiHPQCodec, x: NDArray[Any]) -> NDArray[np.float32]:
    """Conditioned features (n, d), as an array of their own."""
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), _ROWS):
        block = np.asarray(x[start : start + _ROWS], np.float32)
        out[start : start + _ROWS] = codec.normalize(torch.tensor(block, device=codec.device)).cpu()
    return out


@torch.no_grad()
def start_codebooks(codec: HiHPQCodec, x: NDArray[np.float32], seed: int) -> None:
    """k-means codebooks, and the attention's sharpness if the recipe leaves it to the data."""
    v, q = tangents(codec, x), codec.quantizer
    fit_codebooks(q, v, seed=seed)
    if not codec.recipe["beta"]:
        points = q.points(v[:_ROWS].to(codec.device))
        words = q.codewords()[torch.arange(q.M), q.codes(points).long()]
        nearest = float(q.geometry.sqchord(points, words, q.c).median())
        codec.set_beta(SHARPNESS / max(nearest, 1e-6))


@torch.no_grad()
def fill_branch(codec: HiHPQCodec, seed: int) -> None:
    """Start values of the residual branch: random in, zero out, so that it adds nothing yet."""
    if codec.config.hidden:
        generator = torch.Generator().manual_seed(seed)
        bound = codec.d**-0.5
        for value in (codec.up, codec.up_bias):
            value.copy_(bound * (2 * torch.rand(value.shape, generator=generator) - 1))


@torch.no_grad()
def move_unused(
    codec: HiHPQCodec, v: Tensor, codes: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """Move codewords that no feature uses to features far from theirs.

    Parameters
    ----------
    codec : HiHPQCodec
        Its codebooks are changed.
    v : Tensor, shape (n, M, D)
        Tangent vectors of the training features.
    codes : Tensor, shape (n, M)
        Their codes.
    generator : Generator
        Draws features in proportion to their squared distance from their codeword (k-means++).

    Returns
    -------
    list of Tensor
        Moved codewords of each subspace; only as many as there are features to spare.
    """
    q = codec.quantizer
    moved = []
    for m in range(q.M):
        own = codes[:, m].long()
        unused = (torch.bincount(own, minlength=q.K) == 0).nonzero()[:, 0]
        gap = (v[:, m] - q.codebooks[m].cpu()[own]).square().sum(1)
        unused = unused[: int((gap > 0).sum())]
        if len(unused):
            rows = torch.multinomial(gap, len(unused), generator=generator)
            q.codebooks[m, unused.to(codec.device)] = v[rows, m].to(codec.device)
        moved.append(unused)
    return moved
