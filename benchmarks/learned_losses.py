"""Losses of the learned baselines, as functions of a batch.

A batch has n images, and a code has b bits. Codes and their relaxations are tensors (n, b) of
float32; a bit is -1 or 1. Each loss is a scalar.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Steps of the grid on which the beta distribution is integrated.
_GRID = 20_001


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalized cross-entropy of two views (Chen et al., ICML 2020), by cosine.

    Row i of ``a`` (n, b) belongs to row i of ``b``; all other 2n - 2 rows are negatives.
    """
    both = functional.normalize(torch.cat([a, b]), dim=1)
    logits = both @ both.T / temperature
    logits.fill_diagonal_(-torch.inf)
    n = len(a)
    partner = torch.arange(2 * n).roll(n)
    return functional.cross_entropy(logits, partner)


def bernoulli_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over both directions of the KL divergence between codes of independent bits.

    ``p`` and ``q`` (n, b) are probabilities of a set bit; bits are summed, rows averaged.
    """
    p, q = (x.clamp(1e-6, 1 - 1e-6) for x in (p, q))
    # KL(p, q) + KL(q, p): the entropies cancel but for the difference of p and q.
    odds = torch.logit(p) - torch.logit(q)
    return ((p - q) * odds).sum(1).mean() / 2


def half_bits(u: Tensor) -> Tensor:
    """Codes (n, b) of which half of each bit is 1: the larger half of each column of u (n, b).

    This is the optimal transport of a column to a half of ones and a half of minus ones. The middle
    row of an odd number is -1.
    """
    ranks = u.argsort(dim=0, stable=True).argsort(dim=0)
    return torch.where(ranks >= (len(u) + 1) // 2, 1.0, -1.0)


def similarity_loss(codes: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference of the cosines of codes and of features, over pairs of rows."""
    difference = _pair_cosines(codes) - _pair_cosines(features)
    return difference.square().mean()


def calibration_loss(u: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    """Mean distance of cosines of u (n, b) from their calibrated values.

    The pair of rows whose features (n, d) have the r-th smallest cosine should have a cosine of
    ``targets[r]``; see `beta_quantiles`. This is the Wasserstein distance between the distribution
    of the cosines of codes and the targets if codes rank pairs as features do.
    """
    order = _pair_cosines(features).argsort(dim=0, stable=True)
    return (_pair_cosines(u)[order] - targets).abs().mean()


def beta_quantiles(shape: float, n: int) -> Tensor:
    """Quantiles (r + 1/2) / n of the distribution beta(shape, shape), stretched to -1 to 1."""
    x = np.linspace(0, 1, _GRID)
    density = (x * (1 - x)) ** (shape - 1)
    cumulated = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    quantiles = np.interp((np.arange(n) + 0.5) / n, cumulated / cumulated[-1], x)
    return torch.from_numpy(2 * quantiles - 1).float()


def quantization_loss(u: Tensor) -> Tensor:
    """Mean of 1 - the cosine of each row of u (n, b) and its signs."""
    return 1 - functional.cosine_similarity(u, u.detach().sign(), dim=1).mean()


def alignment_loss(a: Tensor, b: Tensor) -> Tensor:
    """Binary cross-entropy of the logits (n, b) of each view and the bits of the other one."""
    bits_a, bits_b = ((x.detach() > 0).float() for x in (a, b))
    entropy = functional.binary_cross_entropy_with_logits
    return (entropy(a, bits_b) + entropy(b, bits_a)) / 2


def coding_rate(z: Tensor, eps: float) -> Tensor:
    """Coding rate of the rows of z (n, b), scaled to length 1, up to a distortion of eps.

    ``(b + n) / (b n) * logdet(I + b / (n eps^2) Z^T Z) / 2``; it is large if the rows fill all
    dimensions.
    """
    n, b = z.shape
    z = functional.normalize(z, dim=1)
    inner = torch.eye(b) + b / (n * eps**2) * (z.T @ z)
    return (b + n) / (b * n) * torch.logdet(inner) / 2


def debiased_contrast(
    queries: Tensor, keys: Tensor, memory: Tensor | None, temperature: float, prior: float
) -> Tensor:
    """Debiased contrastive loss (Chuang et al., NeurIPS 2020), by cosine.

    Row i of ``queries`` (n, e) belongs to row i of ``keys`` (n, e); the other keys and all rows of
    ``memory`` (m, e) are negatives, of which a share ``prior`` is taken to be positives in truth.
    """
    n = len(queries)
    queries, keys = functional.normalize(queries, dim=1), functional.normalize(keys, dim=1)
    scores = torch.exp(queries @ keys.T / temperature)
    positive = scores.diagonal()
    negative, count = scores.sum(1) - positive, n - 1
    if memory is not None:
        others = functional.normalize(memory, dim=1)
        negative = negative + torch.exp(queries @ others.T / temperature).sum(1)
        count += len(memory)
    estimate = (negative / count - prior * positive) / (1 - prior)
    estimate = estimate.clamp(min=float(np.exp(-1 / temperature)))
    return (torch.log(positive + count * estimate) - torch.log(positive)).mean()


def codeword_similarity(codebooks: Tensor) -> Tensor:
    """Mean inner product of the codewords of a codebook; codebooks have shape (M, K, e)."""
    return (codebooks @ codebooks.transpose(1, 2)).mean()


def _pair_cosines(x: Tensor) -> Tensor:
    """Cosines of all pairs i < j of rows of x (n, d), shape (n (n - 1) / 2,)."""
    x = functional.normalize(x, dim=1)
    first, second = torch.triu_indices(len(x), len(x), 1)
    return (x @ x.T)[first, second]
