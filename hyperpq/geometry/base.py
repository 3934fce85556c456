"""`Geometry`: the maps, distances and means of a space, which everything else is written with.

Conventions, used everywhere. A point is given by D coordinates ``x``, shape (..., D). In the curved
spaces of this package they are the *space part* of its D + 1 ambient coordinates; the last of
these, the *time part*, follows from ``x`` and ``c``, so a stored point can never leave the space.
``c > 0`` is the absolute value of the curvature, a tensor that broadcasts against the batch shape
of the points, i.e. against ``x[..., 0]``: shape (M,) for points (n, M, D), (M, 1) for codebooks
(M, K, D).

All methods are pure functions of tensors, in float32 and float64, on any device.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from hyperpq.geometry.nearest import nearest_columns
from hyperpq.geometry.registry import Metric

# A squared chord from a matrix product in float32 has no correct digits below this value; it is set
# to this value there, with zero gradient.
CHORD_FLOOR = 1e-8


def clip_norm(v: Tensor, max_norm: float | Tensor) -> Tensor:
    """Shorten tangent vectors (..., D) longer than ``max_norm`` to that length.

    ``max_norm`` is a number, or a tensor that broadcasts against (..., 1).
    """
    norm_sq = (v * v).sum(-1, keepdim=True)
    limit = max_norm * max_norm
    safe = torch.where(norm_sq > limit, norm_sq, torch.ones_like(norm_sq))
    return torch.where(norm_sq > limit, v * (max_norm * torch.rsqrt(safe)), v)


class Geometry(Protocol):
    """A space with an origin, whose points are written in D coordinates.

    A subclass defines the abstract methods. The other methods are derived from these; a subclass
    overrides them where its space has a faster or more accurate way. Objects have no state.

    Every geometry meets these demands, which `tests/geometry/test_geometries.py` checks:

    - Gradients are finite at ``v = 0``, where ``|v|`` has none, and at equal points, where the
      distance has none.
    - `sqchord` is exactly 0 at equal points and accurate to rounding for near ones.
      `sqchord_matrix` never returns less than `CHORD_FLOOR`, with zero gradient there.
    - `nearest` is the exact one, and its result for a point depends on no other point.

    Attributes
    ----------
    name : str
        The name that `get_geometry` takes and that codecs store.
    sign : {-1, 0, 1}
        Sign of the curvature: -1 for hyperbolic, 0 for flat and 1 for spherical space.
    max_radius : float
        Largest ``sqrt(c) |v|`` of a tangent vector v at the origin at which distances are accurate.
        Codes of another length than the learned one have a clip radius within it (`fit_length`).
        Elsewhere it is advice, unless the maps end at it: then `clip` enforces it, as the one of
        `Sphere` does, so that quantizers have no vectors beyond it.
    chord_is_inner_product : bool
        Whether ``q^2 = 2 lift(x) @ dual(y) + 2 sign / c`` for all points x and y.
    """

    name: ClassVar[str]
    sign: ClassVar[Literal[-1, 0, 1]]
    max_radius: ClassVar[float]
    chord_is_inner_product: ClassVar[bool] = False

    @abstractmethod
    def expmap0(self, v: Tensor, c: Tensor) -> Tensor:
        """Exponential map at the origin.

        Parameters
        ----------
        v : Tensor, shape (..., D)
            Tangent vectors at the origin.
        c : Tensor, broadcasts against (...,)
            Absolute curvature.

        Returns
        -------
        Tensor, shape (..., D)
            Points at the distance ``|v|`` from the origin in the direction of ``v``;
            differentiable.
        """

    @abstractmethod
    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        """Logarithmic map at the origin, the inverse of `expmap0`; shapes are as there."""

    @abstractmethod
    def lift(self, x: Tensor, c: Tensor) -> Tensor:
        """Ambient coordinates of points.

        Parameters
        ----------
        x : Tensor, shape (..., D)
            Points.
        c : Tensor, broadcasts against (...,)
            Absolute curvature.

        Returns
        -------
        Tensor, shape (..., D + 1)
            Space part and time part. In flat space, which needs no ambient one, these are the point
            and 1 (homogeneous coordinates).
        """

    @abstractmethod
    def dual(self, x: Tensor, c: Tensor) -> Tensor:
        """Linear forms that rank points by their distance from another one.

        Shapes as in `lift`. Of two points x, the one with the smaller ``lift(y) @ dual(x)`` is the
        nearer to y, so a matrix product finds the nearest of many points.
        """

    @abstractmethod
    def project(self, a: Tensor, c: Tensor) -> Tensor:
        """Scale ambient vectors (..., D + 1) back to points (..., D).

        A weighted sum of lifted points, with non-negative weights, becomes the point with the least
        weighted sum of squared chords to them.
        """

    @abstractmethod
    def sqchord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Squared chords ``q^2`` of pairs, to full relative precision.

        Parameters
        ----------
        x, y : Tensor, shapes broadcast to (..., D)
            Points.
        c : Tensor, broadcasts against (...,)
            Absolute curvature.

        Returns
        -------
        Tensor, shape (...,)
            Squared length of the straight line between the points in the ambient inner product,
            which is Minkowskian for sign -1; in flat space the squared distance. Differentiable.
        """

    @abstractmethod
    def sqchord_matrix(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Squared chords of all pairs by matrix products: fast, without (n, m, D) in memory.

        Parameters
        ----------
        x : Tensor, shape (..., n, D)
            Points.
        y : Tensor, shape (..., m, D)
            Points.
        c : Tensor, broadcasts against (..., 1)
            Absolute curvature, one for each matrix.

        Returns
        -------
        Tensor, shape (..., n, m)
            With an absolute error of about the rounding of squared lengths, and `CHORD_FLOOR` where
            less is left; differentiable, with zero gradient at the floor.
        """

    @abstractmethod
    def metric_from_sqchord(self, q2: Tensor, c: Tensor, metric: Metric) -> Tensor:
        """Turn squared chords into the metric of one subspace.

        Parameters
        ----------
        q2 : Tensor
            Squared chords.
        c : Tensor, broadcasts against ``q2``
            Absolute curvature.
        metric : {"l1", "geodesic", "chord"}
            ``d``, ``d^2`` or ``q^2``, with d the geodesic distance. Summed over the subspaces they
            are the city-block product distance (official code), the squared product geodesic and
            the squared chord of the product.

        Returns
        -------
        Tensor, shape of ``q2``
            Differentiable; the gradient of ``d`` at equal points, where it has none, is taken as 0.
        """

    def clip(self, v: Tensor, max_norm: float, c: Tensor) -> Tensor:
        """Shorten long tangent vectors.

        Parameters
        ----------
        v : Tensor, shape (..., D)
            Tangent vectors at the origin.
        max_norm : float
            Largest length. A space whose maps end at `max_radius` shortens to that, too.
        c : Tensor, broadcasts against (...,)
            Absolute curvature.

        Returns
        -------
        Tensor, shape (..., D)
            Vectors in the same directions; differentiable.
        """
        return clip_norm(v, max_norm)

    def distance(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Geodesic distance of pairs, to full relative precision; shapes as in `sqchord`."""
        return self.metric_from_sqchord(self.sqchord(x, y, c), c, "l1")

    def centroid(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        """Point with the least weighted sum of squared chords to others.

        Parameters
        ----------
        x : Tensor, shape (..., n, D)
            Points.
        weights : Tensor, shape (..., b, n)
            Non-negative weights with a positive sum; b centroids of the same n points.
        c : Tensor, broadcasts against (..., 1)
            Absolute curvature.

        Returns
        -------
        Tensor, shape (..., b, D)
            Differentiable.
        """
        p = weights / weights.sum(-1, keepdim=True)
        return self.project(p @ self.lift(x, c), c)

    def sqchord_table(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Squared chords of all pairs, each as accurate as `sqchord` has it; not differentiable.

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
        q2 = self.sqchord(wide_x.unsqueeze(-2), wide_y.unsqueeze(-3), wide_c.unsqueeze(-1))
        return q2.to(x.dtype)

    def nearest(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Index of the nearest of ``y`` to each of ``x``, the first of equal ones.

        The result for a point depends on no other point, nor on threads or the processor.

        Parameters
        ----------
        x : Tensor, shape (M, n, D), float64
            Points.
        y : Tensor, shape (M, K, D), float64
            Points.
        c : Tensor, shape (M, 1), float64
            Absolute curvature.

        Returns
        -------
        Tensor, shape (M, n), int64
        """
        return nearest_columns(self.lift(x, c), self.dual(y, c).transpose(-1, -2))

    def pairwise_distances(self, x: Tensor, y: Tensor, c: Tensor, metric: Metric) -> Tensor:
        """Distances of all pairs in the product of M spaces.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Points.
        y : Tensor, shape (m, M, D)
            Points.
        c : Tensor, shape (M,)
            Absolute curvatures.
        metric : {"l1", "geodesic", "chord"}
            See `metric_from_sqchord`.

        Returns
        -------
        Tensor, shape (n, m)
            Sums over the subspaces, differentiable, as accurate as `sqchord_matrix`.
        """
        q2 = self.sqchord_matrix(x.transpose(0, 1), y.transpose(0, 1), c[:, None])
        return self.metric_from_sqchord(q2, c[:, None, None], metric).sum(0)
