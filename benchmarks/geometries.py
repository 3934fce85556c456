"""Other geometries in the place of the hyperbolic one, for ablations.

`geometry` swaps the functions of `hyperpq.geometry.lorentz` and the steps that use more than these (scores
of all pairs, the nearest codeword and k-means), so that training, fitting of codebooks and search
run in flat or spherical space and are otherwise the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperpq.geometry import lorentz
from hyperpq.quantizers import fit_product as codebooks
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.quantizers.product import LorentzProductQuantizer

GEOMETRIES = ("hyperbolic", "euclidean", "spherical")
_FLOOR = 1e-8
_LLOYD = 10


def _flat_matrix(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    squares = (x * x).sum(-1).unsqueeze(-1) + (y * y).sum(-1).unsqueeze(-2)
    return (squares - 2 * x @ y.transpose(-1, -2)).clamp_min(_FLOOR)


def _flat_score(q2: Tensor, c: Tensor, metric: str) -> Tensor:
    return q2.clamp_min(_FLOOR).sqrt() if metric == "l1" else q2


def _flat_centroid(x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True) @ x


def _sphere_time(x: Tensor, c: Tensor) -> Tensor:
    return (1 / c - (x * x).sum(-1)).clamp_min(_FLOOR).sqrt()


def _sphere_expmap0(v: Tensor, c: Tensor) -> Tensor:
    """Tangent vectors of the pole to points of its half of the sphere."""
    angle = (c * (v * v).sum(-1)).clamp_min(1e-12).sqrt().unsqueeze(-1)
    return torch.sin(angle) / angle * v


def _sphere_sqchord(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    across = _sphere_time(x, c) - _sphere_time(y, c)
    return (x - y).square().sum(-1) + across.square()


def _sphere_matrix(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    times = _sphere_time(x, c).unsqueeze(-1) * _sphere_time(y, c).unsqueeze(-2)
    return (2 * ((1 / c).unsqueeze(-1) - times - x @ y.transpose(-1, -2))).clamp_min(_FLOOR)


def _sphere_score(q2: Tensor, c: Tensor, metric: str) -> Tensor:
    if metric == "chord":
        return q2
    half = (c * q2.clamp_min(_FLOOR)).sqrt() / 2
    d = 2 / c.sqrt() * torch.asin(half.clamp_max(1 - 1e-6))
    return d * d if metric == "geodesic" else d


def _sphere_centroid(x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
    p = weights / weights.sum(-1, keepdim=True)
    space, time = p @ x, (p @ _sphere_time(x, c).unsqueeze(-1)).squeeze(-1)
    norm = (time * time + (space * space).sum(-1)).clamp_min(_FLOOR)
    return space * torch.rsqrt(c * norm).unsqueeze(-1)


def _sphere_logmap0(x: Tensor, c: Tensor) -> Tensor:
    sine = (c * (x * x).sum(-1)).clamp(1e-12, 1).sqrt().unsqueeze(-1)
    return torch.asin(sine) / sine * x


def _table(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """`lorentz.sqchord_table` by the swapped matrix, in float64."""
    return lorentz.sqchord_matrix(x.double(), y.double(), c.double()).to(x.dtype)


_FUNCTIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "hyperbolic": {},
    "euclidean": {
        "expmap0": lambda v, c: v,
        "logmap0": lambda x, c: x,
        "time_part": lambda x, c: torch.zeros_like(x[..., 0]),
        "sqchord": lambda x, y, c: (x - y).square().sum(-1),
        "sqchord_matrix": _flat_matrix,
        "sqchord_table": _table,
        "score_of": _flat_score,
        "centroid": _flat_centroid,
    },
    "spherical": {
        "expmap0": _sphere_expmap0,
        "logmap0": _sphere_logmap0,
        "time_part": _sphere_time,
        "sqchord": _sphere_sqchord,
        "sqchord_matrix": _sphere_matrix,
        "sqchord_table": _table,
        "score_of": _sphere_score,
        "centroid": _sphere_centroid,
    },
}


def _product_score(q: LorentzProductQuantizer, x: Tensor, y: Tensor) -> Tensor:
    """`LorentzProductQuantizer.product_score` by the swapped functions."""
    c = q.c[:, None]
    q2 = lorentz.sqchord_matrix(x.transpose(0, 1), y.transpose(0, 1), c)
    return lorentz.score_of(q2, c[..., None], q.metric).sum(0)


@torch.no_grad()
def _codes(q: LorentzProductQuantizer, x: Tensor) -> Tensor:
    """`LorentzProductQuantizer.codes` by whole distances."""
    words, c = q.codewords(), q.c[:, None]
    blocks = [
        lorentz.sqchord_matrix(rows.transpose(0, 1), words, c).argmin(-1).T
        for rows in x.split(4096)
    ]
    return torch.cat(blocks).to(torch.uint8)


@torch.no_grad()
def _kmeans(
    v: Tensor, K: int, c: Tensor, max_norm: float, *, seed: int, iterations: int = _LLOYD
) -> Tensor:
    """`codebooks.lorentz_kmeans` by the swapped functions."""
    v = lorentz.clip_norm(v, max_norm)
    words = torch.from_numpy(kmeans(np.ascontiguousarray(v.numpy()), K, seed=seed)[0])
    if len(v) <= K:
        return words
    points = lorentz.expmap0(v, c)
    for _ in range(iterations):
        distances = [
            lorentz.sqchord_matrix(rows, lorentz.expmap0(words, c), c[None])
            for rows in points.split(4096)
        ]
        own = torch.cat([block.argmin(-1) for block in distances])
        sums = torch.zeros(K, points.shape[1]).index_add_(0, own, points)
        times = torch.zeros(K).index_add_(0, own, lorentz.time_part(points, c))
        count = torch.bincount(own, minlength=K)
        # A mean, brought back onto the sphere; in flat space times are 0 and it is the mean.
        mean, time = sums / count.clamp_min(1)[:, None], times / count.clamp_min(1)
        if bool((time > 0).any()):
            length = (mean.square().sum(1) + time.square()).clamp_min(_FLOOR).sqrt()
            mean = lorentz.logmap0(mean / (length * c.sqrt())[:, None], c)
        words = torch.where((count > 0)[:, None], mean, words)
    return words


@contextmanager
def geometry(name: str) -> Iterator[None]:
    """Everything inside runs in one of `GEOMETRIES`.

    Points of the sphere stay on the half around the pole: the clip radius times the root of the
    curvature must be below pi / 2.
    """
    swaps: list[tuple[Any, str, Any]] = [
        (lorentz, function, new) for function, new in _FUNCTIONS[name].items()
    ]
    if swaps:
        swaps += [
            (LorentzProductQuantizer, "codes", _codes),
            (LorentzProductQuantizer, "product_score", _product_score),
            (codebooks, "lorentz_kmeans", _kmeans),
        ]
    former = [(where, what, getattr(where, what)) for where, what, _ in swaps]
    try:
        for where, what, new in swaps:
            setattr(where, what, new)
        yield
    finally:
        for where, what, old in former:
            setattr(where, what, old)


@contextmanager
def straight_through() -> Iterator[None]:
    """Instead of the attention's mean, the nearest codeword, with the gradient of the point."""

    def attend(q: LorentzProductQuantizer, x: Tensor) -> tuple[Tensor, Tensor]:
        own = q.codes(x.detach()).long()
        words = q.codewords()[torch.arange(q.M, device=x.device), own]
        # Value: the codeword. Gradient: to the codeword, and the same one to the point.
        soft = words + x - x.detach()
        p = torch.nn.functional.one_hot(own.T, q.K).to(x)
        return soft, p

    former = LorentzProductQuantizer.attend
    try:
        LorentzProductQuantizer.attend = attend  # type: ignore[method-assign]
        yield
    finally:
        LorentzProductQuantizer.attend = former  # type: ignore[method-assign]
