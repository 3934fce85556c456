"""The sphere of curvature c, up to a quarter of a great circle around its pole."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from hyperpq.geometry.base import CHORD_FLOOR, Geometry, clip_norm
from hyperpq.geometry.registry import CURVATURE_SIGNS, Metric


class Sphere(Geometry):
    """Half of the sphere of radius ``1 / sqrt(c)``, the one around the pole.

    The pole is the origin, and the time part ``sqrt(1/c - |x|^2)`` of a point is its height.
    The space ends at the equator: `expmap0` takes longer tangent vectors to it, so two of one
    direction would be one point. `clip` therefore shortens them to the equator, too. Near it the
    height follows from a difference of near numbers, so rounding to float32 moves a point up or
    down by as much as ``3e-4 / sqrt(c)``.
    """

    name: ClassVar[str] = "sphere"
    sign: ClassVar[Literal[-1, 0, 1]] = CURVATURE_SIGNS["sphere"]
    max_radius: ClassVar[float] = math.pi / 2
    chord_is_inner_product: ClassVar[bool] = True

    @override
    def expmap0(self, v: Tensor, c: Tensor) -> Tensor:
        angle = (c * (v * v).sum(-1)).clamp_min(1e-12).sqrt().unsqueeze(-1)
        return torch.sin(angle.clamp_max(math.pi / 2)) / angle * v

    @override
    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        sine = (c * (x * x).sum(-1)).clamp(1e-12, 1).sqrt().unsqueeze(-1)
        return torch.asin(sine) / sine * x

    @override
    def lift(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([x, _height(x, c).unsqueeze(-1)], -1)

    @override
    def dual(self, x: Tensor, c: Tensor) -> Tensor:
        return -self.lift(x, c)

    @override
    def project(self, a: Tensor, c: Tensor) -> Tensor:
        norm_sq = (a * a).sum(-1).clamp_min(CHORD_FLOOR)
        return a[..., :-1] * torch.rsqrt(c * norm_sq).unsqueeze(-1)

    @override
    def sqchord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        # The difference of the heights without a difference of near numbers.
        difference = x - y
        along = (difference * (x + y)).sum(-1) / (_height(x, c) + _height(y, c))
        return difference.square().sum(-1) + along.square()

    @override
    def sqchord_matrix(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        heights = _height(x, c).unsqueeze(-1) * _height(y, c).unsqueeze(-2)
        q2 = 2 * ((1 / c).unsqueeze(-1) - heights - x @ y.transpose(-1, -2))
        return q2.clamp_min(CHORD_FLOOR)

    @override
    def clip(self, v: Tensor, max_norm: float, c: Tensor) -> Tensor:
        equator = self.max_radius * torch.rsqrt(c).unsqueeze(-1)
        return clip_norm(v, equator.clamp_max(max_norm))

    @override
    def metric_from_sqchord(self, q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
        if metric == "chord":
            return q2
        # The chord of an angle is twice the sine of half of it. Equal and opposite points are left
        # out of the roots, which have no gradient there.
        half_sq = c * q2 / 4
        apart = (half_sq > 0) & (half_sq < 1)
        half = torch.asin(torch.where(apart, half_sq, 0.25).sqrt())
        ends = torch.where(half_sq > 0, math.pi / 2, 0.0).to(half)
        d = 2 / c.sqrt() * torch.where(apart, half, ends)
        return d * d if metric == "geodesic" else d


def _height(x: Tensor, c: Tensor) -> Tensor:
    """Time parts (...,) of points; not below 1e-4, for the gradient at the equator."""
    return (1 / c - (x * x).sum(-1)).clamp_min(CHORD_FLOOR).sqrt()
