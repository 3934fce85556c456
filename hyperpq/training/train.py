"""`train_codec`: from features and their views to a codec."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.learned import evenly
from hyperpq.codec.serialization import stored_settings
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import METRICS
from hyperpq.progress import Progress
from hyperpq.training.feature_views import feature_views
from hyperpq.training.finalize import Finish, check_codes, repair_codes
from hyperpq.training.graph import NeighbourGraph, build_graph, graph_features, image_weight
from hyperpq.training.holdout_check import FEWEST, Guard, hold_out
from hyperpq.training.initialize import conditioned, start_codec, tangents
from hyperpq.training.loop import learn
from hyperpq.training.recipe import Recipe
from hyperpq.training.reconstruction import fit_fidelity
from hyperpq.training.sampling import Batches
from hyperpq.utils.devices import single_thread
from hyperpq.utils.validation import as_choice

log = logging.getLogger(__name__)

# Below this many images there is nothing to contrast: the codec stays PCA and k-means.
SMALLEST_TRAINING = 16
# Most rows that views are made of in feature space; the others are on the graph all the same.
_MADE = 8192
# Most images whose views decide what a view is worth on the graph.
_WEIGHED = 2000


@single_thread()
def train_codec(
    x: NDArray[np.float32],
    views: NDArray[Any] | None = None,
    *,
    view_rows: NDArray[np.int64] | None = None,
    M: int = 4,
    nbits: int = 8,
    metric: str = "l1",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str = "cpu",
    trace_path: Path | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> HiHPQCodec | AdditiveCodec:
    """Learn a codec.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features of the training images, un-augmented; n >= 1.
    views : ndarray, shape (V, v, d), optional
        Features of V augmented views of the same images; made in feature space unless given.
    view_rows : ndarray, shape (v,), int64, optional
        Rows of ``x``, each once, that ``views`` are of; all rows unless given. Images without
        views take part in the graph and the contrast with their features alone.
    M, nbits, metric
        See `LorentzProductQuantizer`.
    recipe : Recipe, optional
        Hyperparameters; the default preset unless given.
    seed : int
        Same data, recipe, seed and machine: the same codec bit for bit on a CPU.
    device : str
        Torch device.
    trace_path : Path, optional
        JSON-lines file: losses and curvatures of each epoch, and use and entropy of codewords
        that are learned with the head.
    checkpoint : Path, optional
        File replaced after each epoch.
    resume : bool
        Go on from ``checkpoint`` if it is there.
    progress : Progress, optional
        Where to report.

    Returns
    -------
    HiHPQCodec
        Trained, in evaluation mode, on ``device``; with the objective ``fidelity`` its metric is
        ``inner``, whatever ``metric`` is.

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
    recipe = recipe.for_size(n)
    rows = np.arange(n) if view_rows is None else view_rows
    if views is not None and (
        views.ndim != 3 or views.shape[1:] != (len(rows), d) or not len(views)
    ):
        raise InvalidInputError(f"views have shape {views.shape}; expected (V, {len(rows)}, {d}).")
    if recipe.objective == "fidelity":
        return _keep_neighbours(x, M, nbits, recipe, seed, device, progress)
    metric = as_choice(metric, "metric", METRICS, "the metric 'inner' needs objective='fidelity'")
    codec = start_codec(x, M, nbits, metric, recipe, seed, device)
    finish = Finish(x, M, nbits, seed)
    if not recipe.optimiser.epochs:
        return finish.plain(codec)
    if views is None and recipe.graph.graph_neighbours and n > _MADE:
        rows = _some(n, seed)
    # Too few images have views to judge by: then any may be held out, with views made of it.
    judged = rows if views is None or len(rows) >= FEWEST else _some(n, seed)
    held = hold_out(len(judged), seed) if recipe.holdout_check else np.arange(0)
    if n < SMALLEST_TRAINING or (recipe.holdout_check and not len(held)):
        log.warning(
            "%d images are too few to learn from: the codec is PCA and k-means, no more.",
            min(n, len(judged)),
        )
        return finish.plain(codec)
    made = views if views is not None else feature_views(x[rows], recipe.views.n_views, seed=seed)
    start = copy.deepcopy(codec) if recipe.holdout_check else None
    # Without a graph an image's only partner is a view of its own.
    able = np.arange(n) if recipe.graph.graph_neighbours else rows
    kept = np.setdiff1d(able, judged[held])
    seen = x[kept]
    graph = _neighbour_graph(codec, seen, views, rows, kept)
    with torch.random.fork_rng(_cuda_numbers(device)):
        learn(
            codec,
            seen,
            Batches(x, made, rows, kept, graph, recipe),
            recipe,
            seed=seed,
            trace_path=trace_path,
            checkpoint=checkpoint,
            resume=resume,
            fingerprint=_fingerprint(x, made, rows, codec, seed) if checkpoint else "",
            progress=progress,
        )
    if recipe.learns_codebooks:
        repair_codes(codec, x, seed)
    if start is not None:
        own = views is not None and judged is rows
        asked = made if judged is rows else feature_views(x[judged], 1, seed=seed)
        guard = Guard(codec, x[judged], asked, held, are_images=own)
        if not guard.approves(finish.as_learned(start), finish.as_learned(codec)):
            return finish.plain(start)
    learned = finish.whole(codec)
    if not recipe.learns_codebooks:
        check_codes(learned, x)
    return learned


