"""Product codes of another length for a representation that was learned already.

A representation learned on a few wide subspaces serves every code length: its F coordinates are cut
into as many subspaces as the code has codes, and k-means gives each its codebook. Codebooks learned
together with the representation end worse (docs/method.md). Afterwards they are refined, so that
codes rank as the continuous vectors do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hyperpq.codec.sample import SAMPLE_SIZE, evenly
from hyperpq.codec.smoothing import fit_centroids
from hyperpq.codec.subspaces import (
    split_coordinates,
    split_curvatures,
    spread_coordinates,
    take_coordinates,
    varying_coordinates,
)
from hyperpq.geometry.registry import Metric
from hyperpq.quantizers.fit_product import distil_codebooks, fit_codebooks

if TYPE_CHECKING:
    from hyperpq.codec.hihpq import HiHPQCodec

C = TypeVar("C", bound="HiHPQCodec")


def fit_length(codec: C, M: int, nbits: int, metric: Metric, rows: Tensor, *, seed: int) -> C:
    """Make a codec with codes of another length, whose codebooks are fitted to some vectors.

    Parameters
    ----------
    codec : HiHPQCodec
        A trained codec; left as it is.
    M : int
        Subspaces.
    nbits : {8, 4}
        Bits of one code.
    metric : {"l1", "geodesic", "chord"}
        Metric of the codes.
    rows : Tensor, shape (n, F)
        Tangent vectors on the CPU, n >= 1, in the coordinates of the codec's sample.
    seed : int
        Seed of k-means and of the refinement.

    Returns
    -------
    HiHPQCodec
        On the CPU; trained.
    """
    F = codec.sample.shape[1]
    some = evenly(rows)
    order = spread_coordinates(some, len(codec.learned_log_c), M)
    index = split_coordinates(F, M, order)
    # Noise of another subspace, which fills one up, has no say in its curvature.
    curved = index if order is None else np.where(varying_coordinates(some)[index], index, -1)
    log_c = split_curvatures(codec.learned_log_c.cpu(), F, curved)
    max_norm = _clip_radius(codec, M, log_c)
    other = _with_map(codec, M, nbits, metric, max_norm, index)
    if order is not None:
        other.order = nn.Buffer(torch.from_numpy(order))
    _keep(other, codec, rows, seed)
    smoothing = other.smoothing_with(other.centroids.float())
    smoothed = torch.cat([smoothing(some) for some in rows.split(SAMPLE_SIZE)])
    v = take_coordinates(smoothed, index).unflatten(1, (M, index.shape[1]))
    q = other.quantizer
    q.log_c.copy_(log_c)
    fit_codebooks(q, v, seed=seed)
    distil_codebooks(
        q,
        evenly(v),
        codec.learned_space(metric),
        evenly(rows),
        codec.config.temperature,
        codec.config.distil_epochs,
        seed=seed,
    )
    other.is_trained, other.is_learned = True, codec.is_learned
    return other


def _clip_radius(codec: HiHPQCodec, M: int, log_c: Tensor) -> float:
    """Clip radius of M subspaces: vectors of fewer, wider ones are longer."""
    learned = len(codec.learned_log_c)
    radius = codec.learned_max_norm * max(1.0, learned / M) ** 0.5
    return min(radius, codec.quantizer.geometry.max_radius / float(log_c.exp().sqrt().max()))


def _with_map(
    codec: C, M: int, nbits: int, metric: Metric, max_norm: float, index: NDArray[np.int64]
) -> C:
    """A codec with the same map, its coordinates in the subspaces that ``index`` gives them to."""
    config = replace(
        codec.config,
        M=M,
        nbits=nbits,
        D=index.shape[1],
        metric=metric,
        max_norm=max_norm,
        # Its columns stay orthonormal, but no training keeps them so any more.
        head="linear",
    )
    other = type(codec)(config)
    columns = torch.from_numpy(codec.columns())
    state = {name: value.detach().cpu() for name, value in codec.state_dict().items()}
    state["weight"] = state["weight"] * state.pop("scale")
    for name in ("weight", "bias", "down"):
        if name in state:
            getattr(other, name).copy_(take_coordinates(state[name][..., columns], index))
    for name in ("mean", "up", "up_bias"):
        if name in state:
            getattr(other, name).copy_(state[name])
    return other


def _keep(other: HiHPQCodec, codec: HiHPQCodec, rows: Tensor, seed: int) -> None:
    """Give a codec what later calls of `HiHPQCodec.with_bits` need: sample, centroids, learning."""
    sample, centroids = evenly(rows).half(), codec.centroids.cpu()
    if codec.config.smoothing_weight and not torch.equal(sample, codec.sample.cpu()):
        centroids = fit_centroids(sample.float(), seed=seed)
    other.sample = nn.Buffer(sample)
    other.set_centroids(centroids)
    other.learned_log_c = nn.Buffer(codec.learned_log_c.detach().cpu().clone())
    other.learned_max_norm, other.recipe = codec.learned_max_norm, codec.recipe
