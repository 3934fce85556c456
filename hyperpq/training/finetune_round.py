"""One round of fine-tuning: steps on batches of augmented views, with the graph's targets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.errors import TrainingError
from hyperpq.progress import Phase, Progress
from hyperpq.training.finetune_features import (
    network_features,
    plain_squares,
    precision,
)
from hyperpq.training.finetune_images import TrainingImages, ahead, load_squares, pinned_if
from hyperpq.training.finetune_objective import Objective
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.graph import NeighbourGraph
from hyperpq.training.losses import positive_targets
from hyperpq.training.sampling import soft_targets

# Steps whose duration decides how many a time limit allows; the first two are slower.
TIMED_STEPS, _UNTIMED_STEPS = 8, 2
# Random numbers of rounds, which are apart by this much.
_STRIDE = 100_003
# Steps between two reports of the loss, which wait for the device.
_REPORT_STEPS = 10


@dataclass(frozen=True)
class Pairs:
    """The images of a step: B of the training, then a partner of each.

    Attributes
    ----------
    rows : ndarray, shape (2 B,), int64
        Rows of the images.
    pixels : Tensor, shape (2 B, S, S, 3), uint8
        On the CPU, in pinned memory for a GPU.
    sources : Tensor, shape (2 B,), int64
        Positions among the images that are learned from. On the CPU.
    targets : Tensor, shape (2 B, 2 B), float32
        Target affinities, where the pixels are. From other memory a copy to a GPU would wait for
        the step before.
    step : int
        Number of the step.
    """

    rows: NDArray[np.int64]
    pixels: Tensor
    sources: Tensor
    targets: Tensor
    step: int


class PairSampler:
    """Draws the batches of a round.

    Parameters
    ----------
    images : TrainingImages
        Where the pixels come from.
    rows : ndarray, shape (m,), int64
        Rows that are learned from.
    graph : NeighbourGraph or None
        Of these rows. Without it, the partner of a view is another view of the same image.
    anchor : NeighbourGraph or None
        A graph that gives the share ``settings.anchor`` of the affinities.
    settings : FinetuneSettings
        Batch, walks and weights.
    pinned : bool
        Whether pixels and targets go to pinned memory.
    """

    def __init__(
        self,
        images: TrainingImages,
        rows: NDArray[np.int64],
        graph: NeighbourGraph | None,
        anchor: NeighbourGraph | None,
        settings: FinetuneSettings,
        *,
        pinned: bool,
    ) -> None:
        self._images, self._rows, self._graph, self._anchor = images, rows, graph, anchor
        self._settings, self._pinned = settings, pinned
        assert settings.batch is not None  # `FinetuneSettings.on_device`
        self.batch = min(settings.batch, len(rows))
        self.steps_of_epoch = len(rows) // self.batch

    def batches(self, seed: int) -> Iterator[Pairs]:
        """Batches without end, each drawn while the last one is learned from."""
        return ahead(self._jobs(seed))

    def _jobs(self, seed: int) -> Iterator[Callable[[], Pairs]]:
        orders = torch.Generator().manual_seed(seed)
        # With a generator of its own, as batches are drawn by another thread.
        walks = torch.Generator().manual_seed(seed + 1)
        step = 0
        while True:
            order = torch.randperm(len(self._rows), generator=orders)
            for positions in order[: self.steps_of_epoch * self.batch].split(self.batch):
                yield partial(self._draw, positions, walks, step)
                step += 1

    def _draw(self, positions: Tensor, generator: torch.Generator, step: int) -> Pairs:
        graph, settings = self._graph, self._settings
        if graph is None:
            sources = torch.cat([positions, positions])
            targets = positive_targets(len(sources))
        else:
            partners = graph.walk(positions, settings.walk_steps, generator)
            sources = torch.cat([positions, partners])
            affinities = graph.affinities(sources)
            if self._anchor is not None:
                fixed = self._anchor.affinities(sources)
                affinities = torch.lerp(affinities, fixed, settings.anchor)
            targets = soft_targets(affinities, settings.positive_weight)
        rows = self._rows[sources.numpy()]
        pixels = load_squares(self._images, rows, pinned=self._pinned)
        return Pairs(rows, pixels, sources, pinned_if(targets, self._pinned), step)


@dataclass(frozen=True)
class RoundPlan:
    """How long a round is.

    Attributes
    ----------
    number : int
        Number of the round, from 1.
    epochs : int
        Passes over the images, without effect if there is a time limit.
    seconds : float or None
        Time limit.
    """

    number: int
    epochs: int
    seconds: float | None = None


@dataclass(frozen=True)
class RoundSteps:
    """What the steps of a round did.

    Attributes
    ----------
    steps, images : int
        Steps, and views that the network has seen in them.
    seconds : float
        Duration.
    loss : float
        Mean over the last tenth of the steps.
    """

    steps: int
    images: int
    seconds: float
    loss: float


class RoundTrainer:
    """Runs the steps of rounds on one network.

    Parameters
    ----------
    network : TrainableNetwork
        Changed in place.
    images : TrainingImages
        Where the pixels come from.
    rows : ndarray, shape (m,), int64
        Rows that are learned from.
    settings : FinetuneSettings
        All settings.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        images: TrainingImages,
        rows: NDArray[np.int64],
        settings: FinetuneSettings,
    ) -> None:
        self.network, self._images, self._rows, self._settings = network, images, rows, settings
        self._chosen = network.choose(settings.blocks)
        self.resolution = view_side(network, settings)

    def run(
        self,
        plan: RoundPlan,
        sampler: PairSampler,
        objective: Objective,
        progress: Progress,
    ) -> RoundSteps:
        """Run the steps of a round; the network is in evaluation mode before and after.

        Raises
        ------
        TrainingError
            The loss is not finite.
        """
        settings, network = self._settings, self.network
        seed = settings.seed * _STRIDE + plan.number
        views = DeviceViews(settings.views, self.resolution, seed)
        optimizers = self._optimizers(objective)
        average = {name: p.detach().clone() for name, p in self._chosen} if settings.ema else {}
        total = plan.epochs * sampler.steps_of_epoch
        if plan.seconds is not None:
            total = max(total, TIMED_STEPS)
        losses: list[Tensor] = []
        of_rounds = {"round": f"{plan.number} of {settings.rounds}"} if settings.rounds > 1 else {}
        begun = time.perf_counter()
        cuda = [network.device.index or 0] if network.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            torch.manual_seed(seed)  # of dropout and of skipped blocks
            stream = sampler.batches(seed)

            def run_steps(first: int, last: int, phase: Phase) -> None:
                for step, pairs in zip(range(first, last), stream, strict=False):
                    if step % sampler.steps_of_epoch == 0:
                        network.eval()
                        objective.begin_epoch(step // sampler.steps_of_epoch, self._features)
                    network.train_chosen(batch_statistics=settings.batch_norm != "frozen")
                    share = _rate(step, total, settings.warmup_steps)
                    losses.append(self._step(pairs, views, objective, optimizers, share))
                    self._follow(average)
                    facts: dict[str, float] = {}
                    if step % _REPORT_STEPS == 0 or step + 1 == last:
                        facts["loss"] = self._checked(losses[-1], plan.number, step)
                    phase.advance(len(pairs.rows), **of_rounds, **facts)

            done = 0
            if plan.seconds is not None:
                with progress.phase("time steps", TIMED_STEPS * 2 * sampler.batch) as phase:
                    run_steps(0, _UNTIMED_STEPS, phase)
                    self._wait()
                    start = time.perf_counter()
                    run_steps(_UNTIMED_STEPS, TIMED_STEPS, phase)
                    self._wait()
                done, now = TIMED_STEPS, time.perf_counter()
                each = (now - start) / (TIMED_STEPS - _UNTIMED_STEPS)
                total = max(done, done + int((plan.seconds - (now - begun)) / each))
            with progress.phase("fine-tune", (total - done) * 2 * sampler.batch) as phase:
                run_steps(done, total, phase)
                self._wait()
        stream.close()  # type: ignore[attr-defined]  # a generator
        with torch.no_grad():
            for name, parameter in self._chosen:
                if name in average:
                    parameter.copy_(average[name])
        network.eval()
        last = torch.stack(losses[-max(1, len(losses) // 10) :]).mean()
        return RoundSteps(
            total, total * 2 * sampler.batch, time.perf_counter() - begun, float(last)
        )

    def time_step(self, pairs: Pairs, objective: Objective) -> float:
        """Seconds of a step, by two after a first one; only statistics of the network change."""
        settings, seconds = self._settings, []
        optimizers = self._optimizers(objective)
        views = DeviceViews(settings.views, self.resolution, settings.seed)
        self.network.train_chosen(batch_statistics=settings.batch_norm != "frozen")
        for _ in range(3):
            begun = time.perf_counter()
            self._step(pairs, views, objective, optimizers, 0.0)
            self._wait()
            seconds.append(time.perf_counter() - begun)
        self.network.eval()
        return min(seconds[1:])

    def _step(
        self,
        pairs: Pairs,
        views: DeviceViews,
        objective: Objective,
        optimizers: Sequence[torch.optim.Optimizer],
        share: float,
    ) -> Tensor:
        """One step at a share of the highest rates; the loss, on the device."""
        device = self.network.device
        pixels = pairs.pixels.to(device, non_blocking=True)
        targets = pairs.targets.to(device, non_blocking=True)
        half = len(pixels) // 2
        with torch.no_grad():
            one = views(pixels[:half], pairs.rows[:half], 2 * pairs.step)
            other = views(pixels[half:], pairs.rows[half:], 2 * pairs.step + 1)
        with precision(device):
            features = self.network(torch.cat([one, other]))
        loss = objective.loss(features, pairs.sources, targets)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * share
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        objective.after_step()
        return loss.detach()

    def _optimizers(self, objective: Objective) -> list[torch.optim.Optimizer]:
        settings = self._settings
        groups: list[dict[str, Any]] = [
            {
                "params": [p for _, p in self._chosen if p.ndim >= 2],
                "weight_decay": settings.weight_decay,
            },
            {"params": [p for _, p in self._chosen if p.ndim < 2], "weight_decay": 0.0},
        ]
        own = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        optimizers = [own, *objective.optimizers()]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["highest"] = group["lr"]
        return optimizers

    def _follow(self, average: dict[str, Tensor]) -> None:
        """Move the average of the weights a step towards them."""
        if average:
            with torch.no_grad():
                for name, parameter in self._chosen:
                    average[name].lerp_(parameter, 1 - self._settings.ema)

    def _features(self) -> NDArray[np.float32]:
        make = plain_squares(self.network.size)
        return network_features(self.network, self._images, self._rows, _Silent(), make)

    def _wait(self) -> None:
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)

    def _checked(self, loss: Tensor, number: int, step: int) -> float:
        value = float(loss)
        if not math.isfinite(value):
            raise TrainingError(
                f"fine-tuning diverged: in step {step} of round {number} the loss is {value}; "
                f"expected a finite one; lower learning_rate, {self._settings.learning_rate:g}."
            )
        return value


class _Silent:
    def advance(self, n: int = 1, **facts: object) -> None:
        pass


def view_side(network: TrainableNetwork, settings: FinetuneSettings) -> int:
    """Side of the training views: as set, and that of the network if it takes no other one."""
    wanted = settings.resolution or 32 * max(1, round(network.size * 5 / 7 / 32))
    return wanted if network.works_at(wanted) else network.size


def _rate(step: int, total: int, warmup: int) -> float:
    """Share of the highest rate in a step: a linear rise, then a cosine to 0."""
    warmup = min(warmup, max(1, total // 4))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
