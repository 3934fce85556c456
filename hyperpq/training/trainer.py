"""`train_codec`: the loop that learns a codec from features and their views."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec import HiHPQCodec
from hyperpq.devices import single_thread
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training import losses
from hyperpq.training.checkpoint import load_checkpoint, save_checkpoint
from hyperpq.training.diagnostics import (
    Trace,
    check_loss,
    check_values,
    code_statistics,
    is_collapsed,
)
from hyperpq.training.hierarchy import build_hierarchy, usable_levels
from hyperpq.training.recipe import Recipe
from hyperpq.training.start import (
    fit_codebooks,
    fit_conditioning,
    fit_head,
    move_unused,
    tangents,
)
from hyperpq.training.views import feature_views

log = logging.getLogger(__name__)

# Below this many pictures there is nothing to contrast: the codec stays PCA and k-means.
SMALLEST_TRAINING = 16


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


def _optimizers(codec: HiHPQCodec, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Optimisers of the free parameters; a Riemannian one for an orthogonal head."""
    q = codec.quantizer
    decayed, free = [q.codebooks], [codec.bias]
    if recipe.train_curvature:
        free.append(q.log_c)
    if codec.head == "linear":
        decayed.insert(0, codec.weight)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    out: list[torch.optim.Optimizer]
    if recipe.optimizer == "sgd":
        out = [torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)]
    else:
        out = [torch.optim.AdamW(groups, lr=recipe.lr)]
    if codec.head == "orthogonal":
        import geoopt

        codec.weight = geoopt.ManifoldParameter(
            codec.weight.detach(), manifold=geoopt.EuclideanStiefel()
        )
        if recipe.optimizer == "sgd":
            riemannian = geoopt.optim.RiemannianSGD(
                [codec.weight], lr=recipe.lr, momentum=recipe.momentum
            )
        else:
            riemannian = geoopt.optim.RiemannianAdam([codec.weight], lr=recipe.lr)
        out.append(riemannian)
    return out


