"""Hyperbolic distances of all pairs of points in a product space, as a contrastive loss needs them.

Training spends most of its time here. One block of pairs at a time is computed, so that the values
between the matrix product and the sum stay in the cache of a core. The backward pass computes these
values again instead of keeping them, and the gradients are closed forms. Blocks of the forward pass
and subspaces of the backward pass are independent of each other, so several cores take them.

A GPU takes all pairs and subspaces at once, since starting its kernels is what takes the time, and
the curvatures stay there, since reading them would wait for all work before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from hyperpq.geometry.base import CHORD_FLOOR
from hyperpq.geometry.lorentz_chord import Context, time_part
from hyperpq.geometry.registry import Metric
from hyperpq.utils.side_by_side import side_by_side

# Pairs of one subspace in a block on a CPU: 256 KB of float32.
_BLOCK_PAIRS = 1 << 16


def pairwise_distances(x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
    """Distances of all pairs in the product of M Lorentz spaces.

    The absolute error of a squared chord is about ``eps x0 y0``, as in `sqchord_matrix`.

    Parameters
    ----------
    x : Tensor, shape (n, M, D)
        Space parts.
    y : Tensor, shape (m, M, D)
        Space parts.
    c : Tensor, shape (M,)
        Absolute curvatures.
    metric : {"l1", "geodesic", "chord"}
        See `Geometry.metric_from_sqchord`.

    Returns
    -------
    Tensor, shape (n, m)
        Once differentiable; squared chords below 1e-8 count as 1e-8, with zero gradient.
    """
    function = _PairwiseDistances if x.device.type == "cpu" else _AllAtOnce
    return cast(Tensor, function.apply(x, y, c, metric))


def _with_time(x: Tensor, c: Tensor) -> Tensor:
    """Space parts (n, M, D) -> space and time parts (M, n, D + 1)."""
    x = x.transpose(0, 1)
    return torch.cat([x, time_part(x, c[:, None]).unsqueeze(-1)], -1)


def _negated(x: Tensor) -> Tensor:
    """The same with negated space parts: products are then negated Lorentzian inner products."""
    return torch.cat([-x[..., :-1], x[..., -1:]], -1)


def _blocks(n: int, m: int) -> list[slice]:
    step = max(1, _BLOCK_PAIRS // max(m, 1))
    return [slice(start, start + step) for start in range(0, n, step)]


def _run(parts: Sequence[Callable[[], None]], pairs: Tensor) -> None:
    """Call functions of parts of all pairs (n, m), on several cores if it is worth it."""
    if pairs.numel() >= 2 * _BLOCK_PAIRS:
        side_by_side(parts)
    else:
        for part in parts:
            part()


def _half_sinh(left: Tensor, right: Tensor, c: float) -> Tensor:
    """``z^2 = c q^2 / 4`` of rows (r, D + 1) and negated columns (D + 1, m) times c / 2."""
    return (left @ right).sub_(0.5).clamp_min_(c / 4 * CHORD_FLOOR)


class _MetricContext(Context):
    """`Context` with the metric of the forward pass."""

    metric: Metric


class _PairwiseDistances(torch.autograd.Function):
    """With ``a = asinh(z)`` the metrics are ``2 a / sqrt(c)``, ``4 a^2 / c`` and ``4 z^2 / c``."""

    @staticmethod
    def forward(ctx: _MetricContext, x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
        left, right = _with_time(x, c), _negated(_with_time(y, c)).transpose(1, 2)
        right = right * (c / 2)[:, None, None]
        out, curvatures = x.new_zeros(len(x), len(y)), c.tolist()

        def add(rows: slice) -> None:
            block = out[rows]
            for m, curvature in enumerate(curvatures):
                z2 = _half_sinh(left[m, rows], right[m], curvature)
                if metric == "chord":
                    block.add_(z2, alpha=4 / curvature)
                    continue
                a = (z2 + 1).sqrt_().add_(z2.sqrt_()).log_()
                if metric == "l1":
                    block.add_(a, alpha=2 / curvature**0.5)
                else:
                    block.add_(a.square_(), alpha=4 / curvature)

        blocks = _blocks(len(x), len(y))
        _run([partial(add, rows) for rows in blocks], out)
        ctx.save_for_backward(x, y, c)
        ctx.metric = metric
        return out

    @staticmethod
    def backward(ctx: _MetricContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, c = ctx.saved_tensors
        metric, g = ctx.metric, grads[0]
        one, other = _with_time(x, c), _with_time(y, c)
        from_x, from_y = _negated(one), _negated(other)
        right = from_y.transpose(1, 2) * (c / 2)[:, None, None]
        # Slopes by z^2 times the other's coordinates, summed over the pairs; time is last.
        sums, back = torch.zeros_like(one), torch.zeros_like(other)
        dc = torch.zeros_like(c)
        blocks = _blocks(len(x), len(y))
        outers = [g[rows].contiguous() for rows in blocks]

        def add(m: int, curvature: float) -> None:
            for rows, outer in zip(blocks, outers, strict=True):
                z2 = _half_sinh(one[m, rows], right[m], curvature)
                if metric == "chord":
                    slope = outer * (4 / curvature)
                    value = torch.dot(slope.flatten(), z2.flatten()) / curvature
                else:
                    z, root = z2.sqrt(), (z2 + 1).sqrt_()
                    slope = outer / (z * root)
                    a = z.add_(root).log_()
                    if metric == "l1":
                        slope.mul_(curvature**-0.5)
                        value = torch.dot(outer.flatten(), a.flatten()) / curvature**1.5
                    else:
                        slope.mul_(a).mul_(4 / curvature)
                        value = torch.dot(outer.flatten(), a.square_().flatten())
                        value = value * (4 / curvature**2)
                slope.masked_fill_(z2 <= curvature / 4 * CHORD_FLOOR, 0)
                dc[m] += (torch.dot(slope.flatten(), z2.flatten()) + slope.sum() / 2) / curvature
                dc[m] -= value
                sums[m, rows] = slope @ from_y[m]
                back[m].addmm_(slope.T, from_x[m, rows])

        _run([partial(add, m, curvature) for m, curvature in enumerate(c.tolist())], g)
        dx, by_x = _through_time(one, sums, c)
        dy, by_y = _through_time(other, back, c)
        return dx.transpose(0, 1), dy.transpose(0, 1), dc + by_x + by_y, None


class _AllAtOnce(torch.autograd.Function):
    """`_PairwiseDistances` with the pairs of all subspaces in one tensor (M, n, m)."""

    @staticmethod
    def forward(ctx: _MetricContext, x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
        ctx.save_for_backward(x, y, c)
        ctx.metric = metric
        curvature = c[:, None, None]
        z2 = _all_half_sinh(_with_time(x, c), _negated(_with_time(y, c)), curvature)
        if metric == "chord":
            return z2.mul_(4 / curvature).sum(0)
        a = (z2 + 1).sqrt_().add_(z2.sqrt_()).log_()
        if metric == "l1":
            return a.mul_(2 / curvature.sqrt()).sum(0)
        return a.square_().mul_(4 / curvature).sum(0)

    @staticmethod
    def backward(ctx: _MetricContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, c = ctx.saved_tensors
        curvature, g = c[:, None, None], grads[0]
        one, other = _with_time(x, c), _with_time(y, c)
        from_x, from_y = _negated(one), _negated(other)
        z2 = _all_half_sinh(one, from_y, curvature)
        # By c with z^2 held, of each pair, and the slope by z^2, see `_PairwiseDistances`.
        if ctx.metric == "chord":
            by_c = -(g * z2).sum((1, 2)) * 4 / c.square()
            slope = g * (4 / curvature)
        else:
            z, root = z2.sqrt(), (z2 + 1).sqrt_()
            slope = g / (z * root)
            a = z.add_(root).log_()
            if ctx.metric == "l1":
                by_c = -(g * a).sum((1, 2)) / c**1.5
                slope = slope.mul_(curvature**-0.5)
            else:
                by_c = -(g * a.square()).sum((1, 2)) * 4 / c.square()
                slope = slope.mul_(a).mul_(4 / curvature)
        slope = slope.masked_fill_(z2 <= curvature / 4 * CHORD_FLOOR, 0)
        dc = by_c + ((slope * z2).sum((1, 2)) + slope.sum((1, 2)) / 2) / c
        dx, by_x = _through_time(one, slope @ from_y, c)
        dy, by_y = _through_time(other, slope.transpose(1, 2) @ from_x, c)
        return dx.transpose(0, 1), dy.transpose(0, 1), dc + by_x + by_y, None


def _all_half_sinh(x: Tensor, negated: Tensor, c: Tensor) -> Tensor:
    """`_half_sinh` (M, n, m) of all subspaces, of (M, n, D + 1), (M, m, D + 1) and (M, 1, 1)."""
    products = x @ (negated.transpose(1, 2) * (c / 2))
    return torch.maximum(products.sub_(0.5), c / 4 * CHORD_FLOOR)


def _through_time(own: Tensor, sums: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by space parts (M, n, D) and by c (M,), which the time parts follow from."""
    half = (c / 2)[:, None]
    by_time = half * sums[..., -1] / own[..., -1]
    dx = half[..., None] * sums[..., :-1] + by_time[..., None] * own[..., :-1]
    return dx, -by_time.sum(1) / (2 * c.square())
