"""The epochs of a training: steps on batches, the hierarchy refreshed, statistics kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training import losses
from hyperpq.training.checkpoint import load_checkpoint, save_checkpoint
from hyperpq.training.hierarchy import build_hierarchy, usable_levels
from hyperpq.training.initialize import move_unused, tangents
from hyperpq.training.optimizers import make_optimizers, rate
from hyperpq.training.recipe import Recipe
from hyperpq.training.sampling import Batches
from hyperpq.training.trace import Trace, check_loss, check_values, code_statistics

log = logging.getLogger(__name__)


@dataclass
class Hierarchy:
    """Clusters of the training features at each level, with their prototypes.

    Attributes
    ----------
    labels : list of Tensor, each (n,), int64
    prototypes : list of Tensor, each (L, M, D)
        Mean tangent vectors.
    """

    labels: list[Tensor] = field(default_factory=list)
    prototypes: list[Tensor] = field(default_factory=list)


def _build(codec: HiHPQCodec, v: Tensor, levels: Sequence[int], seed: int) -> Hierarchy:
    out = Hierarchy()
    flat = v.flatten(1)
    for own, level in zip(build_hierarchy(flat.numpy(), levels, seed=seed), levels, strict=True):
        labels = torch.from_numpy(own)
        sums = torch.zeros(level, flat.shape[1]).index_add_(0, labels, flat)
        means = sums / torch.bincount(labels, minlength=level).clamp_min(1)[:, None]
        out.labels.append(labels)
        out.prototypes.append(means.view(level, *v.shape[1:]).to(codec.device))
    return out


def _step_loss(
    codec: HiHPQCodec,
    recipe: Recipe,
    views: Tensor,
    rows: Tensor,
    targets: Tensor,
    hierarchy: Hierarchy,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of one batch; see `Batches.draw` for the shapes."""
    q, half, T = codec.quantizer, len(views) // 2, recipe.contrast.temperature
    points = q.points(codec.tangent(views))
    soft = q.attend(points)[0] if recipe.contrast.quantizes else points
    contrasts = (
        (recipe.contrast.continuous_weight, points, points),
        (recipe.contrast.cross_weight, points, soft),
        (recipe.contrast.quantized_weight, soft, soft),
    )
    out: dict[str, Tensor] = {"contrastive": views.new_zeros(())}
    for weight, one, other in contrasts:
        if weight:
            distances = q.pairwise_distances(one, other)
            out["contrastive"] = out["contrastive"] + weight * losses.contrastive_loss(
                distances, targets, T
            )
    if hierarchy.labels:
        labels = [own[rows[:half]].to(codec.device) for own in hierarchy.labels]
        to_prototypes = [
            q.pairwise_distances(soft[:half], q.points(v)) for v in hierarchy.prototypes
        ]
        out["prototype"] = losses.prototype_loss(to_prototypes, labels, T)
        inside = q.pairwise_distances(soft[:half], soft[:half])
        out["neighbour"] = losses.neighbour_loss(inside, labels, T, generator)
    return out


