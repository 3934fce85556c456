"""Maps and distances of the spaces of `hyperpq.geometry` in NumPy, as encoding and searching need.

Points are given by their space parts, and ``c`` is the absolute curvature of each subspace.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.geometry.registry import GeometryName, Metric
from hyperpq.utils.exact_products import RoundedMatrix

Float64s = NDArray[np.float64]

# As in `geometry`: the square of the least height on a sphere, and the error of float32 products.
_FLOOR = 1e-8
_ROUNDING = 4e-6


class Space(NamedTuple):
    """What encoding and searching need of a space; the shapes are those of `Geometry`.

    Attributes
    ----------
    radius : float
        Largest ``sqrt(c) |v|`` of a tangent vector that the exponential map takes.
    expmap0, lift, dual, sqchord, metric : callable
        As the methods of `Geometry`; ``metric`` turns squared chords into a metric.
    table : callable
        From points of codewords and their curvatures, a function from points of queries to
        `Geometry.sqchord_table`.
    """

    radius: float
    expmap0: Callable[[Float64s, Float64s], Float64s]
    lift: Callable[[Float64s, Float64s], Float64s]
    dual: Callable[[Float64s, Float64s], Float64s]
    table: Callable[[Float64s, Float64s], Callable[[Float64s], Float64s]]
    metric: Callable[[Float64s, Float64s, Metric], Float64s]

    def clip(self, v: Float64s, max_norm: float, c: Float64s) -> Float64s:
        """Tangent vectors (..., D), long ones shortened, see `Geometry.clip`."""
        return shortened(v, self.limit(max_norm, c))

    def limit(self, max_norm: float, c: Float64s) -> Float64s:
        """Lengths (..., 1) of the longest tangent vectors that `clip` leaves as they are."""
        limit: Float64s = np.minimum(self.radius / np.sqrt(c), max_norm)[..., None]
        return limit


def shortened(v: Float64s, limit: Float64s) -> Float64s:
    """Vectors (..., D), those that are longer than ``limit`` (..., 1) shortened to it."""
    square = _dot(v, v)[..., None]
    is_long = square > limit * limit
    if not is_long.any():
        return v
    return np.where(is_long, v * (limit * (1 / np.sqrt(np.where(is_long, square, 1.0)))), v)


def _dot(x: Float64s, y: Float64s) -> Float64s:
    out: Float64s = (x * y).sum(-1)
    return out


def _with_last(x: Float64s, last: Float64s) -> Float64s:
    return np.concatenate([x, last[..., None]], -1)


def _time(x: Float64s, c: Float64s) -> Float64s:
    out: Float64s = np.sqrt(1 / c + _dot(x, x))
    return out


def _lorentz_expmap0(v: Float64s, c: Float64s) -> Float64s:
    u = c * _dot(v, v)
    small = u < 1e-3
    if not small.any():
        root = np.sqrt(u)
        return (np.sinh(root) / root)[..., None] * v
    root = np.sqrt(np.where(small, 1.0, u))
    series = 1 + u / 6 * (1 + u / 20 * (1 + u / 42 * (1 + u / 72)))
    return np.where(small, series, np.sinh(root) / root)[..., None] * v


def _lorentz_sqchord(x: Float64s, y: Float64s, c: Float64s) -> Float64s:
    # The sum of `lorentz_chord._SquaredChord`, which explains it.
    s = x - y
    X, Y = np.sqrt(_dot(x, x)), np.sqrt(_dot(y, y))
    x0, y0 = np.sqrt(1 / c + X * X), np.sqrt(1 / c + Y * Y)
    T = x0 + y0
    tiny = np.finfo(np.float64).tiny
    delta = _dot(s, x + y) / np.maximum(X + Y, tiny)
    radial = (delta / T) ** 2 * ((1 / (x0 + X) + 1 / (y0 + Y)) / c) * (T + X + Y)
    low, high = np.minimum(X, Y), np.maximum(X, Y)
    shorter = np.where((Y <= X)[..., None], y, x)
    across = s - delta[..., None] * (shorter / np.maximum(low, tiny)[..., None])
    angular: Float64s = low / np.maximum(high, tiny) * _dot(across, across)
    return radial + angular


def _lorentz_table(y: Float64s, c: Float64s) -> Callable[[Float64s], Float64s]:
    # See `lorentz_chord.sqchord_table`: near pairs one by one.
    y0 = _time(y, c)
    constant = np.broadcast_to((-2 / c)[..., None], (*y0.shape, 1))
    right = np.swapaxes(np.concatenate([y, y0[..., None], constant], -1), -1, -2)
    farthest = 2.0**-23 * y0.max(-1, keepdims=True)

    def table(x: Float64s) -> Float64s:
        left = np.empty((*x.shape[:-1], x.shape[-1] + 2))
        x0 = _time(x, c)
        np.multiply(x, -2, out=left[..., :-2])
        np.multiply(x0, 2, out=left[..., -2])
        left[..., -1] = 1
        q2: Float64s = left @ right
        least = farthest * x0
        rows = np.nonzero(q2.min(-1) < least)
        if len(rows[0]):
            which, column = np.nonzero(q2[rows] < least[rows][:, None])
            *batch, row = (index[which] for index in rows)
            curvature = np.broadcast_to(c, (*q2.shape[:-2], 1))[..., 0][tuple(batch)]
            q2[(*batch, row, column)] = _lorentz_sqchord(
                x[(*batch, row)], y[(*batch, column)], curvature
            )
        return q2

    return table


def _lorentz_metric(q2: Float64s, c: Float64s, metric: Metric) -> Float64s:
    if metric == "chord":
        return q2
    z2 = q2 * (c / 4)
    z, d = np.sqrt(z2), z2 + 1
    # log1p(z + z2 / (root + 1)), in place: a new array takes as long as a step.
    np.sqrt(d, out=d)
    d += 1
    np.divide(z2, d, out=d)
    d += z
    np.log1p(d, out=d)
    d *= 2 / np.sqrt(c)
    return d * d if metric == "geodesic" else d


def _every_pair(
    sqchord: Callable[[Float64s, Float64s, Float64s], Float64s],
) -> Callable[[Float64s, Float64s], Callable[[Float64s], Float64s]]:
    def table(y: Float64s, c: Float64s) -> Callable[[Float64s], Float64s]:
        return lambda x: sqchord(x[..., :, None, :], y[..., None, :, :], c[..., None])

    return table


def _flat_metric(q2: Float64s, c: Float64s, metric: Metric) -> Float64s:
    return np.sqrt(q2) if metric == "l1" else q2


def _height(x: Float64s, c: Float64s) -> Float64s:
    out: Float64s = np.sqrt(np.maximum(1 / c - _dot(x, x), _FLOOR))
    return out


def _sphere_expmap0(v: Float64s, c: Float64s) -> Float64s:
    angle = np.sqrt(np.maximum(c * _dot(v, v), 1e-12))[..., None]
    out: Float64s = np.sin(np.minimum(angle, math.pi / 2)) / angle * v
    return out


def _sphere_sqchord(x: Float64s, y: Float64s, c: Float64s) -> Float64s:
    difference = x - y
    along = _dot(difference, x + y) / (_height(x, c) + _height(y, c))
    return _dot(difference, difference) + along**2


def _sphere_metric(q2: Float64s, c: Float64s, metric: Metric) -> Float64s:
    if metric == "chord":
        return q2
    d: Float64s = 2 / np.sqrt(c) * np.arcsin(np.sqrt(np.minimum(c * q2 / 4, 1)))
    return d * d if metric == "geodesic" else d


SPACES: dict[GeometryName, Space] = {
    "lorentz": Space(
        math.inf,
        _lorentz_expmap0,
        lambda x, c: _with_last(x, _time(x, c)),
        lambda x, c: _with_last(-x, _time(x, c)),
        _lorentz_table,
        _lorentz_metric,
    ),
    "euclidean": Space(
        math.inf,
        lambda v, c: v,
        lambda x, c: _with_last(x, np.ones(x.shape[:-1])),
        lambda x, c: _with_last(-x, _dot(x, x) / 2),
        _every_pair(lambda x, y, c: _dot(x - y, x - y)),
        _flat_metric,
    ),
    "sphere": Space(
        math.pi / 2,
        _sphere_expmap0,
        lambda x, c: _with_last(x, _height(x, c)),
        lambda x, c: -_with_last(x, _height(x, c)),
        _every_pair(_sphere_sqchord),
        _sphere_metric,
    ),
}


def nearest_columns(left: Float64s, right: Float64s) -> NDArray[np.int64]:
    """Column of the smallest exact product of each row, see `geometry.nearest`.

    Parameters
    ----------
    left : ndarray, shape (M, n, k), float64
    right : ndarray, shape (M, k, K), float64

    Returns
    -------
    ndarray, shape (M, n), int64
    """
    longest = np.linalg.norm(right, axis=1).max(1, keepdims=True)
    error = (_ROUNDING * np.linalg.norm(left, axis=-1) * longest).astype(np.float32)
    cross = left.astype(np.float32) @ right.astype(np.float32)
    nearest: NDArray[np.int64] = cross.argmin(-1)
    least = np.take_along_axis(cross, nearest[..., None], -1) + error[..., None]
    close = (cross <= least).sum(-1) > 1
    for m in np.flatnonzero(close.any(1)):
        rows = close[m]
        nearest[m, rows] = RoundedMatrix(right[m]).left_product(left[m, rows]).argmin(-1)
    return nearest
