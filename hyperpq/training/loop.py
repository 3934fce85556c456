"""The epochs of a training: steps on batches, a new hierarchy for each epoch, and statistics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.quantizers.ward import usable_levels
from hyperpq.training import losses
from hyperpq.training.checkpoint import load_checkpoint, save_checkpoint
from hyperpq.training.features import tangent_vectors
from hyperpq.training.hierarchy import Hierarchy
from hyperpq.training.optimizers import learning_rate, make_optimizers
from hyperpq.training.recipe import Recipe
from hyperpq.training.repair import move_unused_codewords
from hyperpq.training.sampling import Batch, BatchSampler
from hyperpq.training.task import TrainingRun
from hyperpq.training.trace import Trace, check_loss, check_values, code_statistics

log = logging.getLogger(__name__)

# Codewords are only repaired with so many features for each: with fewer, unused ones are normal.
_MIN_ROWS_PER_CODEWORD = 4
# The global random generator is seeded with ``seed * _SEED_STRIDE + epoch``.
_SEED_STRIDE = 100_003


@dataclass(frozen=True)
class LoopOptions:
    """How the epochs are run.

    Attributes
    ----------
    seed : int
        Of every random choice.
    fingerprint : str
        Of all that the training depends on: a checkpoint with another one is refused.
    run : TrainingRun
        Trace, checkpoint and progress.
    """

    seed: int
    fingerprint: str = ""
    run: TrainingRun = field(default_factory=TrainingRun)


def learn(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    sampler: BatchSampler,
    recipe: Recipe,
    options: LoopOptions,
) -> None:
    """Run the epochs.

    Parameters
    ----------
    codec : HiHPQCodec
        At its start; changed in place.
    x : ndarray, shape (m, d), float32
        Features of the images that are learned from, in the order of the sampler.
    sampler : BatchSampler
        Draws batches of them.
    recipe : Recipe
        With a settled number of epochs.
    options : LoopOptions
        Seed, files and progress.

    Raises
    ------
    TrainingError
        The training diverged, or the checkpoint or the trace belongs to another training.
    CorruptIndexError
        The checkpoint can't be read.
    """
    with options.run.progress.phase("prepare", None, ""):
        loop = TrainingLoop(codec, x, sampler, recipe, options)
    loop.run()


def step_loss(
    codec: HiHPQCodec,
    recipe: Recipe,
    batch: Batch,
    hierarchy: Hierarchy,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The losses of one batch, each without its weight.

    Parameters
    ----------
    codec : HiHPQCodec
        Maps views to points, and quantizes these.
    recipe : Recipe
        Of the training.
    batch : Batch
        On the device of the codec.
    hierarchy : Hierarchy
        Of the training features; without levels there is only the contrastive loss.
    generator : Generator
        Draws the neighbours of the neighbour loss.

    Returns
    -------
    dict of str to Tensor
        Scalars by name: ``contrastive``, ``prototype`` and ``neighbour``.
    """
    contrast, T = recipe.contrast, recipe.contrast.temperature
    q, first_half = codec.quantizer, len(batch.views) // 2
    points = q.points(codec.tangent(batch.views))
    quantized = points
    if contrast.quantizes:
        quantized = q.straight_through(points) if contrast.straight_through else q.attend(points)[0]
    out: dict[str, Tensor] = {"contrastive": batch.views.new_zeros(())}
    for weight, one, other in (
        (contrast.continuous_weight, points, points),
        (contrast.cross_weight, points, quantized),
        (contrast.quantized_weight, quantized, quantized),
    ):
        if weight:
            distances = q.pairwise_distances(one, other)
            out["contrastive"] = out["contrastive"] + weight * losses.contrastive_loss(
                distances, batch.targets, T
            )
    if hierarchy.labels:
        # First views alone, whose images are those that the batch was drawn for.
        own = quantized[:first_half]
        images = batch.sources[:first_half]
        labels = [labels[images].to(codec.device, non_blocking=True) for labels in hierarchy.labels]
        to_prototypes = [q.pairwise_distances(own, q.points(v)) for v in hierarchy.prototypes]
        out["prototype"] = losses.prototype_loss(to_prototypes, labels, T)
        among_views = q.pairwise_distances(own, own)
        out["neighbour"] = losses.neighbour_loss(among_views, labels, T, generator)
    return out


