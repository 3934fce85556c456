"""The Lorentz (hyperboloid) model of hyperbolic space: pure functions on tensors, and `Lorentz`.

A point of the space of curvature ``-c`` (``c > 0``) is given by its space part ``x``, shape
(..., D); its time part is ``x0 = sqrt(1/c + |x|^2)``. The Lorentzian inner product is
``<x, y> = -x0 y0 + x.y``, and ``<x, x> = -1/c``. The shapes of ``c`` are as in `base`. Chords and
distances are in `lorentz_chord`, the distances of all pairs that training needs in `pairwise`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from hyperpq.geometry import lorentz_chord, pairwise
from hyperpq.geometry.base import Geometry
from hyperpq.geometry.lorentz_chord import time_part
from hyperpq.geometry.registry import Metric


def inner(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Lorentzian inner product ``-x0 y0 + x.y`` of points, shape (...,)."""
    return (x * y).sum(-1) - time_part(x, c) * time_part(y, c)


def _sinhc(u: Tensor) -> Tensor:
    """``sinh(sqrt u) / sqrt u`` with a series near 0, where the quotient has no gradient."""
    small = u < 1e-3
    safe = torch.where(small, torch.ones_like(u), u)
    root = torch.sqrt(safe)
    series = 1 + u / 6 * (1 + u / 20 * (1 + u / 42 * (1 + u / 72)))
    return torch.where(small, series, torch.sinh(root) / root)


def _asinhc(u: Tensor) -> Tensor:
    """``asinh(sqrt u) / sqrt u`` with a series near 0, where the quotient has no gradient."""
    small = u < 1e-3
    safe = torch.where(small, torch.ones_like(u), u)
    root = torch.sqrt(safe)
    series = 1 - u / 6 + u**2 * 3 / 40 - u**3 * 5 / 112 + u**4 * 35 / 1152
    return torch.where(small, series, torch.asinh(root) / root)


def expmap0(v: Tensor, c: Tensor) -> Tensor:
    """Exponential map at the origin.

    Parameters
    ----------
    v : Tensor, shape (..., D)
        Tangent vectors at the origin (their time part is 0 and not stored).
    c : Tensor, broadcasts against (...,)
        Negated curvature.

    Returns
    -------
    Tensor, shape (..., D)
        Space parts ``sinh(sqrt(c) |v|) / (sqrt(c) |v|) v``.
    """
    return _sinhc(c * (v * v).sum(-1)).unsqueeze(-1) * v


def logmap0(x: Tensor, c: Tensor) -> Tensor:
    """Logarithmic map at the origin, the inverse of `expmap0`; shapes as there."""
    return _asinhc(c * (x * x).sum(-1)).unsqueeze(-1) * x


def centroid(x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
    """Lorentz centroid: the point that minimises the weighted sum of squared chords.

    Parameters
    ----------
    x : Tensor, shape (..., n, D)
        Space parts.
    weights : Tensor, shape (..., b, n)
        Non-negative weights with a positive sum; b centroids of the same n points.
    c : Tensor, broadcasts against (..., 1)
        Negated curvature.

    Returns
    -------
    Tensor, shape (..., b, D)
        ``a / sqrt(c |<a, a>|)`` with ``a`` the weighted mean in the ambient space (Law et al.
        2019, Theorem 1). The relative error is about ``eps c x0^2``, as ``<a, a>`` is a difference.
    """
    p = weights / weights.sum(-1, keepdim=True)
    space = p @ x
    time = (p @ time_part(x, c).unsqueeze(-1)).squeeze(-1)
    # -<a, a> >= 1/c for means of points (reversed Cauchy-Schwarz); rounding may fall below.
    norm = torch.maximum(time * time - (space * space).sum(-1), 1 / c)
    return space * torch.rsqrt(c * norm).unsqueeze(-1)


def lift(x: Tensor, c: Tensor) -> Tensor:
    """Space parts (..., D) -> space and time parts (..., D + 1) of points."""
    return torch.cat([x, time_part(x, c).unsqueeze(-1)], -1)


def dual(x: Tensor, c: Tensor) -> Tensor:
    """Linear forms (..., D + 1): ``lift(y) @ dual(x) = -<x, y>`` rises with the distance."""
    return torch.cat([-x, time_part(x, c).unsqueeze(-1)], -1)


def project(a: Tensor, c: Tensor) -> Tensor:
    """Space parts (..., D) of timelike ambient vectors (..., D + 1) scaled back to points.

    ``a / sqrt(c |<a, a>|)``; of a sum of points it is their centroid (Law et al. 2019, Theorem 1).
    """
    space, time = a[..., :-1], a[..., -1]
    length = (time.square() - space.square().sum(-1)).clamp_min(1e-30).sqrt() * c.sqrt()
    return space / length.unsqueeze(-1)


class Lorentz(Geometry):
    """Hyperbolic space of curvature -c in the Lorentz model.

    Beyond ``max_radius`` float32 loses near distances (docs/method.md).
    """

    name: ClassVar[str] = "lorentz"
    sign: ClassVar[Literal[-1, 0, 1]] = -1
    max_radius: ClassVar[float] = 5.0

    @override
    def expmap0(self, v: Tensor, c: Tensor) -> Tensor:
        return expmap0(v, c)

    @override
    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        return logmap0(x, c)

    @override
    def lift(self, x: Tensor, c: Tensor) -> Tensor:
        return lift(x, c)

    @override
    def dual(self, x: Tensor, c: Tensor) -> Tensor:
        return dual(x, c)

    @override
    def project(self, a: Tensor, c: Tensor) -> Tensor:
        return project(a, c)

    @override
    def sqchord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return lorentz_chord.sqchord(x, y, c)

    @override
    def sqchord_matrix(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return lorentz_chord.sqchord_matrix(x, y, c)

    @override
    def sqchord_table(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return lorentz_chord.sqchord_table(x, y, c)

    @override
    def distance(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return lorentz_chord.distance(x, y, c)

    @override
    def metric_from_sqchord(self, q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
        return lorentz_chord.metric_from_sqchord(q2, c, metric)

    @override
    def centroid(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        return centroid(x, weights, c)

    @override
    def pairwise_distances(self, x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
        return pairwise.pairwise_distances(x, y, c, metric)
