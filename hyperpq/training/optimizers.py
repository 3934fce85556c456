"""Optimisers of a codec's parameters, and their learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.training.recipe import OptimiserSettings, Recipe


def make_optimizers(codec: HiHPQCodec, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The optimisers of a codec's parameters.

    Biases and curvatures are never decayed. Curvatures are left out if the recipe fixes them or the
    geometry has none.

    Parameters
    ----------
    codec : HiHPQCodec
        An orthogonal head becomes a parameter on the Stiefel manifold.
    recipe : Recipe
        Of the training.

    Returns
    -------
    list of Optimizer
        The second, of an orthogonal head, is a Riemannian one.
    """
    settings, q = recipe.optimiser, codec.quantizer
    decayed, free = [q.codebooks], [codec.bias]
    if codec.config.hidden:
        decayed += [codec.up, codec.down]
        free.append(codec.up_bias)
    if recipe.representation.train_curvature and q.geometry.sign != 0:
        free.append(q.log_c)
    if codec.config.head == "linear":
        decayed.insert(0, codec.weight)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    plain: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        plain = torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
    else:
        plain = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    if codec.config.head == "linear":
        return [plain]
    return [plain, _riemannian_optimizer(codec, settings)]


def _riemannian_optimizer(codec: HiHPQCodec, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser of an orthogonal head, which becomes a parameter on its manifold."""
    import geoopt

    codec.weight = geoopt.ManifoldParameter(
        codec.weight.detach(), manifold=geoopt.EuclideanStiefel()
    )
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = geoopt.optim.RiemannianSGD(
            [codec.weight], lr=settings.lr, momentum=settings.momentum
        )
    else:
        optimizer = geoopt.optim.RiemannianAdam([codec.weight], lr=settings.lr)
    return optimizer


def learning_rate(settings: OptimiserSettings, progress: float) -> float:
    """Learning rate after ``progress`` epochs: a linear rise, then a cosine to 0."""
    if progress < settings.lr_warmup:
        return settings.lr * progress / settings.lr_warmup
    falling = max(settings.settled_epochs - settings.lr_warmup, 1e-9)
    rest = (progress - settings.lr_warmup) / falling
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))
