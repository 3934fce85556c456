"""Codebooks of an `AdditiveQuantizer`: residual k-means, then gradient steps of a ranking loss.

The codebooks start from residual quantization (Chen et al., Sensors 2010) of the vectors, with the
wanted N as a further coordinate. Then two steps alternate. Codes are searched with the codewords
kept. With the codes kept, gradient steps move the codewords, so that the softmax of the coded
distances follows the softmax of the exact ones and the cost of the codes falls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from hyperpq.progress import Progress, ProgressLike, as_progress
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.quantizers.flat_metrics import FidelityMetric
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.utils.devices import single_thread

# The weight of N's error, times the mean squared length.
_STRESS = 1.5
# With fewer rows the start is kept: they have too few pairs to learn an order from.
MIN_ROWS = 1000
# Partial codes kept by residual quantization, and by the search of codes between the epochs.
_START_BEAM, _BEAM = 8, 4
# Factor of the wanted N beside y at the start. It leaves more bits to y; the search mends N.
_SHARE = 0.25
# Rows of a batch of queries, and those that they are compared with.
_QUERIES, _DATABASE = 256, 1024
# Step of Adam, and the epochs after which codes are searched again.
_RATE, _SEARCH_EVERY = 5e-4, 4
# Temperature of squared distances, as a share of their mean.
_TEMPERATURE = 0.02
# Weights of the ranking loss and of the cost. A larger weight of the ranking loss ranks rows worse
# that the codebooks weren't learned from (docs/method/fidelity.md).
_RANKING, _COST = 0.3, 10.0


@single_thread()
def fit_additive(
    v: Tensor,
    M: int,
    nbits: int = 8,
    *,
    metric: FidelityMetric = "cosine",
    seed: int,
    epochs: int = 16,
    device: str | torch.device = "cpu",
    progress: ProgressLike = None,
) -> AdditiveQuantizer:
    """Fit a quantizer to vectors (y, s).

    Parameters
    ----------
    v : Tensor, shape (n, D), float32
        Vectors as `AdditiveQuantizer` takes them, n >= 1, on the CPU.
    M : int
        Number of codebooks.
    nbits : {4, 8}
        Bits of one code.
    metric : {"cosine", "l2", "ip"}
        Of the quantizer.
    seed : int
        Same seed, same result on the same machine.
    epochs : int
        Passes of the refinement; 0 keeps the start.
    device : str or torch.device
        Device of the refinement.
    progress : Progress or bool, optional
        Is told about each epoch.

    Returns
    -------
    AdditiveQuantizer
        On the CPU.

    Raises
    ------
    InvalidInputError
        M, D or nbits out of range.
    MissingDependencyError
        faiss isn't installed.
    """
    quantizer = AdditiveQuantizer(M, v.shape[1], nbits, metric=metric)
    if metric == "ip":
        # Lengths have no part in it: with this one the wanted N is 0.
        v = torch.cat([v[:, :-1], -v[:, :-1].square().sum(1, keepdim=True)], 1)
    with torch.no_grad():
        stress = 0 if metric == "ip" else _STRESS / max(float(v[:, -1].mean()), 1e-6)
        quantizer.stress.fill_(stress)
        quantizer.codebooks.copy_(_start(v, M, quantizer.K, seed))
    if len(v) >= MIN_ROWS and epochs:
        _refine(quantizer.to(device), v.to(device), epochs, seed, as_progress(progress))
    return quantizer.cpu()


def _start(v: Tensor, M: int, K: int, seed: int) -> Tensor:
    """Codebooks (M, K, D) by residual quantization."""
    y, n = v[:, :-1], len(v)
    # What N should be if z equals y.
    wanted = (y.square().sum(1) + v[:, -1]) / 2
    rows = torch.cat([y, wanted[:, None]], 1)
    if n <= K:
        # Each row is a codeword of the first codebook; the other codebooks are zero.
        codebooks = torch.zeros(M, K, v.shape[1])
        codebooks[0] = rows[torch.arange(K) % n]
        return codebooks
    faiss = import_faiss()
    # faiss learns from no fewer rows than coordinates.
    rows = rows[torch.arange(max(n, rows.shape[1])) % n]
    center = rows.mean(0)
    center[:-1] = 0
    scale = torch.ones(v.shape[1])
    scale[-1] = _SHARE
    rq = faiss.ResidualQuantizer(v.shape[1], M, K.bit_length() - 1)
    # The tables give the same codes as the plain beam search, faster.
    rq.max_beam_size, rq.use_beam_LUT = _START_BEAM, 1
    rq.cp.seed, rq.cp.min_points_per_centroid = seed % 2**31, 1
    rq.train(np.ascontiguousarray(((rows - center) * scale).numpy()))
    codebooks = torch.from_numpy(faiss.vector_to_array(rq.codebooks).reshape(M, K, -1).copy())
    codebooks /= scale
    codebooks[0] += center
    return codebooks


def _refine(
    quantizer: AdditiveQuantizer, v: Tensor, epochs: int, seed: int, progress: Progress
) -> None:
    """Move the codewords by gradient steps, see the docstring of this module."""
    n, device = len(v), v.device
    y, length, is_product = v[:, :-1], v[:, -1].abs(), quantizer.metric == "ip"
    spread = max(2 * float(length.mean()), 1e-6)
    wanted = (length - y.square().sum(1)) / 2
    sharpness = torch.zeros((), device=device, requires_grad=True)
    groups: list[dict[str, Any]] = [
        {"params": [quantizer.codebooks]},
        {"params": [sharpness], "lr": 20 * _RATE},
    ]
    optimizer = torch.optim.Adam(groups, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-n // _QUERIES))
    generator = torch.Generator().manual_seed(seed)
    codes = torch.empty(0)
    with progress.phase("refining", epochs, "epochs") as phase:
        for epoch in range(epochs):
            if epoch % _SEARCH_EVERY == 0:
                codes = quantizer.codes(v[:, None], _BEAM).long()
            mean = 0.0
            batches = torch.randperm(n, generator=generator).split(_QUERIES)
            for batch in batches:
                rows = batch.to(device)
                others = torch.randperm(n, generator=generator)[:_DATABASE].to(device)
                same = rows[:, None] == others
                q, x = y[rows], y[others]
                lengths = 0 if is_product else length[rows][:, None] + length[others]
                exact = lengths - 2 * q @ x.T
                target = torch.softmax(
                    (-exact / spread / _TEMPERATURE).masked_fill(same, -math.inf), 1
                )
                total = quantizer.sums(codes[others])
                z, N = total[:, :-1], total[:, -1]
                if is_product:
                    N = torch.zeros_like(N)
                # Finite, as kl_div multiplies it with a target of 0.
                logits = (2 * q @ z.T - N) * sharpness.exp() / spread / _TEMPERATURE
                logits = torch.log_softmax(logits.masked_fill(same, -1e4), 1)
                ranking = kl_div(logits, target, reduction="batchmean")
                miss = N - (x * z).sum(1) - wanted[others]
                cost = (x - z).square().sum(1) + quantizer.stress * miss.square()
                loss = _RANKING * ranking + _COST * 2 / spread * cost.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                mean += float(loss.detach()) / len(batches)
            phase.advance(loss=mean)
