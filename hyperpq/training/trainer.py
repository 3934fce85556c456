"""`train_codec`: from features and their views to a codec."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from hyperpq.additive import INNER
from hyperpq.averaging import fit_centroids
from hyperpq.codec import SAMPLE, HiHPQCodec, evenly
from hyperpq.codes import unpack
from hyperpq.devices import single_thread
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.lorentz import SCORES
from hyperpq.progress import Progress
from hyperpq.training.batches import Batches
from hyperpq.training.diagnostics import is_collapsed
from hyperpq.training.fidelity import fit_fidelity
from hyperpq.training.graph import NeighbourGraph, build_graph, graph_features, picture_weight
from hyperpq.training.guard import FEWEST, MARGIN, Guard, hold_out
from hyperpq.training.loop import learn
from hyperpq.training.recipe import Recipe
from hyperpq.training.start import (
    conditioned,
    fill_branch,
    fit_conditioning,
    fit_head,
    start_codebooks,
    tangents,
)
from hyperpq.training.views import feature_views

log = logging.getLogger(__name__)

# Below this many pictures there is nothing to contrast: the codec stays PCA and k-means.
SMALLEST_TRAINING = 16
_COLLAPSED = (
    "the codes of {} different features collapsed to almost one; lower the learning rate, raise "
    "the temperature or use epochs=0 (PCA and k-means)."
)
# Most rows that views are made of in feature space; the others are on the graph all the same.
_MADE = 8192
# Most pictures whose views decide what a view is worth on the graph.
_WEIGHED = 2000


@single_thread()
def train_codec(
    x: NDArray[np.float32],
    views: NDArray[Any] | None = None,
    *,
    view_rows: NDArray[np.int64] | None = None,
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
    views : ndarray, shape (V, v, d), optional
        Features of V augmented views of the same pictures; made in feature space unless given.
    view_rows : ndarray, shape (v,), int64, optional
        Rows of ``x``, each once, that ``views`` are of; all rows unless given. Pictures without
        views take part in the graph and the contrast with their features alone.
    M, nbits, score
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
        Trained, in evaluation mode, on ``device``; with the objective ``fidelity`` its score is
        ``inner``, whatever ``score`` is.

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
    recipe = recipe.with_epochs(n)
    rows = np.arange(n) if view_rows is None else view_rows
    if views is not None and (
        views.ndim != 3 or views.shape[1:] != (len(rows), d) or not len(views)
    ):
        raise InvalidInputError(f"views have shape {views.shape}; expected (V, {len(rows)}, {d}).")
    if recipe.objective == "fidelity":
        return _keep_neighbours(x, M, nbits, recipe, seed, device, progress)
    if score == INNER:
        raise InvalidInputError(
            f"score is {score!r}, which only codes of objective='fidelity' have; choose one of "
            f"{', '.join(SCORES)}."
        )
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
        average_weight=recipe.average_weight,
        average_neighbours=recipe.average_neighbours,
        temperature=recipe.temperature,
        distil_epochs=recipe.distil_epochs,
    )
    codec.recipe = recipe.to_dict()
    codec.to(device).eval()
    with torch.no_grad():
        fit_conditioning(codec, x)
        codec.product.log_c.fill_(math.log(recipe.curvature))
    fit_head(codec, x, recipe.radius, seed)
    if recipe.learns_codebooks:
        start_codebooks(codec, x, seed)
    fill_branch(codec, seed)

    def finished(learned: HiHPQCodec, bits: int = M * nbits, bits_each: int = nbits) -> HiHPQCodec:
        """With the codebooks of the requested length."""
        learned.keep_sample(tangents(learned, evenly(x)))
        if learned.average_weight:
            learned.set_centroids(fit_centroids(learned.sample.cpu().float(), seed=seed))
        learned.is_trained = True
        if not recipe.subspaces:
            return learned.eval()
        everything = x if n > SAMPLE else None
        return learned.with_bits(bits, nbits=bits_each, x=everything, seed=seed).to(device)

    def plain(one: HiHPQCodec, *length: int) -> HiHPQCodec:
        """A copy with codebooks of k-means and nothing more: at the start, PCA and k-means."""
        one = copy.deepcopy(one)
        one.average_weight, one.distil_epochs = 0.0, 0
        return finished(one, *length)

    if not recipe.epochs:
        return plain(codec)
    if views is None and recipe.graph_neighbours and n > _MADE:
        rows = _some(n, seed)
    # Too few pictures have views to judge by: then any may be held out, with views made of it.
    judged = rows if views is None or len(rows) >= FEWEST else _some(n, seed)
    held = hold_out(len(judged), seed) if recipe.guard else np.arange(0)
    if n < SMALLEST_TRAINING or (recipe.guard and not len(held)):
        log.warning(
            "%d pictures are too few to learn from: the codec is PCA and k-means, no more.",
            min(n, len(judged)),
        )
        return plain(codec)
    made = views if views is not None else feature_views(x[rows], recipe.n_views, seed=seed)
    start = copy.deepcopy(codec) if recipe.guard else None
    # Without a graph a picture's only partner is a view of its own.
    able = np.arange(n) if recipe.graph_neighbours else rows
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
        _check_codes(codec, x, seed)
    if start is not None:
        own = views is not None and judged is rows
        asked = made if judged is rows else feature_views(x[judged], 1, seed=seed)
        guard = Guard(codec, x[judged], asked, held, are_pictures=own)
        # The verdict is on what was learned: one for all lengths of a code, on the subspaces that
        # it was learned on, and without averaging, which draws noise together, too.
        length = (8 * recipe.subspaces, 8) if recipe.subspaces else ()
        before, after = (guard.agreement(plain(one, *length)) for one in (start, codec))
        verdict = (
            f"agreement of {len(held)} held-out pictures {after:.3f}, {before:.3f} at the start"
        )
        log.info("%s.", verdict)
        if after - before < MARGIN * (1 - before):
            log.warning("learning didn't help (%s): the codec is PCA and k-means.", verdict)
            return plain(start)
    learned = finished(codec)
    if not recipe.learns_codebooks and _is_collapsed(learned, x):
        raise TrainingError(_COLLAPSED.format(len(x)))
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
) -> HiHPQCodec:
    """A codec of the other aim: exact neighbours, under the score that they are learned for."""
    assert recipe.epochs is not None
    state = fit_fidelity(
        x, M, nbits, seed=seed, epochs=recipe.epochs, device=device, progress=progress
    )
    codec = HiHPQCodec(
        x.shape[1],
        M,
        nbits,
        D=state.quantizer.D,
        score=INNER,
        conditioning="unit",
    )
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
    """The graph of features ``x`` of the rows ``kept``; views of pictures take part."""
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
        weight = recipe["picture_weight"]
        if not weight:
            some = evenly(inside, _WEIGHED)
            few = [conditioned(codec, view[some]) for view in views]
            weight = picture_weight(own[evenly(rows, _WEIGHED)], few)
            log.info("on the graph a picture weighs %.1f times as much as a view.", weight)
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
    digest.update(repr((sorted(codec.settings().items()), seed)).encode())
    return digest.hexdigest()


def _cuda_numbers(device: str) -> list[int]:
    """GPUs whose random state training changes."""
    return [torch.device(device).index or 0] if device.startswith("cuda") else []


def _is_collapsed(codec: HiHPQCodec, x: NDArray[np.float32]) -> bool:
    """Whether different features have almost one code; equal ones may."""
    x = evenly(x)
    if (x == x[0]).all():
        return False
    codes = unpack(codec.encode(x), codec.M, codec.quantizer.nbits)
    return is_collapsed(torch.from_numpy(codes.copy()), codec.quantizer.K)


def _check_codes(codec: HiHPQCodec, x: NDArray[np.float32], seed: int) -> None:
    """Refit collapsed codebooks that were learned once; raise if that doesn't help."""
    codec.is_trained = True
    if not _is_collapsed(codec, x):
        return
    log.warning("the codes collapsed in training: the codebooks are fitted again by k-means.")
    start_codebooks(codec, x, seed)
    if _is_collapsed(codec, x):
        raise TrainingError(_COLLAPSED.format(len(x)))
