"""Squared chords and metrics of the Lorentz model, exact to rounding, with their gradients.

The squared Lorentzian chord ``q^2 = <x - y, x - y> = -2/c - 2 <x, y>`` (the "squared Lorentzian
distance" of Law et al., ICML 2019) carries every metric: the geodesic distance is
``d = 2/sqrt(c) asinh(sqrt(c) q / 2)``. Conventions as in `lorentz`.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from hyperpq.geometry.base import CHORD_FLOOR
from hyperpq.geometry.registry import Metric


class Context(Protocol):
    """What torch hands from the forward to the backward pass of a function."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors as ``saved_tensors``."""


def time_part(x: Tensor, c: Tensor) -> Tensor:
    """Time coordinate of points.

    Parameters
    ----------
    x : Tensor, shape (..., D)
        Space parts.
    c : Tensor, broadcasts against (...,)
        Absolute curvature.

    Returns
    -------
    Tensor, shape (...,)
        ``sqrt(1/c + |x|^2)``.
    """
    return torch.sqrt(1 / c + (x * x).sum(-1))


class _SquaredChord(torch.autograd.Function):
    """``q^2`` as a sum of non-negative terms, exact to rounding at every radius and separation.

    With X = |x|, Y = |y|, s = x - y and T = x0 + y0 (hyperbolic law of cosines, split in a radial
    and an angular part):

        delta   = X - Y = <s, x + y> / (X + Y)
        radial  = delta^2 (T - X - Y)(T + X + Y) / T^2,   T - X - Y = (1/(x0+X) + 1/(y0+Y)) / c
        angular = min(X, Y) / max(X, Y) |s - delta u|^2,  u the direction of the shorter of x, y

    The usual ``|s|^2 - (x0 - y0)^2`` subtracts numbers up to cosh^2 times larger than the result.
    The gradients are closed forms: d q^2 / dx = 2 (y0 s - (x0 - y0) y) / x0 and
    d q^2 / dc = -(x0 - y0)^2 / (c^2 x0 y0).
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        s = x - y
        dot = (s * (x + y)).sum(-1)
        X, Y = x.norm(dim=-1), y.norm(dim=-1)
        x0, y0 = torch.sqrt(1 / c + X * X), torch.sqrt(1 / c + Y * Y)
        T = x0 + y0
        tiny = torch.finfo(x.dtype).tiny
        delta = dot / (X + Y).clamp_min(tiny)
        radial = (delta / T) ** 2 * ((1 / (x0 + X) + 1 / (y0 + Y)) / c) * (T + X + Y)
        low, high = torch.minimum(X, Y), torch.maximum(X, Y)
        shorter = torch.where((Y <= X).unsqueeze(-1), y, x)
        u = shorter / low.clamp_min(tiny).unsqueeze(-1)
        across = s - delta.unsqueeze(-1) * u
        angular = low / high.clamp_min(tiny) * (across * across).sum(-1)
        ctx.save_for_backward(x, y, s, x0, y0, dot / T, c)
        return radial + angular

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, s, x0, y0, diff, c = ctx.saved_tensors
        g = grads[0].unsqueeze(-1)
        x0u, y0u, diffu = x0.unsqueeze(-1), y0.unsqueeze(-1), diff.unsqueeze(-1)
        dx = dy = dc = None
        if ctx.needs_input_grad[0]:
            dx = (2 * g * (y0u * s - diffu * y) / x0u).sum_to_size(x.shape)
        if ctx.needs_input_grad[1]:
            dy = (2 * g * (diffu * x - x0u * s) / y0u).sum_to_size(y.shape)
        if ctx.needs_input_grad[2]:
            dc = (grads[0] * (-diff * diff / (c * c * x0 * y0))).sum_to_size(c.shape)
        return dx, dy, dc


def sqchord(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Squared Lorentzian chord ``<x - y, x - y>`` of pairs, to full relative precision.

    Parameters
    ----------
    x, y : Tensor, shapes broadcast to (..., D)
        Space parts.
    c : Tensor, broadcasts against (...,)
        Absolute curvature.

    Returns
    -------
    Tensor, shape (...,)
        ``q^2 >= 0``; once differentiable, everywhere.
    """
    return cast(Tensor, _SquaredChord.apply(x, y, c))


