"""Repair of codewords that no feature uses, and of codes that collapsed."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.sample import evenly
from hyperpq.codes import unpack
from hyperpq.errors import TrainingError
from hyperpq.training.initialize import initialize_codebooks
from hyperpq.training.recipe import Recipe
from hyperpq.training.trace import is_collapsed

log = logging.getLogger(__name__)


@torch.no_grad()
def move_unused_codewords(
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
    list of M tensors, int64
        Moved codewords of each subspace; at most as many as features are away from their codeword.
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


def refit_collapsed_codebooks(
    codec: HiHPQCodec, x: NDArray[np.float32], recipe: Recipe, seed: int
) -> None:
    """Fit codebooks again by k-means if they collapsed while they were learned.

    Parameters
    ----------
    codec : HiHPQCodec
        After the last epoch; it counts as trained afterwards.
    x : ndarray, shape (n, d), float32
        Features of the training images.
    recipe : Recipe
        Of the training.
    seed : int
        Of k-means.

    Raises
    ------
    TrainingError
        The codes collapse all the same.
    """
    codec.is_trained = True
    if not _has_collapsed_codes(codec, x):
        return
    log.warning("the codes collapsed in training: the codebooks are fitted again by k-means.")
    initialize_codebooks(codec, x, recipe, seed)
    check_codes(codec, x)


def check_codes(codec: HiHPQCodec, x: NDArray[np.float32]) -> None:
    """Raise `TrainingError` if a trained codec gives different features (n, d) almost one code."""
    if _has_collapsed_codes(codec, x):
        raise TrainingError(
            f"the codes of {len(x)} different features collapsed to almost one; lower the learning "
            "rate, raise the temperature or use epochs=0 (PCA and k-means)."
        )


def _has_collapsed_codes(codec: HiHPQCodec, x: NDArray[np.float32]) -> bool:
    """Whether different features have almost one code; equal ones may."""
    x = evenly(x)
    if (x == x[0]).all():
        return False
    codes = unpack(codec.encode(x), codec.M, codec.quantizer.nbits)
    return is_collapsed(torch.from_numpy(codes.copy()), codec.quantizer.K)
