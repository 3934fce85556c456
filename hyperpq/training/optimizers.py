"""Optimisers of a codec's parameters, and their learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from hyperpq.codec.hihpq import HiHPQCodec
    from hyperpq.training.recipe import Recipe


def make_optimizers(codec: HiHPQCodec, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Optimisers of the free parameters; a Riemannian one for an orthogonal head.

    Biases and curvatures are never decayed.
    """
    q = codec.quantizer
    decayed, free = [q.codebooks], [codec.bias]
    if codec.config.hidden:
        decayed += [codec.up, codec.down]
        free.append(codec.up_bias)
    if recipe.representation.train_curvature:
        free.append(q.log_c)
    if codec.config.head == "linear":
        decayed.insert(0, codec.weight)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.optimiser.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    out: list[torch.optim.Optimizer]
    if recipe.optimiser.optimizer == "sgd":
        out = [torch.optim.SGD(groups, lr=recipe.optimiser.lr, momentum=recipe.optimiser.momentum)]
    else:
        out = [torch.optim.AdamW(groups, lr=recipe.optimiser.lr, fused=True)]
    if codec.config.head == "orthogonal":
        import geoopt

        codec.weight = geoopt.ManifoldParameter(
            codec.weight.detach(), manifold=geoopt.EuclideanStiefel()
        )
        if recipe.optimiser.optimizer == "sgd":
            riemannian = geoopt.optim.RiemannianSGD(
                [codec.weight], lr=recipe.optimiser.lr, momentum=recipe.optimiser.momentum
            )
        else:
            riemannian = geoopt.optim.RiemannianAdam([codec.weight], lr=recipe.optimiser.lr)
        out.append(riemannian)
    return out


def rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after ``progress`` of all epochs: linear rise, then a cosine to 0."""
    if progress < recipe.optimiser.lr_warmup:
        return recipe.optimiser.lr * progress / recipe.optimiser.lr_warmup
    assert recipe.optimiser.epochs is not None
    rest = (progress - recipe.optimiser.lr_warmup) / max(
        recipe.optimiser.epochs - recipe.optimiser.lr_warmup, 1e-9
    )
    return recipe.optimiser.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