def _drawn(
    batches: Batches, order: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All whole batches of an order, each drawn by another thread during the step before."""
    with ThreadPoolExecutor(1) as thread:
        ahead = None
        for rows in order[: len(order) // size * size].split(size):
            following = thread.submit(batches.draw, rows, generator)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _total(parts: dict[str, Tensor], recipe: Recipe) -> Tensor:
    weights = {
        "contrastive": 1.0,
        "prototype": recipe.hierarchy.prototype_weight,
        "neighbour": recipe.hierarchy.neighbour_weight,
    }
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum()


def learn(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    batches: Batches,
    recipe: Recipe,
    *,
    seed: int,
    trace_path: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> None:
    """The epochs.

    Parameters
    ----------
    codec : HiHPQCodec
        At its start; changed in place.
    x : ndarray, shape (n, d), float32
        Features to learn from, as ``batches`` counts them.
    batches : Batches
        Draws from them.
    recipe : Recipe
        With ``epochs`` settled.
    fingerprint : str
        Of all that the training depends on: a checkpoint with another one is refused.
    seed, trace_path, checkpoint, resume, progress
        See `trainer.train_codec`.
    """
    assert recipe.optimiser.epochs is not None
    n, batch = len(x), min(recipe.optimiser.batch, len(x))
    steps = n // batch
    levels = _levels(recipe, n)
    optimizers = make_optimizers(codec, recipe)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    if checkpoint and resume:
        first = load_checkpoint(checkpoint, codec, optimizers, generator, fingerprint)
    trace = Trace(trace_path, first)
    first_loss = math.nan
    with (progress or SilentProgress()).phase("train", recipe.optimiser.epochs, "epochs") as phase:
        phase.advance(first)
        for epoch in range(first, recipe.optimiser.epochs):
            hierarchy = Hierarchy()
            if levels and epoch >= recipe.hierarchy.warmup_epochs:
                hierarchy = _build(codec, tangents(codec, x), levels, seed + epoch)
            sums: dict[str, float] = {}
            order = torch.randperm(n, generator=generator)
            # Dropout draws from the global generator; seeded here, a resumed run draws the same.
            torch.manual_seed(seed * 100_003 + epoch)
            codec.train()
            # Its own source of chance, as steps and draws go on side by side.
            draws = int(torch.randint(2**62, (), generator=generator))
            drawn = _drawn(batches, order, batch, torch.Generator().manual_seed(draws))
            for step, (pair, whose, targets) in enumerate(drawn):
                now = rate(recipe, epoch + (step + 1) / steps)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = now
                    optimizer.zero_grad(set_to_none=True)
                parts = _step_loss(
                    codec,
                    recipe,
                    pair.to(codec.device),
                    whose,
                    targets.to(codec.device),
                    hierarchy,
                    generator,
                )
                total = _total(parts, recipe)
                total.backward()
                for optimizer in optimizers:
                    optimizer.step()
                codec.quantizer.clamp_()
                for name, value in {"total": total, **parts}.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
                if math.isnan(first_loss):
                    first_loss = float(parts["contrastive"].detach())
            codec.eval()
            check_loss(sums, batch, epoch, first_loss)
            facts = _epoch_facts(codec, x, recipe, optimizers, generator, sums, epoch)
            trace.add(epoch=epoch, **facts)
            if checkpoint:
                save_checkpoint(checkpoint, codec, optimizers, generator, epoch + 1, fingerprint)
            phase.advance(1, loss=sums["total"])


def _levels(recipe: Recipe, n: int) -> tuple[int, ...]:
    """Levels of the hierarchy that n images fill; none if its losses have no weight."""
    if not recipe.hierarchy.prototype_weight + recipe.hierarchy.neighbour_weight:
        return ()
    levels = usable_levels(recipe.hierarchy.levels, n)
    if len(levels) < len(recipe.hierarchy.levels):
        log.warning(
            "%d training images don't fill %s of the hierarchy's levels of %s clusters; "
            "the training goes on without.",
            n,
            "some" if levels else "any",
            ", ".join(map(str, recipe.hierarchy.levels)),
        )
    return levels


def _epoch_facts(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    recipe: Recipe,
    optimizers: Sequence[torch.optim.Optimizer],
    generator: torch.Generator,
    sums: dict[str, float],
    epoch: int,
) -> dict[str, Any]:
    """Statistics for the trace; unused codewords are moved on the way if the recipe says so."""
    q = codec.quantizer
    v = tangents(codec, x)
    check_values({"tangent vectors": v, "codebooks": q.codebooks, "log curvatures": q.log_c}, epoch)
    facts = {
        "losses": {name: round(value, 6) for name, value in sums.items()},
        "lr": optimizers[0].param_groups[0]["lr"],
        "curvature": [round(float(value), 6) for value in q.c.detach()],
        "radius": round(float(v.norm(dim=2).median()), 6),
    }
    if not recipe.learns_codebooks:
        return facts
    codes = q.codes(q.points(v.to(codec.device))).cpu()
    moved = 0
    if recipe.codebooks.repair and len(x) >= 4 * q.K:
        for m, index in enumerate(move_unused(codec, v, codes, generator)):
            moved += len(index)
            for state in (o.state.get(q.codebooks, {}) for o in optimizers):
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == q.codebooks.shape:
                        value[m, index.to(value.device)] = 0
        if moved:
            log.info("moved %d unused codewords to crowded places.", moved)
    return {**facts, **code_statistics(codes, q.K), "moved": moved}
