"""`train_codec`: from features and their views to a codec."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.config import balanced_parts, check_metric, fidelity_metric
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import stored_settings
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import METRICS
from hyperpq.training.feature_views import feature_views, transferred_views
from hyperpq.training.finalize import Finalizer
from hyperpq.training.graph import training_graph
from hyperpq.training.holdout_check import HoldoutCheck
from hyperpq.training.initialize import initialize_codec
from hyperpq.training.loop import LoopOptions, learn
from hyperpq.training.recipe import Recipe
from hyperpq.training.reconstruction import train_fidelity
from hyperpq.training.repair import check_codes, refit_collapsed_codebooks
from hyperpq.training.sampling import BatchSampler
from hyperpq.training.split import (
    MIN_CHECKED_IMAGES,
    MIN_TRAINING_IMAGES,
    TrainingSplit,
    split_rows,
)
from hyperpq.training.task import TrainingRun, TrainingTask
from hyperpq.utils.devices import single_thread
from hyperpq.utils.validation import as_choice

log = logging.getLogger(__name__)


@single_thread()
def train_codec(
    x: NDArray[np.float32],
    views: NDArray[np.floating] | None = None,
    *,
    view_rows: NDArray[np.int64] | None = None,
    M: int = 4,
    nbits: int = 8,
    metric: str = "l1",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "cpu",
    run: TrainingRun | None = None,
) -> HiHPQCodec | AdditiveCodec | BalancedCodec:
    """Learn a codec without labels.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features of the training images, without augmentation; n >= 1.
    views : ndarray, shape (V, v, d), optional
        Features of V augmented views of the same images. They are made in feature space unless
        given.
    view_rows : ndarray, shape (v,), int64, optional
        Rows of ``x``, each at most once, that ``views`` are of; all rows unless given. Images
        without views take part in the graph and the contrast with their features alone.
    M, nbits, metric
        See `ProductQuantizer`. With the objective ``fidelity`` the metric is ``cosine``, ``l2`` or
        ``ip``, and ``cosine`` if it is one of product codes. With ``balanced`` it is that of the
        semantic codes, and M is at least 2.
    recipe : Recipe, optional
        All settings; the preset ``default`` unless given.
    seed : int
        Of every random choice. The same data, recipe, seed and machine give the same codec bit for
        bit on a CPU.
    device : str
        Torch device.
    run : TrainingRun, optional
        Trace, checkpoint and progress; none of them by default.

    Returns
    -------
    HiHPQCodec, AdditiveCodec or BalancedCodec
        Trained, in evaluation mode, on ``device``; an `AdditiveCodec` with the objective
        ``fidelity``, and a `BalancedCodec` with ``balanced``. If the images are too few, or if the
        acceptance check of the recipe finds that learning did not help, it is PCA and k-means, and
        a warning says so.

    Raises
    ------
    InvalidInputError
        Shapes that don't fit, or an unknown metric.
    TrainingError
        The training diverged, its codes collapsed beyond repair, or the checkpoint belongs to
        another training.
    """
    run = run or TrainingRun()
    view_rows = _check_shapes(x, views, view_rows)
    recipe = (recipe or Recipe()).for_size(len(x))
    if recipe.objective == "fidelity":
        task = TrainingTask(x, recipe, M, nbits, "l1", seed, device)
        return train_fidelity(task, run.progress, metric=fidelity_metric(metric))
    check_metric(metric, recipe.objective)
    known = as_choice(metric, "metric", METRICS)
    task = TrainingTask(x, recipe, M, nbits, known, seed, device)
    codec: HiHPQCodec | BalancedCodec
    if recipe.objective == "balanced":
        codec = _balanced(task, views, view_rows, run)
    else:
        codec = _learn(task, views, view_rows, run)
    codec.warn_of_noise()
    return codec


def _balanced(
    task: TrainingTask,
    views: NDArray[np.floating] | None,
    view_rows: NDArray[np.int64] | None,
    run: TrainingRun,
) -> BalancedCodec:
    """The codec of a task whose objective is balanced: both parts learn from the same features."""
    semantic, fidelity = balanced_parts(task.M, task.nbits)
    codec = BalancedCodec(
        _learn(replace(task, M=semantic), views, view_rows, run),
        train_fidelity(replace(task, M=fidelity), run.progress),
        task.recipe.balance,
    )
    return codec.eval()


def _learn(
    task: TrainingTask,
    views: NDArray[np.floating] | None,
    view_rows: NDArray[np.int64] | None,
    run: TrainingRun,
) -> HiHPQCodec:
    """The codec of a task whose objective is semantic."""
    x, recipe, seed, device = task.x, task.recipe, task.seed, task.device
    split = split_rows(len(x), recipe, view_rows, seed=seed)
    finalizer = Finalizer(task)
    with run.progress.phase("prepare", None, ""):
        codec = initialize_codec(task)
    if not task.epochs:
        with run.progress.phase("codebooks", None, ""):
            return finalizer.start(codec)
    if not split.is_enough:
        n = len(split.check_rows)
        log.warning(
            "%s too few to learn from, which takes %d or more: the codes are those of PCA and "
            "k-means, with which search works, too.",
            "1 item is" if n == 1 else f"{n:,} items are",
            MIN_CHECKED_IMAGES if recipe.holdout_check else MIN_TRAINING_IMAGES,
        )
        with run.progress.phase("codebooks", None, ""):
            return finalizer.start(codec)

    start = copy.deepcopy(codec)
    with run.progress.phase("prepare", None, ""):
        graph = training_graph(codec, x, views, split, recipe.graph)
        if views is None:
            views = feature_views(x[split.view_rows], recipe.views.n_views, seed=seed)
        options = LoopOptions(
            seed=seed,
            fingerprint=_fingerprint(task, views, split, codec) if run.checkpoint else "",
            run=run,
        )
    with torch.random.fork_rng(_cuda_numbers(device)):
        with run.progress.phase("prepare", None, ""):
            sampler = BatchSampler(x, _drawn_views(task, views, split), split, graph, recipe)
        learn(codec, x[split.learning_rows], sampler, recipe, options)
    if recipe.learns_codebooks:
        refit_collapsed_codebooks(codec, x, recipe, seed)
    if recipe.holdout_check:
        with run.progress.phase("check", None, ""):
            check = _holdout_check(start, task, views, split)
            before, after = map(finalizer.plain_as_learned, (start, codec))
            is_accepted = check.accepts(before, after)
        if not is_accepted:
            with run.progress.phase("codebooks", None, ""):
                return finalizer.start(start)
    with run.progress.phase("codebooks", None, ""):
        learned = finalizer.refined(codec)
        if not recipe.learns_codebooks:
            check_codes(learned, x)
    return learned


def _drawn_views(
    task: TrainingTask, views: NDArray[np.floating], split: TrainingSplit
) -> NDArray[np.floating]:
    """The views that batches are drawn from: those of the images, and transferred ones."""
    count = task.recipe.views.transferred_views
    # Held-out images give nothing to those that are learned from.
    donors = np.flatnonzero(np.isin(split.view_rows, split.learning_rows))
    if not (count and split.has_image_views and len(donors)):
        return views
    x = task.x[split.view_rows]
    made = transferred_views(x, views, count, donors=donors, seed=task.seed)
    return np.concatenate([views, made])


def _check_shapes(
    x: NDArray[np.float32], views: NDArray[np.floating] | None, view_rows: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """Rows that the views are of, or None without views; raise if the shapes don't fit."""
    n, d = x.shape
    if n == 0:
        raise InvalidInputError("x has no rows; training needs at least one feature.")
    if views is None:
        if view_rows is not None:
            raise InvalidInputError("view_rows are given without views; expected both.")
        return None
    rows = np.arange(n) if view_rows is None else view_rows
    if views.ndim != 3 or views.shape[1:] != (len(rows), d) or not len(views):
        raise InvalidInputError(f"views have shape {views.shape}; expected (V, {len(rows)}, {d}).")
    return rows


def _holdout_check(
    codec: HiHPQCodec, task: TrainingTask, views: NDArray[np.floating], split: TrainingSplit
) -> HoldoutCheck:
    """The acceptance check of a split, with views made in feature space if too few have others."""
    x = task.x[split.check_rows]
    if not split.check_has_views:
        views = feature_views(x, 1, seed=task.seed)
    has_image_views = split.has_image_views and split.check_has_views
    return HoldoutCheck(codec, x, views, split.held_out, has_image_views=has_image_views)


def _fingerprint(
    task: TrainingTask, views: NDArray[np.floating], split: TrainingSplit, codec: HiHPQCodec
) -> str:
    """Digest of all that a training depends on."""
    digest = xxhash.xxh3_128(task.x.data)
    digest.update(split.view_rows.data)
    for view in views:
        digest.update(np.ascontiguousarray(view).data)
    digest.update(json.dumps([stored_settings(codec), task.seed], sort_keys=True).encode())
    return digest.hexdigest()


def _cuda_numbers(device: str) -> list[int]:
    """GPUs whose random state training changes."""
    return [torch.device(device).index or 0] if device.startswith("cuda") else []
