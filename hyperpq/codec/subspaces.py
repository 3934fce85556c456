"""Coordinates of a representation and the subspaces that they are cut into."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def split_coordinates(F: int, M: int) -> NDArray[np.int64]:
    """Cut F coordinates into M subspaces of consecutive ones, as equal as possible.

    Parameters
    ----------
    F : int
        Coordinates.
    M : int
        Subspaces.

    Returns
    -------
    ndarray, shape (M, D), int64
        Coordinates of each subspace; -1 fills up those that are one shorter. With M > F the last
        ones are empty.
    """
    subspaces = np.array_split(np.arange(F), M)
    out = np.full((M, max(1, len(subspaces[0]))), -1, np.int64)
    for row, own in zip(out, subspaces, strict=True):
        row[: len(own)] = own
    return out


def split_curvatures(log_c: Tensor, F: int, M: int) -> Tensor:
    """Log curvatures of the M subspaces that F coordinates are cut into.

    Parameters
    ----------
    log_c : Tensor, shape (M0,)
        Log curvatures of the M0 equal subspaces of the learned representation.
    F, M : int
        Coordinates and subspaces, see `split_coordinates`.

    Returns
    -------
    Tensor, shape (M,)
        For each subspace the mean over its coordinates of the log curvature that they were learned
        with; of an empty one, the mean of all.
    """
    per_coordinate = log_c.repeat_interleave(F // len(log_c))
    index = torch.from_numpy(split_coordinates(F, M))
    inside = (index >= 0).to(log_c)
    sums = (per_coordinate[index.clamp_min(0)] * inside).sum(1)
    return torch.where(inside.any(1), sums / inside.sum(1).clamp_min(1), log_c.mean())


def take_coordinates(v: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Bring coordinates into the order of subspaces.

    Parameters
    ----------
    v : Tensor, shape (..., F)
        Vectors.
    index : ndarray, shape (M, D), int64
        What `split_coordinates` returned.

    Returns
    -------
    Tensor, shape (..., M * D)
        Zeros where the index is -1.
    """
    flat = torch.from_numpy(index.ravel()).to(v.device)
    return v[..., flat.clamp_min(0)] * (flat >= 0).to(v)
