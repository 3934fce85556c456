"""Learning codes that keep the exact cosine neighbours: from OPQ, refined by a ranking loss.

The start is OPQ (Ge et al., CVPR 2013) on the leading principal components. The refinement moves
head and codewords together so that the softmax of the scores, continuous query against quantized
vector as in a search, follows the softmax of the exact distances.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div

from hyperpq.clustering import import_faiss, kmeans
from hyperpq.devices import single_thread
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.progress import Progress, SilentProgress
from hyperpq.quantizer import CURVATURE_RANGE, LorentzProductQuantizer

log = logging.getLogger(__name__)

# Rows that are learned from at most: 168 MB at d = 1280.
SAMPLE = 1 << 15
# Coordinates of all subspaces together, and principal components that OPQ chooses them from.
_WIDTH, _COMPONENTS = 64, 256
# Below this many rows too few can be held out to tell which is better: OPQ is kept.
SMALLEST = 1000
_QUERIES, _DATABASE, _ROWS = 256, 1024, 8192
_RATE, _WARM_UP = 5e-4, 50
# Squared distances are scaled to a mean of 1 over all pairs; a neighbour lies this much nearer.
_TEMPERATURE = 0.02
# Weight of the quantization error beside the ranking loss: without it codewords and points part.
_COMMITMENT = 0.1
_REACH = 5.0  # sqrt(c) times the longest tangent vector, see docs/method.md

# Rotation of components (P, M * D), bias (M * D,), codebooks (M, K, D).
_Map = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class FidelityState:
    """What a codec with ``conditioning="unit"`` and ``head="linear"`` takes over.

    Attributes
    ----------
    weight : Tensor, shape (d, M * D), float32
    bias : Tensor, shape (M * D,), float32
    codebooks : Tensor, shape (M, K, D), float32
    log_c : Tensor, shape (M,), float32
        At the floor of `CURVATURE_RANGE`: the subspaces are Euclidean but for 1 %.
    max_norm : float
        No tangent vector of a unit vector is longer, nor is a codeword.
    score : str
        The score that the codes were learned for.
    """

    weight: Tensor
    bias: Tensor
    codebooks: Tensor
    log_c: Tensor
    max_norm: float
    score: str = "chord"

    def quantizer(self) -> LorentzProductQuantizer:
        """The quantizer of this state, on its device."""
        M, K, D = self.codebooks.shape
        q = LorentzProductQuantizer(
            M, D, K.bit_length() - 1, score=self.score, max_norm=self.max_norm
        ).to(self.codebooks.device)
        with torch.no_grad():
            q.codebooks.copy_(self.codebooks)
            q.log_c.copy_(self.log_c)
        return q

    def tangent(self, x: Tensor) -> Tensor:
        """Unit vectors (n, d) -> tangent vectors (n, M, D)."""
        M, _, D = self.codebooks.shape
        return (x @ self.weight + self.bias).unflatten(1, (M, D))


@single_thread()
def fit_fidelity(
    x: NDArray[np.float32],
    M: int,
    nbits: int = 8,
    *,
    seed: int,
    epochs: int = 30,
    device: str = "cpu",
    progress: Progress | None = None,
) -> FidelityState:
    """Learn a linear head and codebooks that keep exact cosine neighbours.

    It is tried first without a tenth of the rows. Only if then more of these rows' 10 exact
    neighbours among each other are found than after OPQ, all rows are refined: codes of rows that
    were learned from would flatter the refinement.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features, n >= 1. Of more than `SAMPLE` rows that many are taken evenly.
    M : int
        Number of subspaces.
    nbits : {4, 8}
        Bits of one code.
    seed : int
        Same seed, same result on the same machine.
    epochs : int
        Passes over the rows; 0 leaves the start.
    device : str
        Where the refinement runs.
    progress : Progress, optional
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
    rows = x[:: -(-len(x) // SAMPLE)]
    unit = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
    D = subspace(unit.shape[1], M)
    center, axes = _components(unit, max(_COMPONENTS, M * D))
    v = torch.cat([(block - center) @ axes for block in unit.split(_ROWS)])
    start = _opq(v.numpy(), M, D, nbits, seed)
    if len(unit) < SMALLEST or epochs < 1:
        log.info("fidelity: %d rows, %d epochs: OPQ is kept", len(unit), epochs)
        return _state(axes, center, *start)
    progress = progress or SilentProgress()
    order = torch.randperm(len(unit), generator=torch.Generator().manual_seed(seed))
    held, learned = unit[order[: len(unit) // 10]], v[order[len(unit) // 10 :]]
    trial = _opq(learned.numpy(), M, D, nbits, seed)
    before = _recall(_state(axes, center, *trial), held)
    refined = _refine(learned, *trial, epochs, seed, device, progress)
    after = _recall(_state(axes, center, *refined), held)
    better = after > before
    log.info(
        "fidelity: recall@10 of %d held-out rows is %.4f after OPQ and %.4f refined: %s is kept",
        *(len(held), before, after, "the refinement" if better else "OPQ"),
    )
    if better:
        start = _refine(v, *start, epochs, seed, device, progress)
    return _state(axes, center, *start)


def subspace(d: int, M: int) -> int:
    """Dimension D of each of M subspaces for features of width d."""
    return max(1, min(_WIDTH, d) // M)


def _components(unit: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and principal components (d, count), scaled; columns that the data lack are zero."""
    d = unit.shape[1]
    second, mean = torch.zeros(d, d, dtype=torch.float64), unit.mean(0, dtype=torch.float64)
    for block in unit.split(_ROWS):
        centered = block.double() - mean
        second += centered.T @ centered
    values, vectors = torch.linalg.eigh(second / len(unit))
    have = min(count, d)
    axes = torch.zeros(d, count, dtype=torch.float64)
    axes[:, :have] = vectors.flip(1)[:, :have]
    # eigh leaves signs free: the largest entry of each direction is made positive.
    axes *= torch.where(axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1, 1)
    # The mean squared distance of two rows is twice their variance.
    spread = 2 * float(values.clamp_min(0).sum())
    return mean.float(), (axes / math.sqrt(spread) if spread > 1e-12 else axes).float()


def _opq(v: NDArray[np.float32], M: int, D: int, nbits: int, seed: int) -> _Map:
    """OPQ of components (n, P)."""
    P, K = v.shape[1], 1 << nbits
    width = M * D
    if len(v) > K:
        faiss = import_faiss()
        opq = faiss.OPQMatrix(P, M, width)
        opq.niter = 25
        pq = faiss.ProductQuantizer(width, M, nbits)
        opq.pq = pq
        pq.cp.min_points_per_centroid = 1  # fewer are no error, so no warning either
        opq.train(v)
        rotation = faiss.vector_to_array(opq.A).reshape(width, P).T.copy()
    else:
        # Each row can be a codeword: components dealt out in turn.
        rotation = np.eye(P, dtype=np.float32)[:, np.arange(width).reshape(D, M).T.ravel()]
    turned = (v @ rotation).reshape(len(v), M, D)
    codebooks = [kmeans(np.ascontiguousarray(turned[:, m]), K, seed=seed + m)[0] for m in range(M)]
    return torch.from_numpy(rotation), torch.zeros(width), torch.from_numpy(np.stack(codebooks))


def _state(
    axes: Tensor, center: Tensor, rotation: Tensor, bias: Tensor, codebooks: Tensor
) -> FidelityState:
    """Components and their map made one; the bound of the norm for vectors of unit length."""
    M, _, D = codebooks.shape
    low = CURVATURE_RANGE[0]
    weight = axes @ rotation
    bias = bias - center @ weight
    spectral = torch.linalg.matrix_norm(weight.view(-1, M, D).transpose(0, 1), 2)
    longest = torch.maximum(
        spectral + bias.view(M, D).norm(dim=1), codebooks.norm(dim=2).amax(1)
    ).max()
    return FidelityState(
        weight,
        bias,
        codebooks,
        torch.full((M,), math.log(low)),
        min(1.01 * max(float(longest), 1e-3), _REACH / math.sqrt(low)),
    )


def _refine(
    v: Tensor,
    rotation: Tensor,
    bias: Tensor,
    codebooks: Tensor,
    epochs: int,
    seed: int,
    device: str,
    progress: Progress,
) -> _Map:
    """The map of components (n, P) after gradient steps of the ranking loss."""
    M, _, D = codebooks.shape
    n, v = len(v), v.to(device)
    head, bias, words, sharpness = (
        t.to(device, copy=True).requires_grad_()
        for t in (rotation, bias, codebooks, torch.zeros(()))
    )
    generator = torch.Generator().manual_seed(seed)
    groups: list[dict[str, Any]] = [
        {"params": [head, bias, words]},
        {"params": [sharpness], "lr": 20 * _RATE},
    ]
    optimizer = torch.optim.Adam(groups, lr=_RATE)
    steps = -(-n // _QUERIES)
    total = epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1, (i + 1) / _WARM_UP) * (0.51 + 0.49 * math.cos(math.pi * i / total)),
    )
    each = torch.arange(M, device=device)[:, None]
    with progress.phase("refining", epochs, "epochs") as phase:
        for _ in range(epochs):
            mean = 0.0
            for rows in torch.randperm(n, generator=generator).split(_QUERIES):
                others = torch.randperm(n, generator=generator)[:_DATABASE]
                same = (rows[:, None] == others).to(device)
                a, b = v[rows.to(device)], v[others.to(device)]
                exact = torch.cdist(a, b).square().masked_fill(same, math.inf)
                target = torch.softmax(-exact / _TEMPERATURE, 1)
                query = a @ head + bias
                points = (b @ head + bias).unflatten(1, (M, D)).transpose(0, 1)
                with torch.no_grad():
                    gaps = words.square().sum(-1)[:, None] - 2 * points @ words.transpose(1, 2)
                nearest = words[each, gaps.argmin(-1)]
                # The choice of a codeword has no gradient: it passes straight to the point.
                stored = (nearest + points - points.detach()).transpose(0, 1).flatten(1)
                score = query.square().sum(1)[:, None] + stored.square().sum(1)
                score = score - 2 * query @ stored.T
                # Finite, as kl_div multiplies it with a target of 0.
                logits = (-score * sharpness.exp() / _TEMPERATURE).masked_fill(same, -1e4)
                error = (points - nearest).square().sum(-1).sum(0).mean()
                loss = kl_div(torch.log_softmax(logits, 1), target, reduction="batchmean")
                loss = loss + _COMMITMENT / _TEMPERATURE * error
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                mean += float(loss.detach()) / steps
            phase.advance(loss=mean)
    return head.detach().cpu(), bias.detach().cpu(), words.detach().cpu()


def _recall(state: FidelityState, unit: Tensor) -> float:
    """Share of the true 10 neighbours of each row among its 10 nearest codes of other rows."""
    q = state.quantizer()
    codes = torch.cat([q.codes(q.points(state.tangent(part))) for part in unit.split(_ROWS)])
    truth, found = [], []
    for rows in torch.arange(len(unit)).split(128):
        cosine, score = unit[rows] @ unit.T, torch.zeros(len(rows), len(unit))
        for m, table in enumerate(q.tables(q.points(state.tangent(unit[rows]))).unbind(1)):
            score += table.index_select(1, codes[:, m].long())
        each = torch.arange(len(rows))
        cosine[each, rows], score[each, rows] = -math.inf, math.inf
        truth.append(cosine.topk(10)[1])
        found.append(score.topk(10, largest=False)[1])
    return recall_at(torch.cat(found).numpy(), torch.cat(truth).numpy())