def _some(n: int, seed: int) -> NDArray[np.int64]:
    """Sorted rows of n to make views of: all, or as many as are made at most."""
    return np.sort(np.random.default_rng(seed).choice(n, min(n, _MADE), replace=False))


def _keep_neighbours(
    x: NDArray[np.float32],
    M: int,
    nbits: int,
    recipe: Recipe,
    seed: int,
    device: str,
    progress: Progress | None,
) -> AdditiveCodec:
    """A codec of the other objective: exact neighbours, under the metric that they are learned for."""
    assert recipe.optimiser.epochs is not None
    state = fit_fidelity(
        x, M, nbits, seed=seed, epochs=recipe.optimiser.epochs, device=device, progress=progress
    )
    codec = AdditiveCodec(AdditiveConfig(x.shape[1], M, nbits, state.quantizer.D, "unit"))
    with torch.no_grad():
        codec.weight.copy_(state.weight)
        codec.bias.copy_(state.bias)
    codec.quantizer = state.quantizer
    codec.recipe = recipe.to_dict()
    codec.to(device).keep_sample(tangents(codec, evenly(x)))
    codec.is_trained = True
    return codec.eval()


def _neighbour_graph(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    views: NDArray[Any] | None,
    view_rows: NDArray[np.int64],
    kept: NDArray[np.int64],
) -> NeighbourGraph | None:
    """The graph of features ``x`` of the rows ``kept``; views of images take part."""
    recipe = codec.recipe
    if not recipe["graph_neighbours"] or len(kept) < 3:
        return None
    own = conditioned(codec, x)
    if views is None:
        z = graph_features(own)
    else:
        # Both are in the order of `view_rows`.
        inside = np.flatnonzero(np.isin(view_rows, kept))
        rows = np.searchsorted(kept, view_rows[inside])
        weight = recipe["image_weight"]
        if not weight:
            some = evenly(inside, _WEIGHED)
            few = [conditioned(codec, view[some]) for view in views]
            weight = image_weight(own[evenly(rows, _WEIGHED)], few)
            log.info("on the graph an image weighs %.1f times as much as a view.", weight)
        mixed = (conditioned(codec, view[inside]) for view in views)
        z = graph_features(own, mixed, rows, weight)
    return build_graph(
        z, recipe["graph_neighbours"], recipe["graph_steps"], device=str(codec.device)
    )


def _fingerprint(
    x: NDArray[np.float32],
    views: NDArray[Any],
    view_rows: NDArray[np.int64],
    codec: HiHPQCodec,
    seed: int,
) -> str:
    digest = xxhash.xxh3_128(x.data)
    digest.update(view_rows.data)
    for view in views:
        digest.update(np.ascontiguousarray(view).data)
    digest.update(repr((sorted(stored_settings(codec).items()), seed)).encode())
    return digest.hexdigest()


def _cuda_numbers(device: str) -> list[int]:
    """GPUs whose random state training changes."""
    return [torch.device(device).index or 0] if device.startswith("cuda") else []
