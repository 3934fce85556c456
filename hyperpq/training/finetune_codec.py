"""`finetune_codec`: a network and the codec of its features, learned end to end with one loss.

This is how the published method trains: the losses of a `Recipe`, with hierarchy and a
quantizer whose curvatures are learned, are computed on the features that the network has in each
step. The recipe of `presets.paper_finetuned` has the published losses; the variants of the
ablation are its fields ``geometry``, ``prototype_weight`` and ``neighbour_weight``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import METRICS
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training.features import tangent_vectors
from hyperpq.training.finalize import Finalizer
from hyperpq.training.finetune_features import (
    network_features,
    plain_squares,
    recalibrate,
    rooted,
)
from hyperpq.training.finetune_images import TrainingImages
from hyperpq.training.finetune_round import PairSampler, RoundPlan, RoundTrainer
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.graph import NeighbourGraph, build_graph, graph_features
from hyperpq.training.hierarchy import Hierarchy
from hyperpq.training.initialize import initialize_codec
from hyperpq.training.loop import filled_levels, step_loss, total_loss
from hyperpq.training.optimizers import make_optimizers
from hyperpq.training.recipe import Recipe
from hyperpq.training.repair import check_codes, refit_collapsed_codebooks
from hyperpq.training.sampling import Batch
from hyperpq.training.task import TrainingTask
from hyperpq.utils.validation import as_choice

# The slope of the root of a feature is limited to that at this share of the mean size.
_LEAST = 1e-3


class CodecObjective:
    """The losses of a recipe, on the features of the network in each step.

    Parameters
    ----------
    codec : HiHPQCodec
        At its start; its parameters learn.
    x : ndarray, shape (n, d), float32
        Features of the training images before the first step.
    recipe : Recipe
        Losses, hierarchy and optimiser.
    seed : int
        Of the hierarchy and of the neighbour loss.
    """

    def __init__(
        self, codec: HiHPQCodec, x: NDArray[np.float32], recipe: Recipe, seed: int
    ) -> None:
        self._codec, self._recipe, self._seed = codec, recipe, seed
        self._levels = filled_levels(recipe, len(x))
        self._hierarchy = Hierarchy()
        self._generator = torch.Generator().manual_seed(seed)
        self._least = _LEAST * float(np.abs(x).mean())

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those of the recipe."""
        return make_optimizers(self._codec, self._recipe)

    def begin_epoch(self, epoch: int, features: Callable[[], NDArray[np.float32]]) -> None:
        """Make the hierarchy of the features that the network has now."""
        self._codec.train()
        if self._levels and epoch >= self._recipe.hierarchy.warmup_epochs:
            v = tangent_vectors(self._codec, features())
            self._hierarchy = Hierarchy.from_tangents(
                v, self._levels, seed=self._seed + epoch, device=self._codec.device
            )

    def loss(self, features: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.loss`."""
        if self._codec.config.normalization == "power":
            # The root has an infinite slope at 0.
            sign = torch.where(features < 0, -1.0, 1.0)
            features = sign * features.abs().clamp_min(self._least)
        batch = Batch(features, sources, targets)
        parts = step_loss(self._codec, self._recipe, batch, self._hierarchy, self._generator)
        return total_loss(parts, self._recipe)

    def after_step(self) -> None:
        """Keep curvatures and codebooks in their range."""
        self._codec.quantizer.clamp_()


def recipe_settings(recipe: Recipe, settings: FinetuneSettings | None = None) -> FinetuneSettings:
    """Settings with the epochs, the batch and the graph of a recipe, in one round.

    The strength of the views is that of the recipe, too. The rate of the network, the decay of its
    weights, the resolution, the blocks and the seed stay as they are.
    """
    return replace(
        settings or FinetuneSettings(),
        rounds=1,
        minutes=0.0,
        epochs=recipe.optimiser.settled_epochs,
        batch=recipe.optimiser.batch,
        augmentation=recipe.views.augmentation,
        walk_steps=recipe.graph.walk_steps,
        positive_weight=recipe.contrast.positive_weight,
        holdout_check=False,
    )


def finetune_codec(
    images: TrainingImages,
    backbone: Backbone,
    recipe: Recipe,
    settings: FinetuneSettings | None = None,
    *,
    M: int = 4,
    nbits: int = 8,
    metric: str = "l1",
    device: str | None = None,
    progress: Progress | None = None,
) -> tuple[TunedWeights, HiHPQCodec]:
    """Learn a network and a codec together.

    Parameters
    ----------
    images : TrainingImages
        The training images.
    backbone : Backbone
        The network, which itself stays as it is.
    recipe : Recipe
        Losses and optimiser of the codec, such as `presets.paper_finetuned`; its objective is
        ``semantic``. A graph, if it has one, is made once, of the features before the first step.
    settings : FinetuneSettings, optional
        Of the network; see `recipe_settings` for what the recipe decides.
    M, nbits, metric
        See `train_codec`.
    device : str, optional
        ``cpu`` or ``cuda:N``; that of the backbone unless given.
    progress : Progress, optional
        Told about the phases.

    Returns
    -------
    weights : TunedWeights
        For `load_backbone`.
    codec : HiHPQCodec
        Of the features of the tuned network, on the CPU. There is no acceptance check, as in the
        paper.

    Raises
    ------
    InvalidInputError
        The objective is another one, or there are fewer than two images.
    TrainingError
        The training diverged or its codes collapsed.
    """
    if recipe.objective != "semantic" or len(images) < 2:
        raise InvalidInputError(
            f"the recipe has the objective {recipe.objective!r} and there are {len(images)} "
            "images; expected 'semantic' and two images or more."
        )
    progress = progress or SilentProgress()
    recipe = recipe.for_size(len(images))
    settings = recipe_settings(recipe, settings)
    network = backbone.trainable(device or backbone.device)
    rows = np.arange(len(images))
    where = str(network.device)
    x = _plain_features(network, images, progress)
    known = as_choice(metric, "metric", METRICS)
    task = TrainingTask(x, recipe, M, nbits, known, settings.seed, where)
    codec = initialize_codec(task)
    pairs = PairSampler(
        images,
        rows,
        _graph(x, recipe, where),
        None,
        settings,
        pinned=network.device.type == "cuda",
    )
    objective = CodecObjective(codec, x, recipe, settings.seed)
    trainer = RoundTrainer(network, images, rows, settings)
    trainer.run(RoundPlan(1, settings.epochs), pairs, objective, progress)
    codec.eval()
    if settings.batch_norm == "recalibrate":
        recalibrate(network, images, rows)
    weights = network.changes()
    network.load_changes(weights)
    x = _plain_features(network, images, progress)
    with progress.phase("codebooks", None, ""):
        if recipe.learns_codebooks:
            refit_collapsed_codebooks(codec, x, recipe, settings.seed)
        codec = Finalizer(replace(task, x=x)).refined(codec)
        check_codes(codec, x)
    return weights, codec.to("cpu").eval()


def _plain_features(
    network: TrainableNetwork, images: TrainingImages, progress: Progress
) -> NDArray[np.float32]:
    """Features of all images, as an index has them."""
    with progress.phase("features", len(images)) as phase:
        rows = np.arange(len(images))
        return network_features(network, images, rows, phase, plain_squares(network.size))


def _graph(x: NDArray[np.float32], recipe: Recipe, device: str) -> NeighbourGraph | None:
    graph = recipe.graph
    if not graph.graph_neighbours or not graph.graph_steps:
        return None
    z = graph_features(rooted(x, x))
    return build_graph(z, graph.graph_neighbours, graph.graph_steps, device=device)
