"""Codebooks of a `FlatProductQuantizer` by k-means, and the rotation of OPQ.

OPQ (Ge, He, Ke and Sun, "Optimized Product Quantization for Approximate Nearest Neighbor Search",
CVPR 2013) rotates vectors before they are cut into subspaces, so that fewer digits are lost. The
start is PCA, its directions dealt out to subspaces of equal variance. Then two steps alternate: the
codebooks for the rotation, and the rotation for the codes, which is an orthogonal Procrustes
problem.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.progress import Phase, ProgressLike, as_progress
from hyperpq.quantizers.codeword_order import near_codewords_together
from hyperpq.quantizers.kmeans import import_faiss, kmeans
from hyperpq.utils.devices import single_thread

# Rows that are learned from at most, evenly taken; FAISS takes as many.
MAX_ROWS = 1 << 16
# Steps of OPQ, and those of k-means with which the codebooks of the start are fitted.
_STEPS, _START_STEPS = 25, 10
# Variances of directions below this share of the largest count as this share.
_MIN_VARIANCE = 1e-12


def fit_flat(
    x: NDArray[np.float32], M: int, nbits: int, *, seed: int, progress: ProgressLike = None
) -> NDArray[np.float32]:
    """Fit a codebook to each of M subspaces.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Vectors, n >= 1 and d a multiple of M. Of more than `MAX_ROWS` that many are taken evenly.
    M : int
        Subspaces.
    nbits : {4, 8}
        Bits of one code.
    seed : int
        Of k-means.
    progress : Progress or bool, optional
        Told about each subspace.

    Returns
    -------
    ndarray, shape (M, 2**nbits, d / M), float32
        Near codewords follow each other, see `near_codewords_together`. With n of at most 2**nbits
        each vector is a codeword, and they repeat in turn.
    """
    parts, books = _subspaces(take_evenly(x), M), []
    with as_progress(progress).phase("codebooks", M) as phase:
        for m, part in enumerate(parts):
            book = kmeans(part, 1 << nbits, seed=seed + m)[0]
            books.append(book[near_codewords_together(book)])
            phase.advance()
    return np.stack(books)


@single_thread()
def fit_rotation(
    x: NDArray[np.float32],
    width: int,
    M: int,
    nbits: int,
    *,
    seed: int,
    progress: ProgressLike = None,
) -> NDArray[np.float32]:
    """Learn the rotation of OPQ.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Vectors, n >= 1. Of more than `MAX_ROWS` that many are taken evenly.
    width : int
        Coordinates after the rotation, a multiple of M and at most d.
    M, nbits : int
        As in `fit_flat`.
    seed : int
        Of k-means.
    progress : Progress or bool, optional
        Told about each step.

    Returns
    -------
    ndarray, shape (width, d), float32
        Orthonormal rows: a vector v becomes ``rotation @ v``.
    """
    rows = torch.from_numpy(take_evenly(x))
    rows = rows - rows.mean(0, dtype=torch.float64).float()
    K = 1 << nbits
    rotation = _principal_start(rows, width, M)
    if len(rows) <= K:  # Each row is a codeword: no rotation codes them better.
        return rotation.numpy()
    with as_progress(progress).phase("rotation", _STEPS, "steps") as phase:
        books = _start_codebooks(rows @ rotation.T, M, K, seed)
        for _ in range(_STEPS):
            rotation = _step(rows, rotation, books, phase)
    return rotation.contiguous().numpy()


def take_evenly(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most `MAX_ROWS` rows of x (n, d), evenly taken."""
    return np.ascontiguousarray(x[:: -(-len(x) // MAX_ROWS)])


def _subspaces(x: NDArray[np.float32], M: int) -> list[NDArray[np.float32]]:
    """Coordinates (n, d / M) of each subspace."""
    return [np.ascontiguousarray(part) for part in np.split(x, M, axis=1)]


def _principal_start(rows: Tensor, width: int, M: int) -> Tensor:
    """Principal directions (width, d), dealt out so that the variances have equal products."""
    wide = rows.double()
    variances, axes = torch.linalg.eigh(wide.T @ wide / len(rows))
    variances, axes = variances.flip(0)[:width], axes.flip(1)[:, :width]
    # eigh leaves signs free: the largest entry of each direction is made positive.
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1, 1)
    logs = variances.clamp_min(_MIN_VARIANCE * float(variances[0].clamp_min(1e-30))).log().numpy()
    chosen: list[list[int]] = [[] for _ in range(M)]
    products = np.zeros(M)
    for direction, value in enumerate(logs - logs[-1]):
        free = [m for m in range(M) if len(chosen[m]) < width // M]
        m = min(free, key=lambda m: (products[m], m))
        chosen[m].append(direction)
        products[m] += value
    return axes[:, [direction for part in chosen for direction in part]].T.float().contiguous()


def _start_codebooks(v: Tensor, M: int, K: int, seed: int) -> list[NDArray[np.float32]]:
    parts = _subspaces(v.numpy(), M)
    return [
        kmeans(part, K, seed=seed + m, iterations=_START_STEPS)[0] for m, part in enumerate(parts)
    ]


def _step(rows: Tensor, rotation: Tensor, books: list[NDArray[np.float32]], phase: Phase) -> Tensor:
    """One step of k-means in each subspace, which changes ``books``, and the best rotation."""
    faiss = import_faiss()
    parts = _subspaces((rows @ rotation.T).numpy(), len(books))
    coded = []
    cost = 0.0
    for m, part in enumerate(parts):
        distances, nearest = faiss.knn(part, books[m], 1)
        cost += float(distances.mean(dtype=np.float64))
        own, K = torch.from_numpy(nearest[:, 0].astype(np.int64)), len(books[m])
        sums = torch.zeros(K, part.shape[1], dtype=torch.float64)
        sums.index_add_(0, own, torch.from_numpy(part).double())
        counts = torch.bincount(own, minlength=K)[:, None]
        means = (sums / counts.clamp_min(1)).float()
        books[m] = torch.where(counts > 0, means, torch.from_numpy(books[m])).numpy()
        coded.append(torch.from_numpy(books[m])[own])
    # The rotation that brings the rows nearest to their codes: orthogonal Procrustes.
    left, _, right = torch.linalg.svd(torch.cat(coded, 1).T @ rows, full_matrices=False)
    phase.advance(loss=cost)
    return left @ right