def sqchord_matrix(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """All pairs of squared chords by matrix products: fast, without (n, m, D) in memory.

    The absolute error is about ``eps x0 y0``. That is accurate enough for training, and to choose
    the nearest codeword where ``sqrt(c) r <= 5``. Use `sqchord` where near distances must be exact.

    Parameters
    ----------
    x : Tensor, shape (..., n, D)
        Space parts.
    y : Tensor, shape (..., m, D)
        Space parts.
    c : Tensor, broadcasts against (..., 1)
        Absolute curvature, one for each matrix.

    Returns
    -------
    Tensor, shape (..., n, m)
        ``max(2 x0 y0 - 2 x.y - 2/c, 1e-8)``, with zero gradient at the floor.
    """
    x0, y0 = time_part(x, c), time_part(y, c)
    cross = x0.unsqueeze(-1) * y0.unsqueeze(-2) - x @ y.transpose(-1, -2)
    return (2 * (cross - (1 / c).unsqueeze(-1))).clamp_min(CHORD_FLOOR)


def sqchord_table(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """All pairs of squared chords, each as accurate as `sqchord` has it; not differentiable.

    A matrix product in float64 gives them with an absolute error of about ``2^-52 x0 y0``. That is
    a relative error of 2^-29 or less, except for pairs nearer than ``2^-23 x0 y0``. These are few,
    and `sqchord` computes them one by one.

    Parameters
    ----------
    x, y, c : Tensor
        As in `sqchord_matrix`.

    Returns
    -------
    Tensor, shape (..., n, m)
        Of the dtype of ``x``.
    """
    wide_x, wide_y, wide_c = x.double(), y.double(), c.double()
    x0, y0 = time_part(wide_x, wide_c), time_part(wide_y, wide_c)
    # Time and the constant beside space: one matrix product for 2 x0 y0 - 2 x.y - 2/c.
    one = torch.ones_like(x0).unsqueeze(-1)
    left = torch.cat([-2 * wide_x, 2 * x0.unsqueeze(-1), one], -1)
    constant = (-2 / wide_c).unsqueeze(-1).expand(*y0.shape, 1)
    right = torch.cat([wide_y, y0.unsqueeze(-1), constant], -1)
    q2 = (left @ right.transpose(-1, -2)).to(x.dtype)
    # An upper bound of the limits of the single pairs.
    least = (2.0**-23 * y0.amax(-1, keepdim=True) * x0).to(x.dtype)
    rows = (q2.amin(-1) < least).nonzero(as_tuple=True)
    if len(rows[0]):
        which, column = (q2[rows] < least[rows].unsqueeze(-1)).nonzero(as_tuple=True)
        *batch, row = (index[which] for index in rows)
        curvature = c.expand(*q2.shape[:-2], 1)[..., 0][tuple(batch)]
        close = sqchord(x[(*batch, row)], y[(*batch, column)], curvature)
        q2[(*batch, row, column)] = close
    return q2


class _ChordToArc(torch.autograd.Function):
    """``d = 2 / sqrt(c) asinh(sqrt(c) q / 2)`` of squared chords q^2 >= 0.

    It uses log1p, which is as accurate as torch.asinh and about ten times as fast on a CPU, where
    torch has no vector code for asinh.
    """

    @staticmethod
    def forward(ctx: Context, q2: Tensor, c: Tensor) -> Tensor:
        z2 = q2 * (c / 4)
        z, root = z2.sqrt(), (1 + z2).sqrt_()
        d = z.add_(z2.div_(root.add_(1))).log1p_().mul_(2 / c.sqrt())
        ctx.save_for_backward(q2, c, d)
        return d

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        q2, c, d = ctx.saved_tensors
        slope = grads[0] * torch.rsqrt(1 + q2 * (c / 4))
        q = q2.sqrt()
        dq2 = dc = None
        if ctx.needs_input_grad[0]:
            # d has no gradient at 0; it is taken as 0.
            dq2 = torch.where(q2 > 0, slope / (2 * q), 0).sum_to_size(q2.shape)
        if ctx.needs_input_grad[1]:
            dc = ((slope * q - grads[0] * d) / (2 * c)).sum_to_size(c.shape)
        return dq2, dc


def metric_from_sqchord(q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
    """Turn squared chords into the metric of one subspace: ``d``, ``d^2`` or ``q^2``.

    Parameters
    ----------
    q2 : Tensor
        Squared chords.
    c : Tensor, broadcasts against ``q2``
        Absolute curvature.
    metric : {"l1", "geodesic", "chord"}
        See `Geometry.metric_from_sqchord`.

    Returns
    -------
    Tensor, shape of ``q2``
        The gradient of ``d`` at equal points, where it has none, is taken as 0.
    """
    if metric == "chord":
        return q2
    d = cast(Tensor, _ChordToArc.apply(q2, c))
    return d * d if metric == "geodesic" else d