def _rate(recipe: Recipe, progress: float) -> float:
    """Learning rate after ``progress`` epochs: linear rise, then a cosine to 0."""
    if progress < recipe.lr_warmup:
        return recipe.lr * progress / recipe.lr_warmup
    rest = (progress - recipe.lr_warmup) / max(recipe.epochs - recipe.lr_warmup, 1e-9)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def _step_loss(
    codec: HiHPQCodec,
    recipe: Recipe,
    views: Tensor,
    rows: Tensor,
    hierarchy: Hierarchy,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of one batch; ``views`` (2 B, d), first all first views, then all second."""
    q, half = codec.quantizer, len(views) // 2
    soft, _ = q.attend(q.points(codec.tangent(views)))
    distances = q.product_score(soft, soft)
    out = {"contrastive": losses.contrastive_loss(distances, recipe.temperature)}
    if hierarchy.labels:
        labels = [own[rows].to(codec.device) for own in hierarchy.labels]
        to_prototypes = [q.product_score(soft[:half], q.points(v)) for v in hierarchy.prototypes]
        out["prototype"] = losses.prototype_loss(to_prototypes, labels, recipe.temperature)
        out["neighbour"] = losses.neighbour_loss(
            distances[:half, :half], labels, recipe.temperature, generator
        )
    return out


def _total(parts: dict[str, Tensor], recipe: Recipe) -> Tensor:
    weights = {
        "contrastive": 1.0,
        "prototype": recipe.prototype_weight,
        "neighbour": recipe.neighbour_weight,
    }
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum()


def _fingerprint(x: NDArray[np.float32], views: NDArray[Any], codec: HiHPQCodec, seed: int) -> str:
    digest = xxhash.xxh3_128(x.data)
    for view in views:
        digest.update(np.ascontiguousarray(view).data)
    digest.update(repr((sorted(codec.settings().items()), seed)).encode())
    return digest.hexdigest()


@single_thread()
def train_codec(
    x: NDArray[np.float32],
    views: NDArray[Any] | None = None,
    *,
    M: int = 4,
    nbits: int = 8,
    score: str = "l1",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "cpu",
    trace_path: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> HiHPQCodec:
    """Learn a codec.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features of the training pictures, un-augmented; n >= 1.
    views : ndarray, shape (V, n, d), optional
        Features of V augmented views of the same pictures; made in feature space unless given.
    M, nbits, score
        See `LorentzProductQuantizer`.
    recipe : Recipe, optional
        Hyperparameters; the default preset unless given.
    seed : int
        Same data, recipe, seed and machine: the same codec bit for bit on a CPU.
    device : str
        Torch device.
    trace_path : Path, optional
        JSON-lines file: losses, codeword use, entropy, curvatures of each epoch.
    checkpoint : Path, optional
        File replaced after each epoch.
    resume : bool
        Go on from ``checkpoint`` if it is there.
    progress : Progress, optional
        Where to report.

    Returns
    -------
    HiHPQCodec
        Trained, in evaluation mode, on ``device``.

    Raises
    ------
    InvalidInputError
        Shapes that don't fit.
    TrainingError
        The training diverged or its codes collapsed beyond repair.
    """
    recipe = recipe or Recipe()
    n, d = x.shape
    if n == 0:
        raise InvalidInputError("x has no rows; training needs at least one feature.")
    if views is not None and (views.ndim != 3 or views.shape[1:] != x.shape or len(views) == 0):
        raise InvalidInputError(f"views have shape {views.shape}; expected (V, {n}, {d}).")
    codec = HiHPQCodec(
        d,
        M,
        nbits,
        D=max(1, recipe.width // M),
        score=score,
        beta=recipe.beta,
        max_norm=recipe.max_norm,
        conditioning=recipe.conditioning,
        head=recipe.head,
    )
    codec.recipe = recipe.to_dict()
    codec.to(device)
    with torch.no_grad():
        fit_conditioning(codec, x)
    fit_head(codec, x, recipe.radius, seed)
    fit_codebooks(codec, x, seed)
    if n < SMALLEST_TRAINING:
        log.warning(
            "%d pictures are too few to learn from: the codec is PCA and k-means, no more.", n
        )
    elif recipe.epochs:
        made = views if views is not None else feature_views(x, recipe.n_views, seed=seed)
        _learn(codec, x, made, recipe, seed, trace_path, checkpoint, resume, progress)
        _check_codes(codec, x, seed)
    codec.is_trained = True
    return codec.eval()


def _learn(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    views: NDArray[Any],
    recipe: Recipe,
    seed: int,
    trace_path: Path | None,
    checkpoint: Path | None,
    resume: bool,
    progress: Progress | None,
) -> None:
    """The epochs."""
    n, batch = len(x), min(recipe.batch, len(x))
    steps = n // batch
    levels = usable_levels(recipe.levels, n)
    if len(levels) < len(recipe.levels):
        log.warning(
            "%d training pictures don't fill %s of the hierarchy's levels of %s clusters; "
            "the training goes on without.",
            n,
            "some" if levels else "any",
            ", ".join(map(str, recipe.levels)),
        )
    optimizers = _optimizers(codec, recipe)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    fingerprint = _fingerprint(x, views, codec, seed) if checkpoint else ""
    if checkpoint and resume:
        first = load_checkpoint(checkpoint, codec, optimizers, generator, fingerprint)
    trace = Trace(trace_path, first)
    first_loss = math.nan
    # With one view its partner is the picture itself.
    pool = views if len(views) > 1 else np.stack([x, views[0]])
    with (progress or SilentProgress()).phase("train", recipe.epochs, "epochs") as phase:
        phase.advance(first)
        for epoch in range(first, recipe.epochs):
            hierarchy = Hierarchy()
            if levels and epoch >= recipe.warmup_epochs:
                hierarchy = _build(codec, tangents(codec, x), levels, seed + epoch)
            sums: dict[str, float] = {}
            order = torch.randperm(n, generator=generator)
            for step in range(steps):
                rate = _rate(recipe, epoch + (step + 1) / steps)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.zero_grad(set_to_none=True)
                rows = order[step * batch : (step + 1) * batch]
                pair = _draw_pair(pool, rows, generator)
                parts = _step_loss(codec, recipe, pair.to(codec.device), rows, hierarchy, generator)
                total = _total(parts, recipe)
                total.backward()
                for optimizer in optimizers:
                    optimizer.step()
                codec.quantizer.clamp_()
                for name, value in {"total": total, **parts}.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
                if math.isnan(first_loss):
                    first_loss = float(parts["contrastive"].detach())
            check_loss(sums, batch, epoch, first_loss)
            facts = _epoch_facts(codec, x, recipe, optimizers, generator, sums, epoch)
            trace.add(epoch=epoch, **facts)
            if checkpoint:
                save_checkpoint(checkpoint, codec, optimizers, generator, epoch + 1, fingerprint)
            phase.advance(1, loss=sums["total"])


def _draw_pair(pool: NDArray[Any], rows: Tensor, generator: torch.Generator) -> Tensor:
    """Two different views of each picture of a batch, stacked to (2 B, d)."""
    count = len(pool)
    a = torch.randint(count, rows.shape, generator=generator)
    b = (a + torch.randint(1, count, rows.shape, generator=generator)) % count
    index = rows.numpy()
    both = np.concatenate([pool[a.numpy(), index], pool[b.numpy(), index]])
    return torch.from_numpy(both.astype(np.float32, copy=False))


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
    codes = q.codes(q.points(v.to(codec.device))).cpu()
    moved = 0
    if recipe.repair and len(x) >= 4 * q.K:
        for m, index in enumerate(move_unused(codec, v, codes, generator)):
            moved += len(index)
            for state in (o.state.get(q.codebooks, {}) for o in optimizers):
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == q.codebooks.shape:
                        value[m, index.to(value.device)] = 0
        if moved:
            log.info("moved %d unused codewords to crowded places.", moved)
    return {
        "losses": {name: round(value, 6) for name, value in sums.items()},
        "lr": optimizers[0].param_groups[0]["lr"],
        **code_statistics(codes, q.K),
        "curvature": [round(float(value), 6) for value in q.c.detach()],
        "radius": round(float(v.norm(dim=2).median()), 6),
        "moved": moved,
    }


def _check_codes(codec: HiHPQCodec, x: NDArray[np.float32], seed: int) -> None:
    """Refit collapsed codebooks once; raise if that doesn't help.

    Equal features may have equal codes: only different ones count as collapsed.
    """
    q = codec.quantizer

    def collapsed() -> bool:
        return is_collapsed(q.codes(q.points(tangents(codec, x).to(codec.device))).cpu(), q.K)

    if (x == x[0]).all() or not collapsed():
        return
    log.warning("the codes collapsed in training: the codebooks are fitted again by k-means.")
    fit_codebooks(codec, x, seed)
    if collapsed():
        raise TrainingError(
            f"the codes of {len(x)} different features collapsed to almost one; "
            "lower the learning rate, raise the temperature or use epochs=0 (PCA and k-means)."
        )
