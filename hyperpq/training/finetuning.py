"""`finetune`: an image network learns from the neighbours of its own features, without labels.

A round computes the features of the training images, makes their neighbour graph, and lets the
network learn the affinities of the graph on augmented views. The next round starts from the
better features. Images that are held out decide which round is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training.finetune_check import MAX_SEARCHED, FinetuneCheck
from hyperpq.training.finetune_features import network_features, recalibrate, rooted
from hyperpq.training.finetune_images import TrainingImages
from hyperpq.training.finetune_objective import CosineObjective
from hyperpq.training.finetune_round import PairSampler, RoundPlan, RoundTrainer
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.finetune_state import (
    FinetuneState,
    RoundRecord,
    finetune_fingerprint,
    load_state,
    save_state,
)
from hyperpq.training.graph import NeighbourGraph, build_graph, graph_features
from hyperpq.training.split import MIN_CHECKED_IMAGES, MIN_TRAINING_IMAGES, hold_out

log = logging.getLogger(__name__)

# Images of the steps that are timed for an estimate.
_ESTIMATE_IMAGES = 8


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning gave.

    Attributes
    ----------
    weights : TunedWeights or None
        For `load_backbone`: those of the round that was kept. If none was, those that the backbone
        had before, None for a network as it came.
    kept : int
        Number of the round that was kept, from 1; 0 if the network stays as it was.
    rounds : tuple of RoundRecord
        What was measured before the first round and after each.
    settings : FinetuneSettings
        All settings.
    images : int
        Number of training images.
    """

    weights: TunedWeights | None
    kept: int
    rounds: tuple[RoundRecord, ...]
    settings: FinetuneSettings
    images: int

    def to_dict(self) -> dict[str, Any]:
        """What an index records of it, as JSON types."""
        return {
            "kept": self.kept,
            "images": self.images,
            "weights": None if self.weights is None else self.weights.hash,
            "rounds": [asdict(record) for record in self.rounds],
            "settings": self.settings.to_dict(),
        }


def finetune(
    images: TrainingImages,
    backbone: Backbone,
    settings: FinetuneSettings | None = None,
    *,
    device: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_round: Callable[[RoundRecord, TunedWeights], None] | None = None,
) -> FinetuneResult:
    """Fine-tune a network on images without labels.

    Parameters
    ----------
    images : TrainingImages
        The training images, in any order. Each is asked for about ``2 * epochs`` times a round.
    backbone : Backbone
        The network, which itself stays as it is: one of the embedded networks, ``timm:`` or
        ``open_clip:``. If it is tuned already, its weights are where the rounds start.
    settings : FinetuneSettings, optional
        All settings.
    device : str, optional
        ``cpu`` or ``cuda:N``; that of the backbone unless given.
    checkpoint : Path, optional
        File that is replaced after each round.
    resume : bool
        Whether to go on after the last round in ``checkpoint``, if it exists. With a number of
        epochs the result is then that of an undisturbed run, bit for bit on a CPU.
    progress : Progress, optional
        Told about phases ``features``, ``graph``, ``fine-tune`` and ``check``.
    on_round : callable, optional
        Told about each round and its weights as soon as it has ended.

    Returns
    -------
    FinetuneResult
        The same for the same images, settings, seed and machine on a CPU, unless there is a time
        limit.

    Raises
    ------
    BackboneError
        The backbone cannot be fine-tuned.
    TrainingError
        The training diverged, or the checkpoint belongs to another one.
    CorruptIndexError
        The checkpoint cannot be read.
    """
    device = device or backbone.device
    settings, count = (settings or FinetuneSettings()).on_device(device), len(images)
    network = backbone.trainable(device)
    needed = MIN_CHECKED_IMAGES if settings.holdout_check else MIN_TRAINING_IMAGES
    if count < needed:
        log.warning(
            "%s too few to fine-tune a network on, which takes %d or more: it stays as it is.",
            "1 image is" if count == 1 else f"{count:,} images are",
            needed,
        )
        return FinetuneResult(backbone.tuned, 0, (), settings, count)
    rounds = _Rounds(network, images, settings, progress or SilentProgress())
    state = FinetuneState((rounds.first,), backbone.tuned, backbone.tuned, 0, 0.0)
    fingerprint = finetune_fingerprint(images, backbone, settings)
    if checkpoint is not None and resume:
        state = load_state(checkpoint, fingerprint, state)
    for reached in rounds.following(state):
        state = reached
        if checkpoint is not None:
            save_state(checkpoint, fingerprint, state)
        if on_round is not None and state.last is not None:
            on_round(state.records[-1], state.last)
    if state.kept_round == 0:
        log.warning(
            "fine-tuning is left out, as no round clearly improved the agreement of images that it "
            "had not seen (%s): the network stays as it was; with more images or a lower learning "
            "rate it may help.",
            ", ".join(f"{one.score:.3f}" for one in state.records if one.score is not None),
        )
    return FinetuneResult(state.kept, state.kept_round, state.records, settings, count)


