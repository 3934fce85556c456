"""`train_codec`: the loop that learns a codec from features and their views."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec import SAMPLE, HiHPQCodec
from hyperpq.devices import single_thread
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training import losses
from hyperpq.training.batches import Batches
from hyperpq.training.checkpoint import load_checkpoint, save_checkpoint
from hyperpq.training.diagnostics import (
    Trace,
    check_loss,
    check_values,
    code_statistics,
    is_collapsed,
)
from hyperpq.training.fidelity import fit_fidelity
from hyperpq.training.graph import NeighbourGraph, build_graph, graph_features
from hyperpq.training.guard import MARGIN, agreement, hold_out
from hyperpq.training.hierarchy import build_hierarchy, usable_levels
from hyperpq.training.optimizers import make_optimizers, rate
from hyperpq.training.recipe import Recipe
from hyperpq.training.start import (
    conditioned,
    fill_branch,
    fit_conditioning,
    fit_head,
    move_unused,
    start_codebooks,
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
    q, half, T = codec.quantizer, len(views) // 2, recipe.temperature
    points = q.points(codec.tangent(views))
    is_quantized = recipe.cross_weight + recipe.quantized_weight > 0
    soft = q.attend(points)[0] if is_quantized else points
    contrasts = (
        (recipe.continuous_weight, points, points),
        (recipe.cross_weight, points, soft),
        (recipe.quantized_weight, soft, soft),
    )
    out: dict[str, Tensor] = {"contrastive": views.new_zeros(())}
    for weight, one, other in contrasts:
        if weight:
            distances = q.product_score(one, other)
            out["contrastive"] = out["contrastive"] + weight * losses.contrastive_loss(
                distances, targets, T
            )
    if hierarchy.labels:
        labels = [own[rows[:half]].to(codec.device) for own in hierarchy.labels]
        to_prototypes = [q.product_score(soft[:half], q.points(v)) for v in hierarchy.prototypes]
        out["prototype"] = losses.prototype_loss(to_prototypes, labels, T)
        inside = q.product_score(soft[:half], soft[:half])
        out["neighbour"] = losses.neighbour_loss(inside, labels, T, generator)
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
        Trained, in evaluation mode, on ``device``; with the objective ``fidelity`` its score is
        ``chord``, whatever ``score`` is.

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
    if recipe.objective == "fidelity":
        return _keep_neighbours(x, M, nbits, recipe, seed, device, progress)
    learned_M = recipe.subspaces or M
    codec = HiHPQCodec(
        d,
        learned_M,
        8 if recipe.subspaces else nbits,
        D=max(1, recipe.width // learned_M),
        score=score,
        beta=recipe.beta or 1.0,
        max_norm=recipe.max_norm,
        conditioning=recipe.conditioning,
        head=recipe.head,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
    )
    codec.recipe = recipe.to_dict()
    codec.to(device).eval()
    with torch.no_grad():
        fit_conditioning(codec, x)
        codec.quantizer.log_c.fill_(math.log(recipe.curvature))
    fit_head(codec, x, recipe.radius, seed)
    start_codebooks(codec, x, seed)
    fill_branch(codec, seed)

    def finished(learned: HiHPQCodec) -> HiHPQCodec:
        """With the codebooks of the requested length."""
        v = tangents(learned, x)
        learned.keep_sample(v)
        learned.is_trained = True
        if not recipe.subspaces:
            return learned.eval()
        everything = x if n > SAMPLE else None
        return learned.with_bits(M * nbits, nbits=nbits, x=everything, seed=seed).to(device)

    if not recipe.epochs:
        return finished(codec)
    kept, held = hold_out(n, seed) if recipe.guard else (np.arange(n), np.arange(0))
    if n < SMALLEST_TRAINING or (recipe.guard and not len(held)):
        log.warning(
            "%d pictures are too few to learn from: the codec is PCA and k-means, no more.", n
        )
        return finished(codec)
    made = views if views is not None else feature_views(x, recipe.n_views, seed=seed)
    start = finished(copy.deepcopy(codec)) if recipe.guard else None
    graph = _neighbour_graph(codec, x[kept], None if views is None else (v[kept] for v in views))
    pictures = Batches(x, made, kept, graph, recipe)
    options = (seed, trace_path, checkpoint, resume, progress)
    with torch.random.fork_rng(_cuda_numbers(device)):
        _learn(codec, x[kept], made, pictures, recipe, *options)
    _check_codes(codec, x, seed)
    learned = finished(codec)
    if start is not None:
        own = views is not None
        before, after = (
            agreement(one, x, made, held, are_pictures=own) for one in (start, learned)
        )
        verdict = (
            f"agreement of {len(held)} held-out pictures {after:.3f}, {before:.3f} at the start"
        )
        log.info("%s.", verdict)
        if after - before < MARGIN * (1 - before):
            log.warning("learning didn't help (%s): the codec is PCA and k-means.", verdict)
            return start
    return learned


def _keep_neighbours(
    x: NDArray[np.float32],
    M: int,
    nbits: int,
    recipe: Recipe,
    seed: int,
    device: str,
    progress: Progress | None,
) -> HiHPQCodec:
    """A codec of the other aim: exact neighbours, under the score that they are learned for."""
    state = fit_fidelity(
        x, M, nbits, seed=seed, epochs=recipe.epochs, device=device, progress=progress
    )
    codec = HiHPQCodec(
        x.shape[1],
        M,
        nbits,
        D=state.codebooks.shape[2],
        score=state.score,
        max_norm=state.max_norm,
        conditioning="unit",
    )
    with torch.no_grad():
        codec.weight.copy_(state.weight)
        codec.bias.copy_(state.bias)
        codec.quantizer.codebooks.copy_(state.codebooks)
        codec.quantizer.log_c.copy_(state.log_c)
    codec.recipe = recipe.to_dict()
    codec.to(device).keep_sample(tangents(codec, x))
    codec.is_trained = True
    return codec.eval()


def _neighbour_graph(
    codec: HiHPQCodec, x: NDArray[np.float32], views: Iterable[NDArray[Any]] | None
) -> NeighbourGraph | None:
    """The graph of conditioned features, and of the views of pictures if there are any."""
    recipe = codec.recipe
    if not recipe["graph_neighbours"] or len(x) < 3:
        return None
    own = conditioned(codec, x)
    mixed = None if views is None else (conditioned(codec, view) for view in views)
    z = graph_features(own, mixed)
    return build_graph(
        z, recipe["graph_neighbours"], recipe["graph_steps"], device=str(codec.device)
    )


def _cuda_numbers(device: str) -> list[int]:
    """GPUs whose random state training changes."""
    return [torch.device(device).index or 0] if device.startswith("cuda") else []


def _learn(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    views: NDArray[Any],
    batches: Batches,
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
    levels = _levels(recipe, n)
    optimizers = make_optimizers(codec, recipe)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    fingerprint = _fingerprint(x, views, codec, seed) if checkpoint else ""
    if checkpoint and resume:
        first = load_checkpoint(checkpoint, codec, optimizers, generator, fingerprint)
    trace = Trace(trace_path, first)
    first_loss = math.nan
    with (progress or SilentProgress()).phase("train", recipe.epochs, "epochs") as phase:
        phase.advance(first)
        for epoch in range(first, recipe.epochs):
            hierarchy = Hierarchy()
            if levels and epoch >= recipe.warmup_epochs:
                hierarchy = _build(codec, tangents(codec, x), levels, seed + epoch)
            sums: dict[str, float] = {}
            order = torch.randperm(n, generator=generator)
            # Dropout draws from the global generator; seeded here, a resumed run draws the same.
            torch.manual_seed(seed * 100_003 + epoch)
            codec.train()
            for step in range(steps):
                now = rate(recipe, epoch + (step + 1) / steps)
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = now
                    optimizer.zero_grad(set_to_none=True)
                rows = order[step * batch : (step + 1) * batch]
                pair, whose, targets = batches.draw(rows, generator)
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
    """Levels of the hierarchy that n pictures fill; none if its losses have no weight."""
    if not recipe.prototype_weight + recipe.neighbour_weight:
        return ()
    levels = usable_levels(recipe.levels, n)
    if len(levels) < len(recipe.levels):
        log.warning(
            "%d training pictures don't fill %s of the hierarchy's levels of %s clusters; "
            "the training goes on without.",
            n,
            "some" if levels else "any",
            ", ".join(map(str, recipe.levels)),
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
    start_codebooks(codec, x, seed)
    if collapsed():
        raise TrainingError(
            f"the codes of {len(x)} different features collapsed to almost one; "
            "lower the learning rate, raise the temperature or use epochs=0 (PCA and k-means)."
        )
