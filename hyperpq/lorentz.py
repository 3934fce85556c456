"""Batched Lorentz (hyperboloid) geometry: pure functions on tensors.

Conventions, used everywhere. A point of the space of curvature ``-c`` (``c > 0``) is given by its
space part ``x``, shape (..., D); its time part ``x0 = sqrt(1/c + |x|^2)`` is derived, so a stored
point can never leave the manifold. The Lorentzian inner product is ``<x, y> = -x0 y0 + x.y``, and
``<x, x> = -1/c``. ``c`` is a tensor that broadcasts against the batch shape of the points, i.e.
against ``x[..., 0]``: shape (M,) for points (n, M, D), (M, 1) for codebooks (M, K, D).

The squared Lorentzian chord ``q^2 = <x - y, x - y> = -2/c - 2 <x, y>`` (the "squared Lorentzian
distance" of Law et al., ICML 2019) carries every score: the geodesic distance is
``d = 2/sqrt(c) asinh(sqrt(c) q / 2)``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

SCORES = ("l1", "geodesic", "chord")

# Below this q^2 the Gram route holds no digits in float32; it is cut there, with zero gradient.
_GRAM_FLOOR = 1e-8


def time_part(x: Tensor, c: Tensor) -> Tensor:
    """Time coordinate of points.

    Parameters
    ----------
    x : Tensor, shape (..., D)
        Space parts.
    c : Tensor, broadcasts against (...,)
        Negated curvature.

    Returns
    -------
    Tensor, shape (...,)
        ``sqrt(1/c + |x|^2)``.
    """
    return torch.sqrt(1 / c + (x * x).sum(-1))


def inner(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Lorentzian inner product ``-x0 y0 + x.y`` of points, shape (...,)."""
    return (x * y).sum(-1) - time_part(x, c) * time_part(y, c)


def clip_norm(v: Tensor, max_norm: float) -> Tensor:
    """Shorten tangent vectors (..., D) longer than ``max_norm`` to that length."""
    norm_sq = (v * v).sum(-1, keepdim=True)
    limit = max_norm * max_norm
    safe = torch.where(norm_sq > limit, norm_sq, torch.ones_like(norm_sq))
    return torch.where(norm_sq > limit, v * (max_norm * torch.rsqrt(safe)), v)


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
    def forward(ctx: Any, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
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
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
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
    """Squared Lorentzian chord ``<x - y, x - y>``, to full relative precision.

    Parameters
    ----------
    x, y : Tensor, shapes broadcast to (..., D)
        Space parts.
    c : Tensor, broadcasts against (...,)
        Negated curvature.

    Returns
    -------
    Tensor, shape (...,)
        ``q^2 >= 0``; differentiable everywhere, once.
    """
    return cast(Tensor, _SquaredChord.apply(x, y, c))


def sqchord_matrix(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """All pairs of squared chords by matrix products: fast, without (n, m, D) in memory.

    The absolute error is about ``eps x0 y0``: right for training and for choosing the nearest of
    codewords inside ``sqrt(c) r <= 5``; use `sqchord` where near distances must be exact.

    Parameters
    ----------
    x : Tensor, shape (..., n, D)
        Space parts.
    y : Tensor, shape (..., m, D)
        Space parts.
    c : Tensor, broadcasts against (..., 1)
        Negated curvature, one for each matrix.

    Returns
    -------
    Tensor, shape (..., n, m)
        ``max(2 x0 y0 - 2 x.y - 2/c, 1e-8)``, with zero gradient at the floor.
    """
    x0, y0 = time_part(x, c), time_part(y, c)
    cross = x0.unsqueeze(-1) * y0.unsqueeze(-2) - x @ y.transpose(-1, -2)
    return (2 * (cross - (1 / c).unsqueeze(-1))).clamp_min(_GRAM_FLOOR)


def score_of(q2: Tensor, c: Tensor, score: str) -> Tensor:
    """Turn squared chords into the score of one subspace.

    Parameters
    ----------
    q2 : Tensor
        Squared chords.
    c : Tensor, broadcasts against ``q2``
        Negated curvature.
    score : {"l1", "geodesic", "chord"}
        ``d``, ``d^2`` or ``q^2``, with d the geodesic distance. Summed over the subspaces they are
        the city-block product distance (official code), the squared product geodesic and the
        squared Lorentzian distance of the product.

    Returns
    -------
    Tensor, shape of ``q2``
        The gradient of ``d`` at equal points, where it has none, is taken as 0.
    """
    if score == "chord":
        return q2
    safe = torch.where(q2 > 0, q2, torch.ones_like(q2))
    root_c = torch.sqrt(c)
    d = torch.where(
        q2 > 0, 2 / root_c * torch.asinh(root_c * torch.sqrt(safe) / 2), torch.zeros_like(q2)
    )
    return d * d if score == "geodesic" else d


def distance(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Geodesic distance by the half-angle form, to full relative precision.

    Shapes as in `sqchord`. ``arcosh`` of an inner product loses all digits of near points; here the
    relative error stays near rounding at every radius (tests/test_lorentz.py, 60 digits).
    """
    return score_of(sqchord(x, y, c), c, "l1")


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
        2019, Theorem 1). Relative error about ``eps c x0^2``, as ``<a, a>`` is a difference.
    """
    p = weights / weights.sum(-1, keepdim=True)
    space = p @ x
    time = (p @ time_part(x, c).unsqueeze(-1)).squeeze(-1)
    # -<a, a> >= 1/c for means of points (reversed Cauchy-Schwarz): the bound mends rounding.
    norm = torch.maximum(time * time - (space * space).sum(-1), 1 / c)
    return space * torch.rsqrt(c * norm).unsqueeze(-1)
