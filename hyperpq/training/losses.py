"""The losses of HiHPQ, on similarities ``-distance / T`` (paper, equations 8 to 13)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def _without_self(logits: Tensor) -> Tensor:
    """Similarities (n, n) with -inf on the diagonal: no point competes with itself."""
    eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(eye, float("-inf"))


def positive_targets(n: int) -> Tensor:
    """Targets (n, n) of NT-Xent: all on the positive, ``n / 2`` rows further."""
    return torch.eye(n).roll(n // 2, dims=1)


def contrastive_loss(distances: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between target affinities and the softmax of similarities.

    With `positive_targets` it is NT-Xent (paper, equation 8). With the affinities of a neighbour
    graph, every image of the batch that belongs to a row attracts it by its share, and none of them
    counts as a negative.

    Parameters
    ----------
    distances : Tensor, shape (n, n)
        Product distances. Row i and column i are the same view, quantized or not, and are not
        compared.
    targets : Tensor, shape (n, n)
        Each row sums to 1, with 0 on the diagonal.
    temperature : float
        T.

    Returns
    -------
    Tensor, scalar
        Mean over the rows.
    """
    log_p = torch.log_softmax(_without_self(-distances / temperature), dim=1)
    return -(targets * log_p.masked_fill(targets == 0, 0)).sum(1).mean()


def prototype_loss(
    distances: Sequence[Tensor], labels: Sequence[Tensor], temperature: float
) -> Tensor:
    """Cross-entropy to the prototype of the own cluster, mean over the levels of the hierarchy.

    Parameters
    ----------
    distances : sequence of Tensor, each (B, L)
        Product distances from one view to the L prototypes of a level.
    labels : sequence of Tensor, each (B,), int64
        Own cluster at that level.
    temperature : float
        T.

    Returns
    -------
    Tensor, scalar
    """
    terms = [cross_entropy(-d / temperature, own) for d, own in zip(distances, labels, strict=True)]
    return torch.stack(terms).mean()


def neighbour_loss(
    distances: Tensor, labels: Sequence[Tensor], temperature: float, generator: torch.Generator
) -> Tensor:
    """Cross-entropy to one other image of the same cluster in the batch, mean over the levels.

    The self pair is masked (the official code leaves it in). Images that are alone in their
    cluster in the batch don't count.

    Parameters
    ----------
    distances : Tensor, shape (B, B)
        Product distances inside one view.
    labels : sequence of Tensor, each (B,), int64
        Cluster of each image at a level.
    temperature : float
        T.
    generator : Generator
        On the CPU; draws the other images.

    Returns
    -------
    Tensor, scalar
        0 if every image is alone.
    """
    logits = _without_self(-distances / temperature)
    terms = []
    for own in labels:
        same = own[:, None] == own[None, :]
        same.fill_diagonal_(False)
        draw = torch.rand(same.shape, generator=generator).to(same.device) + 1e-6
        positive = (draw * same).argmax(1)
        rows = same.any(1)
        if bool(rows.any()):
            terms.append(cross_entropy(logits[rows], positive[rows]))
    return torch.stack(terms).mean() if terms else distances.new_zeros(())
