"""Codebooks of any code length for a finished representation.

A representation learned on a few wide subspaces serves every code length: its F coordinates are
cut into as many subspaces as the code has bytes, and hyperbolic k-means gives each its codebook.
Codebooks learned together with the representation end worse (docs/method.md). Afterwards they are
refined, so that codes rank as the continuous vectors do.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperpq.geometry import lorentz
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.quantizers.product import LorentzProductQuantizer
from hyperpq.utils.devices import single_thread

_LLOYD = 10
# Distillation: vectors a step, step of Adam, weight of the squared chord to the own codeword, and
# the temperature of the continuous distances as a part of that of the codes.
_BATCH, _LR, _KEEP, _SHARPER = 512, 1e-3, 3.0, 0.4
# Fewer vectors than this say nothing beyond themselves.
_FEWEST = 1024
# Distances in memory at once: 64 MB of float32.
_BLOCK = 1 << 24


def split_coordinates(F: int, M: int) -> NDArray[np.int64]:
    """Cut F coordinates into M subspaces of consecutive ones, as equal as possible.

    Returns
    -------
    ndarray, shape (M, D), int64
        Coordinates of each subspace; -1 fills up those that are one shorter. With M > F the last
        ones are empty.
    """
    parts = np.array_split(np.arange(F), M)
    out = np.full((M, max(1, len(parts[0]))), -1, np.int64)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


def split_curvatures(log_c: Tensor, F: int, M: int) -> Tensor:
    """Log curvatures (M,) of the M subspaces that F coordinates are cut into.

    Each is the mean over its coordinates of the curvature that they were learned with; ``log_c``
    has one for each of the equal subspaces of the learned representation.
    """
    per_coordinate = log_c.repeat_interleave(F // len(log_c))
    index = torch.from_numpy(split_coordinates(F, M))
    inside = (index >= 0).to(log_c)
    sums = (per_coordinate[index.clamp_min(0)] * inside).sum(1)
    return torch.where(inside.any(1), sums / inside.sum(1).clamp_min(1), log_c.mean())


def take_coordinates(v: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Coordinates (..., F) -> (..., M * D) in the order of `split_coordinates`, zeros at -1."""
    flat = torch.from_numpy(index.ravel()).to(v.device)
    return v[..., flat.clamp_min(0)] * (flat >= 0).to(v)


@torch.no_grad()
def lorentz_kmeans(
    v: Tensor, K: int, c: Tensor, max_norm: float, *, seed: int, iterations: int = _LLOYD
) -> Tensor:
    """k-means on one Lorentz space: nearest codeword by distance, Lorentz centroid as the mean.

    Parameters
    ----------
    v : Tensor, shape (n, D)
        Tangent vectors at the origin, n >= 1.
    K : int
        Codewords; with n <= K each vector is one and they repeat in turn.
    c : Tensor, scalar
        Negated curvature.
    max_norm : float
        Tangent vectors longer than this are shortened to it, as the quantizer does.
    seed : int
        Same seed, same result.
    iterations : int
        Lloyd steps after Euclidean k-means of the tangent vectors, which is the start.

    Returns
    -------
    Tensor, shape (K, D)
        Tangent vectors of the codewords.
    """
    v = lorentz.clip_norm(v, max_norm)
    start, _ = kmeans(np.ascontiguousarray(v.numpy(), np.float32), K, seed=seed)
    words = torch.from_numpy(start)
    if len(v) <= K:
        return words
    points = lorentz.expmap0(v, c)
    ambient = torch.cat([points, lorentz.time_part(points, c)[:, None]], 1).double()
    for _ in range(iterations):
        own = nearest(points, lorentz.expmap0(words, c), c)
        sums = torch.zeros(K, ambient.shape[1], dtype=torch.float64).index_add_(0, own, ambient)
        space, time = sums[:, :-1], sums[:, -1]
        # The centroid is the sum scaled back onto the hyperboloid (Law et al. 2019, theorem 1).
        length = (time.square() - space.square().sum(1)).clamp_min(1e-30).sqrt() * c.double().sqrt()
        moved = lorentz.logmap0((space / length[:, None]).float(), c)
        words = torch.where((time > 0)[:, None], moved, words)
    return words


def nearest(points: Tensor, words: Tensor, c: Tensor) -> Tensor:
    """Index (n,) of the nearest of ``words`` (K, D) to ``points`` (n, D), both space parts."""
    times = lorentz.time_part(words, c)
    out = torch.empty(len(points), dtype=torch.int64)
    step = max(1, _BLOCK // len(words))
    for start in range(0, len(points), step):
        block = points[start : start + step]
        # Inside one subspace -<x, y> alone ranks.
        cross = lorentz.time_part(block, c)[:, None] * times - block @ words.T
        out[start : start + step] = cross.argmin(1)
    return out


def fit_codebooks(v: Tensor, K: int, log_c: Tensor, max_norm: float, *, seed: int) -> Tensor:
    """Codebooks (M, K, D) for tangent vectors (n, M, D), one `lorentz_kmeans` a subspace."""
    c = log_c.exp()
    return torch.stack(
        [
            lorentz_kmeans(v[:, m].contiguous(), K, c[m], max_norm, seed=seed + m)
            for m in range(v.shape[1])
        ]
    )


@single_thread()
def distil_codebooks(
    q: LorentzProductQuantizer,
    v: Tensor,
    target: LorentzProductQuantizer,
    learned: Tensor,
    temperature: float,
    epochs: int,
    *,
    seed: int,
) -> None:
    """Move codewords so that distances to codes rank vectors as continuous distances do.

    k-means makes each code near its vector. What a search needs is that the codes of near vectors
    come before those of others, and with few bits the two differ. This is the contrast of
    continuous with quantized points (paper, section 3.3), with the softmax of the continuous
    distances in a batch as its target; it acts on the codewords alone.

    Parameters
    ----------
    q : LorentzProductQuantizer
        Its codebooks, fitted already, are changed; nothing else.
    v : Tensor, shape (n, M, D)
        Tangent vectors to code. Fewer than 1,024 leave the codebooks as they are.
    target : LorentzProductQuantizer
        Space that the representation was learned in, whose distances are the target.
    learned : Tensor, shape (n, F)
        The same vectors there.
    temperature : float
        Of distances to codes.
    epochs : int
        Passes over the vectors.
    seed : int
        Of the order of the vectors.
    """
    if len(v) < _FEWEST:
        return
    own = torch.eye(_BATCH, dtype=torch.bool)
    subspaces = torch.arange(q.M)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([q.codebooks], lr=_LR)
    for _ in range(epochs):
        order = torch.randperm(len(v), generator=generator)
        for rows in order[: len(v) // _BATCH * _BATCH].split(_BATCH):
            there = target.points(learned[rows].unflatten(1, (target.M, target.D)))
            wanted = -target.product_score(there, there) / (_SHARPER * temperature)
            wanted = torch.softmax(wanted.masked_fill(own, float("-inf")), 1)
            points = q.points(v[rows])
            codes = q.codes(points).long()
            with torch.enable_grad():
                coded = q.codewords()[subspaces, codes]
                similarity = -q.product_score(points, coded) / temperature
                # No vector competes with its own code; -inf times a target of 0 would be NaN.
                ranks = cross_entropy(similarity.masked_fill(own, -1e9), wanted)
                stay = lorentz.sqchord(points, coded, q.c).sum(1).mean()
                (ranks + _KEEP * stay).backward()
            optimizer.step()
            q.zero_grad()