class _Rounds:
    """The rounds on one network; the parameters are those of `finetune`.

    Attributes
    ----------
    first : RoundRecord
        Of the network before the first round.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        images: TrainingImages,
        settings: FinetuneSettings,
        progress: Progress,
    ) -> None:
        self._network, self._images = network, images
        self._settings, self._progress = settings, progress
        every = np.arange(len(images))
        held_out = hold_out(len(images), settings.seed) if settings.holdout_check else every[:0]
        self._rows = np.setdiff1d(every, held_out)
        self._trainer = RoundTrainer(network, images, self._rows, settings)
        begun = time.perf_counter()
        self._features = self._all_features()
        self._check = None
        if settings.holdout_check:
            self._check = FinetuneCheck(images, held_out, network.size, settings.seed)
        self.first = RoundRecord(0, score=self._score())
        self._anchor = self._graph() if settings.anchor else None
        # What each round needs beside its steps.
        self._between = time.perf_counter() - begun

    def following(self, state: FinetuneState) -> Iterator[FinetuneState]:
        """The states after each of the rounds that are left."""
        settings, network = self._settings, self._network
        if state.last is not None and len(state.records) > 1:
            network.load_changes(state.last)
            self._features = self._all_features()
        for number in range(len(state.records), settings.rounds + 1):
            begun = time.perf_counter()
            seconds = self._time_limit(number, state.seconds)
            pairs = PairSampler(
                self._images,
                self._rows,
                self._graph(),
                self._anchor,
                settings,
                pinned=network.device.type == "cuda",
            )
            objective = CosineObjective(self._features[self._rows], settings, network.device)
            plan = RoundPlan(number, settings.epochs, seconds)
            done = self._trainer.run(plan, pairs, objective, self._progress)
            if settings.batch_norm == "recalibrate":
                recalibrate(network, self._images, self._rows)
            last = network.changes()
            # As they are stored, so that the next round starts from what may be kept.
            network.load_changes(last)
            self._features = self._all_features()
            record = RoundRecord(
                number, done.steps, done.images, done.seconds, done.loss, self._score()
            )
            log.info("fine-tuning: %s", record)
            state = state.after(record, last, state.seconds + time.perf_counter() - begun)
            yield state

    def _time_limit(self, number: int, spent: float) -> float | None:
        """Seconds for the steps of a round: an equal share of what is left, without the rest."""
        if not self._settings.minutes:
            return None
        left = 60 * self._settings.minutes - spent - (self._between if number == 1 else 0)
        return max(0.0, left / (self._settings.rounds - number + 1) - self._between)

    def _all_features(self) -> NDArray[np.float32]:
        with self._progress.phase("features", len(self._images)) as phase:
            return network_features(
                self._network, self._images, np.arange(len(self._images)), phase
            )

    def _graph(self) -> NeighbourGraph:
        own = self._features[self._rows]
        z = graph_features(rooted(own, own))
        settings = self._settings
        with self._progress.phase("graph", None, ""):
            return build_graph(
                z, settings.neighbours, settings.graph_steps, device=str(self._network.device)
            )

    def _score(self) -> float | None:
        if self._check is None:
            return None
        with self._progress.phase("check", self._check.views) as phase:
            return self._check.score(self._network, phase)


def estimate_seconds(
    images: TrainingImages,
    backbone: Backbone,
    settings: FinetuneSettings | None = None,
    *,
    device: str | None = None,
) -> float:
    """How long `finetune` will take, by a few steps and features that are timed here.

    With a time limit it is that limit, or more if even the features of the rounds take longer.

    Parameters
    ----------
    images, backbone, settings, device
        Those of `finetune`.

    Returns
    -------
    float
        Seconds. The estimate takes some seconds itself: three steps of at most eight images.
    """
    device = device or backbone.device
    settings, count = (settings or FinetuneSettings()).on_device(device), len(images)
    network = backbone.trainable(device)
    rows = np.arange(min(count, _ESTIMATE_IMAGES))
    few = replace(settings, batch=len(rows))
    phase = SilentProgress()._open("estimate", None, "")
    seconds = []
    for _ in range(2):  # the first time takes longer
        begun = time.perf_counter()
        features = network_features(network, images, rows, phase)
        seconds.append(time.perf_counter() - begun)
    # The features of an image are those of two inputs, and the check has as many views of each.
    searched = min(count, MAX_SEARCHED) if settings.holdout_check else 0
    between = (settings.rounds + 1) * (count + searched) * min(seconds) / len(rows)
    if settings.minutes:
        return max(60 * settings.minutes, between)
    pairs = next(PairSampler(images, rows, None, None, few, pinned=False).batches(0))
    trainer = RoundTrainer(network, images, rows, few)
    step = trainer.time_step(pairs, CosineObjective(features, few, network.device))
    return settings.rounds * settings.epochs * count * step / len(rows) + between
