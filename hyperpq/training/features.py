"""Normalized features and tangent vectors of many features, computed in batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.learned import HeadCodec

# Rows of a batch: 42 MB of float32 at d = 1280.
BATCH_ROWS = 8192


@torch.no_grad()
def tangent_vectors(codec: HeadCodec, x: NDArray[np.float32]) -> Tensor:
    """Tangent vectors of features (n, d), not clipped: shape (n, M, D), on the CPU."""
    batches = [
        codec.tangent(torch.tensor(x[start : start + BATCH_ROWS], device=codec.device)).cpu()
        for start in range(0, len(x), BATCH_ROWS)
    ]
    return torch.cat(batches)


@torch.no_grad()
def normalized_features(codec: HiHPQCodec, x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (n, d) of any float type as the head of a codec gets them: a new array (n, d)."""
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), BATCH_ROWS):
        batch = np.asarray(x[start : start + BATCH_ROWS], np.float32)
        normalized = codec.normalize(torch.tensor(batch, device=codec.device))
        out[start : start + BATCH_ROWS] = normalized.cpu()
    return out