def total_loss(parts: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """The weighted sum of what `step_loss` returned."""
    weights = {
        "contrastive": 1.0,
        "prototype": recipe.hierarchy.prototype_weight,
        "neighbour": recipe.hierarchy.neighbour_weight,
    }
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum()


def filled_levels(recipe: Recipe, n: int) -> tuple[int, ...]:
    """Levels of the hierarchy that n images fill; none if its losses have no weight."""
    settings = recipe.hierarchy
    if not settings.prototype_weight + settings.neighbour_weight:
        return ()
    levels = usable_levels(settings.levels, n)
    if len(levels) < len(settings.levels):
        log.warning(
            "%d training images don't fill %s of the hierarchy's levels of %s clusters; "
            "the training goes on without them.",
            n,
            "some" if levels else "any",
            ", ".join(map(str, settings.levels)),
        )
    return levels


class TrainingLoop:
    """The state of the epochs; the parameters are those of `learn`."""

    def __init__(
        self,
        codec: HiHPQCodec,
        x: NDArray[np.float32],
        sampler: BatchSampler,
        recipe: Recipe,
        options: LoopOptions,
    ) -> None:
        self.codec, self.recipe = codec, recipe
        self._x, self._sampler, self._options = x, sampler, options
        self._batch_size = min(recipe.optimiser.batch, len(x))
        self._levels = filled_levels(recipe, len(x))
        self.optimizers = make_optimizers(codec, recipe)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._first_loss = math.nan

    def run(self) -> None:
        """Run the epochs that are left."""
        options, epochs = self._options, self.recipe.optimiser.settled_epochs
        run = options.run
        first = 0
        if run.checkpoint and run.resume:
            first = load_checkpoint(
                run.checkpoint,
                self.codec,
                self.optimizers,
                self._generator,
                options.fingerprint,
            )
        trace = Trace(run.trace_path, first)
        with run.progress.phase("train", epochs, "epochs") as phase:
            phase.advance(first)
            for epoch in range(first, epochs):
                means = self._run_epoch(epoch)
                check_loss(means, self._batch_size, epoch, self._first_loss)
                trace.add(epoch=epoch, **self.close_epoch(means, epoch))
                if run.checkpoint:
                    save_checkpoint(
                        run.checkpoint,
                        self.codec,
                        self.optimizers,
                        self._generator,
                        epoch + 1,
                        options.fingerprint,
                    )
                phase.advance(1, loss=means["total"])

    def _run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the features; the mean of each loss."""
        codec, n, seed = self.codec, len(self._x), self._options.seed
        steps = n // self._batch_size
        hierarchy = Hierarchy()
        if self._levels and epoch >= self.recipe.hierarchy.warmup_epochs:
            v = tangent_vectors(codec, self._x)
            hierarchy = Hierarchy.from_tangents(
                v, self._levels, seed=seed + epoch, device=codec.device
            )
        losses: list[dict[str, Tensor]] = []
        order = torch.randperm(n, generator=self._generator)
        # Dropout draws from the global generator; seeded here, a resumed run draws the same.
        torch.manual_seed(seed * _SEED_STRIDE + epoch)
        codec.train()
        for step, batch in enumerate(self._batches(order)):
            losses.append(self._step(batch, hierarchy, epoch + (step + 1) / steps))
        codec.eval()
        # Read once an epoch: after each step a GPU would wait for the next one.
        if math.isnan(self._first_loss):
            self._first_loss = float(losses[0]["contrastive"])
        return {
            name: float(torch.stack([one[name] for one in losses]).double().mean())
            for name in losses[0]
        }

    def _batches(self, order: Tensor) -> Iterator[Batch]:
        """All whole batches of an order, each drawn by another thread during the step before."""
        # With a generator of its own, since steps and draws go on side by side.
        seed = int(torch.randint(2**62, (), generator=self._generator))
        generator = torch.Generator().manual_seed(seed)
        size = self._batch_size
        with ThreadPoolExecutor(1) as thread:
            ahead = None
            for positions in order[: len(order) // size * size].split(size):
                following = thread.submit(self._draw, positions, generator)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def _draw(self, positions: Tensor, generator: torch.Generator) -> Batch:
        batch = self._sampler.draw(positions, generator)
        return batch.pinned() if self.codec.device.type == "cuda" else batch

    def _step(self, batch: Batch, hierarchy: Hierarchy, progress: float) -> dict[str, Tensor]:
        """One step of the optimisers, after ``progress`` epochs; the losses and their total."""
        rate = learning_rate(self.recipe.optimiser, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        parts = step_loss(
            self.codec, self.recipe, batch.to(self.codec.device), hierarchy, self._generator
        )
        total = total_loss(parts, self.recipe)
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.codec.quantizer.clamp_()
        return {name: value.detach() for name, value in {"total": total, **parts}.items()}

    def close_epoch(self, means: dict[str, float], epoch: int) -> dict[str, Any]:
        """Check the values, move unused codewords if the recipe says so, and describe the epoch.

        Parameters
        ----------
        means : dict of str to float
            Mean of each loss.
        epoch : int
            For the message of an error.

        Returns
        -------
        dict
            What the trace says about the epoch, as JSON types.

        Raises
        ------
        TrainingError
            Values are beyond what float32 can go on with.
        """
        q = self.codec.quantizer
        v = tangent_vectors(self.codec, self._x)
        check_values(
            {"tangent vectors": v, "codebooks": q.codebooks, "log curvatures": q.log_c}, epoch
        )
        facts = {
            "losses": {name: round(value, 6) for name, value in means.items()},
            "lr": self.optimizers[0].param_groups[0]["lr"],
            "curvature": [round(float(value), 6) for value in q.c.detach()],
            "radius": round(float(v.norm(dim=2).median()), 6),
        }
        if not self.recipe.learns_codebooks:
            return facts
        codes = q.codes(q.points(v.to(self.codec.device))).cpu()
        moved = 0
        if self.recipe.codebooks.repair and len(self._x) >= _MIN_ROWS_PER_CODEWORD * q.K:
            moved = self._repair(v, codes)
        return {**facts, **code_statistics(codes, q.K), "moved": moved}

    def _repair(self, v: Tensor, codes: Tensor) -> int:
        """Move unused codewords, and clear their optimiser state; how many."""
        codebooks = self.codec.quantizer.codebooks
        moved = 0
        for m, index in enumerate(move_unused_codewords(self.codec, v, codes, self._generator)):
            moved += len(index)
            for state in (o.state.get(codebooks, {}) for o in self.optimizers):
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == codebooks.shape:
                        value[m, index.to(value.device)] = 0
        if moved:
            log.info("moved %d unused codewords to features far from their codewords.", moved)
        return moved
