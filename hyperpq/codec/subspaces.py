"""Coordinates of a representation and the subspaces that they are cut into."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.subspace_split import split_coordinates

# Coordinates whose deviation is less than this share of the largest are noise: those that the head
# has no direction for start with a thousandth of it, and training shrinks them.
_NOISE = 4e-3


def varying_coordinates(v: Tensor) -> NDArray[np.bool_]:
    """Which coordinates of vectors (n, F), n >= 1, hold more than noise, shape (F,)."""
    deviations = _deviations(v)
    return deviations > _NOISE * deviations.max()


def spread_coordinates(v: Tensor, M0: int, M: int) -> NDArray[np.int64] | None:
    """Order coordinates so that no subspace is left with noise while another has several to give.

    A head with more coordinates than the features have directions (d < F, or few training rows)
    fills up each of the M0 subspaces that it was learned on with noise. Cut into M > M0 subspaces
    of consecutive coordinates, whole ones would be noise: at d = 48, 8 of 16.

    Parameters
    ----------
    v : Tensor, shape (n, F)
        Vectors that show which coordinates are noise, n >= 1.
    M0, M : int
        Subspaces of the learned representation, and of the codes.

    Returns
    -------
    ndarray, shape (F,), int64, or None
        Cut by `split_coordinates`, each subspace has its share of the coordinates that vary, as
        equal as possible; those of one learned subspace are dealt to its parts in turn, the ones
        with the largest deviation first. None if the consecutive cut has no subspace of noise, or
        none that could be given a coordinate.
    """
    deviations, F = _deviations(v), v.shape[1]
    varies = deviations > _NOISE * deviations.max()
    consecutive = split_coordinates(F, M)
    used = int((varies[consecutive] & (consecutive >= 0)).any(1).sum())
    if used == min(int(varies.sum()), M):
        return None
    parts = np.array_split(np.flatnonzero(varies), M)
    owners, given = np.repeat(np.arange(M), [len(part) for part in parts]), np.concatenate(parts)
    dealt = np.empty_like(owners)
    for m in range(M0):
        own = np.flatnonzero(given // (F // M0) == m)
        turns = np.arange(len(own)) - np.searchsorted(owners[own], owners[own])
        strongest = own[np.argsort(-deviations[given[own]], kind="stable")]
        dealt[strongest] = owners[own][np.lexsort((owners[own], turns))]
    rest = iter(np.flatnonzero(~varies))
    order = []
    for m, size in enumerate((consecutive >= 0).sum(1)):
        chosen = given[dealt == m].tolist()
        order += chosen + [next(rest) for _ in range(size - len(chosen))]
    return np.array(order, np.int64)


def _deviations(v: Tensor) -> NDArray[np.float64]:
    deviations: NDArray[np.float64] = v.double().std(0, correction=0).cpu().numpy()
    return deviations


def split_curvatures(log_c: Tensor, F: int, index: NDArray[np.int64]) -> Tensor:
    """Log curvatures of the subspaces that F coordinates are cut into.

    Parameters
    ----------
    log_c : Tensor, shape (M0,)
        Log curvatures of the M0 equal subspaces of the learned representation.
    F : int
        Coordinates.
    index : ndarray, shape (M, D), int64
        Coordinates of each subspace, -1 for none.

    Returns
    -------
    Tensor, shape (M,)
        For each subspace the mean over its coordinates of the log curvature that they were learned
        with; of an empty one, the mean of all.
    """
    per_coordinate = log_c.repeat_interleave(F // len(log_c))
    chosen = torch.from_numpy(index)
    inside = (chosen >= 0).to(log_c)
    sums = (per_coordinate[chosen.clamp_min(0)] * inside).sum(1)
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
