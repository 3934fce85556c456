"""The Lorentz (hyperboloid) model of hyperbolic space: class `Lorentz`.

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
from hyperpq.geometry.registry import CURVATURE_SIGNS, Metric


class Lorentz(Geometry):
    """Hyperbolic space of curvature -c in the Lorentz model.

    Beyond ``max_radius`` float32 loses near distances (docs/method.md).
    """

    name: ClassVar[str] = "lorentz"
    sign: ClassVar[Literal[-1, 0, 1]] = CURVATURE_SIGNS["lorentz"]
    max_radius: ClassVar[float] = 5.0
    chord_is_inner_product: ClassVar[bool] = True

    @override
    def expmap0(self, v: Tensor, c: Tensor) -> Tensor:
        return _sinhc(c * (v * v).sum(-1)).unsqueeze(-1) * v

    @override
    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        return _asinhc(c * (x * x).sum(-1)).unsqueeze(-1) * x

    @override
    def lift(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([x, time_part(x, c).unsqueeze(-1)], -1)

    @override
    def dual(self, x: Tensor, c: Tensor) -> Tensor:
        # lift(y) @ dual(x) = -<x, y> rises with the distance.
        return torch.cat([-x, time_part(x, c).unsqueeze(-1)], -1)

    @override
    def project(self, a: Tensor, c: Tensor) -> Tensor:
        # a / sqrt(c |<a, a>|) for a timelike vector of any length, which gives no better bound.
        space, time = a[..., :-1], a[..., -1]
        length = (time.square() - space.square().sum(-1)).clamp_min(1e-30).sqrt() * c.sqrt()
        return space / length.unsqueeze(-1)

    @override
    def centroid(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        """Lorentz centroid (Law et al. 2019, Theorem 1); shapes as in `Geometry.centroid`.

        It is ``a / sqrt(c |<a, a>|)`` with ``a`` the weighted mean in the ambient space. The
        relative error is about ``eps c x0^2``, as ``<a, a>`` is a difference.
        """
        p = weights / weights.sum(-1, keepdim=True)
        space = p @ x
        time = (p @ time_part(x, c).unsqueeze(-1)).squeeze(-1)
        # -<a, a> >= 1/c for means of points (reversed Cauchy-Schwarz), which `project` cannot use
        # as it takes sums of any weight. Rounding may fall below.
        norm = torch.maximum(time * time - (space * space).sum(-1), 1 / c)
        return space * torch.rsqrt(c * norm).unsqueeze(-1)

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
    def metric_from_sqchord(self, q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
        return lorentz_chord.metric_from_sqchord(q2, c, metric)

    @override
    def pairwise_distances(self, x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
        return pairwise.pairwise_distances(x, y, c, metric)


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
