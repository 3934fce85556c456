"""Scores of all pairs of points, summed over the subspaces: what a contrastive loss looks at.

Training spends most of its time here. A block of pairs at a time goes through all subspaces, so
that what lies between the matrix product and the sum stays in the cache of a core; the backward
pass works it out again instead of keeping it, and the gradients are closed forms.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from hyperpq.lorentz import GRAM_FLOOR, time_part

# Pairs of one subspace at once on a CPU, 256 KB of float32.
_CACHED = 1 << 16


def pair_scores(x: Tensor, y: Tensor, c: Tensor, score: str) -> Tensor:
    """Sums over the subspaces of the scores of all pairs.

    The absolute error of a squared chord is about ``eps x0 y0``, see `lorentz.sqchord_matrix`.

    Parameters
    ----------
    x : Tensor, shape (n, M, D)
        Space parts.
    y : Tensor, shape (m, M, D)
        Space parts.
    c : Tensor, shape (M,)
        Negated curvatures.
    score : {"l1", "geodesic", "chord"}
        See `lorentz.score_of`.

    Returns
    -------
    Tensor, shape (n, m)
        Differentiable, once; squared chords below 1e-8 count as that, without a gradient.
    """
    return cast(Tensor, _PairScores.apply(x, y, c, score))


def _with_time(x: Tensor, c: Tensor) -> Tensor:
    """Space parts (n, M, D) -> space and time parts (M, n, D + 1)."""
    x = x.transpose(0, 1)
    return torch.cat([x, time_part(x, c[:, None]).unsqueeze(-1)], -1)


def _negated(x: Tensor) -> Tensor:
    """The same with the space parts negated: products are then those of the Lorentz form."""
    return torch.cat([-x[..., :-1], x[..., -1:]], -1)


def _blocks(n: int, m: int, device: torch.device) -> list[slice]:
    step = n if device.type != "cpu" else max(1, _CACHED // max(m, 1))
    return [slice(start, start + step) for start in range(0, n, step)]


def _arc(q2: Tensor, z2: Tensor, c: Tensor) -> Tensor:
    """Distances of squared chords q^2, with z^2 = c q^2 / 4."""
    root = (1 + z2).sqrt_().add_(1)
    return z2.sqrt().add_(torch.div(z2, root, out=root)).log1p_().mul_(2 / c.sqrt())


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, c: Tensor, score: str) -> Tensor:
        left, right = _with_time(x, c), _negated(_with_time(y, c)).transpose(1, 2)
        out = x.new_zeros(len(x), len(y))
        for rows in _blocks(*out.shape, out.device):
            for m in range(len(c)):
                q2 = _chords(left[m, rows], right[m], c[m])
                if score != "chord":
                    q2 = _arc(q2, q2 * (c[m] / 4), c[m])
                out[rows] += q2.square_() if score == "geodesic" else q2
        ctx.save_for_backward(x, y, c)
        ctx.score = score
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, y, c = ctx.saved_tensors
        score, g = ctx.score, grads[0]
        one, other = _with_time(x, c), _with_time(y, c)
        from_y = _negated(other)
        right = from_y.transpose(1, 2)
        # Sums over the pairs of the slope times the other's coordinates, time last.
        sums, back = torch.zeros_like(one), torch.zeros_like(other)
        # Of the scores by c, the chords kept, and of the slopes.
        direct, total = torch.zeros_like(c), torch.zeros_like(c)
        for rows in _blocks(*g.shape, g.device):
            for m in range(len(c)):
                q2 = _chords(one[m, rows], right[m], c[m])
                slope = g[rows]
                if score != "chord":
                    z2 = q2 * (c[m] / 4)
                    d = _arc(q2, z2, c[m])
                    scale = (z2 + 1).mul_(q2).rsqrt_().mul_(0.5)
                    outer = slope * d * 2 if score == "geodesic" else slope
                    slope = outer * scale
                    # 2 q^2 d'(q^2) - d over 2 c is the derivative of d by c.
                    direct[m] += (2 * (slope * q2).sum() - (outer * d).sum()) / (2 * c[m])
                slope = torch.where(q2 > GRAM_FLOOR, slope, 0)
                total[m] += slope.sum()
                sums[m, rows] = slope @ from_y[m]
                back[m] += slope.T @ _negated(one[m, rows])
        dx, by_x = _through_time(one, sums, c)
        dy, by_y = _through_time(other, back, c)
        dc = direct + by_x + by_y + 2 * total / c.square()
        return dx.transpose(0, 1), dy.transpose(0, 1), dc, None


def _chords(left: Tensor, right: Tensor, c: Tensor) -> Tensor:
    """Squared chords (r, m) of rows (r, D + 1) and negated columns (D + 1, m)."""
    return (left @ right).sub_(1 / c).mul_(2).clamp_min_(GRAM_FLOOR)


def _through_time(own: Tensor, sums: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by space parts (M, n, D) and by c (M,): the time part follows from both."""
    space, time = own[..., :-1], own[..., -1]
    by_time = 2 * sums[..., -1]
    dx = 2 * sums[..., :-1] + (by_time / time).unsqueeze(-1) * space
    return dx, -(by_time / time).sum(1) / (2 * c.square())
