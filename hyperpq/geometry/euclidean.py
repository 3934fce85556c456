"""Flat space: the tangent space at the origin itself, whatever the curvature that is given."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from hyperpq.geometry.base import CHORD_FLOOR, Geometry
from hyperpq.geometry.registry import CURVATURE_SIGNS, Metric


class Euclidean(Geometry):
    """Euclidean space: points are tangent vectors, and a chord is the distance."""

    name: ClassVar[str] = "euclidean"
    sign: ClassVar[Literal[-1, 0, 1]] = CURVATURE_SIGNS["euclidean"]
    max_radius: ClassVar[float] = math.inf

    @override
    def expmap0(self, v: Tensor, c: Tensor) -> Tensor:
        return v

    @override
    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        return x

    @override
    def lift(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], -1)

    @override
    def dual(self, x: Tensor, c: Tensor) -> Tensor:
        # |y - x|^2 = |y|^2 + 2 (|x|^2 / 2 - x.y)
        return torch.cat([-x, (x * x).sum(-1, keepdim=True) / 2], -1)

    @override
    def project(self, a: Tensor, c: Tensor) -> Tensor:
        total = a[..., -1:].clamp_min(torch.finfo(a.dtype).tiny)
        return a[..., :-1] / total

    @override
    def sqchord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        return (x - y).square().sum(-1)

    @override
    def sqchord_matrix(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        squares = (x * x).sum(-1).unsqueeze(-1) + (y * y).sum(-1).unsqueeze(-2)
        return (squares - 2 * x @ y.transpose(-1, -2)).clamp_min(CHORD_FLOOR)

    @override
    def metric_from_sqchord(self, q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
        if metric != "l1":
            return q2
        apart = q2 > 0
        return torch.where(apart, torch.where(apart, q2, 1).sqrt(), 0)
