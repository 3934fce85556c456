"""Codebooks of a `ProductQuantizer`: k-means in its geometry, and distillation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperpq.geometry.base import Geometry
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.quantizers.product import ProductQuantizer
from hyperpq.utils.devices import single_thread

_LLOYD_STEPS = 10
# Distillation: vectors of a batch, step of Adam, weight of the squared chord to the own codeword,
# and the temperature of the continuous distances as a share of that of the codes.
_BATCH, _LR, _KEEP, _SHARPER = 512, 1e-3, 3.0, 0.4
# What codebooks learn from fewer vectors does not hold for others.
_MIN_ROWS = 1024
# Distances in memory at once: 64 MB of float32.
_MAX_DISTANCES = 1 << 24


@torch.no_grad()
def manifold_kmeans(
    v: Tensor,
    K: int,
    c: Tensor,
    max_norm: float,
    *,
    geometry: Geometry,
    seed: int,
    iterations: int = _LLOYD_STEPS,
) -> Tensor:
    """k-means in one curved space: nearest codeword by distance, centroid as the mean.

    Parameters
    ----------
    v : Tensor, shape (n, D)
        Tangent vectors at the origin, n >= 1.
    K : int
        Codewords; with n <= K each vector is one and they repeat in turn.
    c : Tensor, scalar
        Absolute curvature.
    max_norm : float
        Tangent vectors longer than this are shortened to it, as the quantizer does.
    geometry : Geometry
        The space.
    seed : int
        Same seed, same result.
    iterations : int
        Lloyd steps after Euclidean k-means of the tangent vectors, which is the start.

    Returns
    -------
    Tensor, shape (K, D)
        Tangent vectors of the codewords.
    """
    v = geometry.clip(v, max_norm, c)
    start, _ = kmeans(np.ascontiguousarray(v.numpy(), np.float32), K, seed=seed)
    words = torch.from_numpy(start)
    if len(v) <= K:
        return words
    points = geometry.expmap0(v, c)
    ambient = geometry.lift(points, c).double()
    for _ in range(iterations):
        own = approximate_nearest(points, geometry.expmap0(words, c), c, geometry)
        sums = torch.zeros(K, ambient.shape[1], dtype=torch.float64).index_add_(0, own, ambient)
        used = torch.bincount(own, minlength=K) > 0
        moved = geometry.logmap0(geometry.project(sums, c.double()).float(), c)
        words = torch.where(used[:, None], moved, words)
    return words


def approximate_nearest(points: Tensor, words: Tensor, c: Tensor, geometry: Geometry) -> Tensor:
    """Index (n,) of the nearest of ``words`` (K, D) to ``points`` (n, D).

    In the dtype of the points, so that of two words at nearly one distance either may be found.
    k-means has no need of the exact one, for which `Geometry.nearest` takes longer; codes do.
    """
    forms = geometry.dual(words, c)
    by_space, by_time = forms[:, :-1].contiguous().T, forms[:, -1].contiguous()
    out = torch.empty(len(points), dtype=torch.int64)
    step = max(1, _MAX_DISTANCES // len(words))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        lifted = geometry.lift(block, c)
        space, time = lifted[:, :-1].contiguous(), lifted[:, -1:]
        out[start : start + step] = (time * by_time + space @ by_space).argmin(1)
    return out


@torch.no_grad()
def fit_codebooks(q: ProductQuantizer, v: Tensor, *, seed: int) -> None:
    """Set the codebooks of a quantizer by one k-means for each subspace.

    Parameters
    ----------
    q : ProductQuantizer
        Its codebooks are replaced; curvatures, clip radius and geometry are taken as they are.
    v : Tensor, shape (n, M, D)
        Tangent vectors to code, on the CPU, n >= 1.
    seed : int
        Same seed, same result.
    """
    c = q.c.cpu()
    books = [
        manifold_kmeans(
            v[:, m].contiguous(), q.K, c[m], q.max_norm, geometry=q.geometry, seed=seed + m
        )
        for m in range(q.M)
    ]
    q.codebooks.copy_(torch.stack(books))


@single_thread()
def distil_codebooks(
    q: ProductQuantizer,
    v: Tensor,
    target: ProductQuantizer,
    learned: Tensor,
    temperature: float,
    epochs: int,
    *,
    seed: int,
) -> None:
    """Move codewords so that distances to codes rank vectors as continuous distances do.

    k-means brings each code near its vector. A search needs something else: the codes of near
    vectors must come before those of others. With few bits the two differ. The loss is the contrast
    of continuous with quantized points (paper, section 3.3), with the softmax of the continuous
    distances in a batch as its target; only the codewords are changed.

    Parameters
    ----------
    q : ProductQuantizer
        Its codebooks, which are fitted already, are changed; nothing else is.
    v : Tensor, shape (n, M, D)
        Tangent vectors to code. Fewer than 1,024 leave the codebooks as they are.
    target : ProductQuantizer
        Space that the representation was learned in; its distances are the target.
    learned : Tensor, shape (n, F)
        The same vectors in that space.
    temperature : float
        Temperature of distances to codes.
    epochs : int
        Passes over the vectors.
    seed : int
        Seed of the order of the vectors.
    """
    if len(v) < _MIN_ROWS:
        return
    own = torch.eye(_BATCH, dtype=torch.bool)
    subspaces = torch.arange(q.M)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([q.codebooks], lr=_LR)
    for _ in range(epochs):
        order = torch.randperm(len(v), generator=generator)
        for rows in order[: len(v) // _BATCH * _BATCH].split(_BATCH):
            there = target.points(learned[rows].unflatten(1, (target.M, target.D)))
            wanted = -target.pairwise_distances(there, there) / (_SHARPER * temperature)
            wanted = torch.softmax(wanted.masked_fill(own, float("-inf")), 1)
            points = q.points(v[rows])
            codes = q.codes(points).long()
            with torch.enable_grad():
                coded = q.codewords()[subspaces, codes]
                similarity = -q.pairwise_distances(points, coded) / temperature
                # A vector's own code is left out; -inf times a target of 0 would be NaN.
                ranks = cross_entropy(similarity.masked_fill(own, -1e9), wanted)
                stay = q.geometry.sqchord(points, coded, q.c).sum(1).mean()
                (ranks + _KEEP * stay).backward()
            optimizer.step()
            q.zero_grad()
