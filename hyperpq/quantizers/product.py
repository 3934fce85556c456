"""`ProductQuantizer`: codebooks, learned curvatures and codebook attention in any geometry."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import (
    CURVATURE_RANGE,
    METRICS,
    GeometryName,
    Metric,
    get_geometry,
)
from hyperpq.utils.kept import Kept

# Entries that fit a cache: of tables, and of the products that codes are read from.
_TABLE_ENTRIES, _CODE_ENTRIES = 1 << 16, 1 << 20


class ProductQuantizer(nn.Module):
    """Product quantizer on M curved spaces (paper, section 3.2).

    Codewords live in the tangent space at the origin of their subspace, a Euclidean space, and take
    the same clip and exponential map as the vectors they quantize.

    Parameters
    ----------
    M : int
        Number of subspaces, each with its own codebook and curvature.
    D : int
        Dimension of a subspace.
    nbits : {4, 8}
        Bits of one code; K = 2**nbits codewords a codebook.
    metric : {"l1", "geodesic", "chord"}
        How the distances of the subspaces add up, see `Geometry.metric_from_sqchord`.
    beta : float
        Inverse temperature of the codebook attention.
    max_norm : float
        Tangent vectors longer than this are shortened to it; on the sphere, those that lead beyond
        the equator, at ``pi / (2 sqrt(c))``, are shortened to end on it.
    geometry : str
        Space of each subspace, one of `GEOMETRIES`; in flat space the curvatures have no effect.

    Attributes
    ----------
    geometry : Geometry
        The space of that name.
    codebooks : Parameter, shape (M, K, D)
        Tangent vectors of the codewords.
    log_c : Parameter, shape (M,)
        Logarithm of the absolute curvatures; never weight-decayed.
    """

    def __init__(
        self,
        M: int,
        D: int,
        nbits: int = 8,
        *,
        metric: Metric = "l1",
        beta: float = 5.0,
        max_norm: float = 1.5,
        geometry: GeometryName = "lorentz",
    ) -> None:
        super().__init__()
        check_sizes(M, D, nbits)
        if metric not in METRICS:
            raise InvalidInputError(f"metric is {metric!r}; expected 'l1', 'geodesic' or 'chord'.")
        if not (beta > 0 and max_norm > 0):
            raise InvalidInputError(
                f"beta is {beta} and max_norm {max_norm}; expected positive numbers."
            )
        self.M, self.D, self.nbits, self.K = M, D, nbits, 1 << nbits
        self.metric: Metric = metric
        self.beta, self.max_norm = float(beta), float(max_norm)
        self.geometry = get_geometry(geometry)
        self.codebooks = nn.Parameter(torch.zeros(M, self.K, D))
        self.log_c = nn.Parameter(torch.zeros(M))
        self._words: Kept[Tensor] = Kept()

    @property
    def spaces(self) -> int:
        """Number of subspaces: M."""
        return self.M

    @property
    def c(self) -> Tensor:
        """Absolute curvatures, shape (M,)."""
        return self.log_c.exp()

    @property
    def curvatures(self) -> Tensor:
        """Curvatures with their signs, shape (M,), without a gradient."""
        return self.geometry.sign * self.c.detach()

    def clamp_(self) -> None:
        """Bring curvatures back into `CURVATURE_RANGE`; called after each optimiser step."""
        low, high = CURVATURE_RANGE
        with torch.no_grad():
            self.log_c.clamp_(torch.tensor(low).log().item(), torch.tensor(high).log().item())

    def clip(self, v: Tensor) -> Tensor:
        """Tangent vectors (..., M, D), those longer than the space or ``max_norm`` shortened."""
        return self.geometry.clip(v, self.max_norm, self.log_c.to(v.dtype).exp())

    def points(self, v: Tensor) -> Tensor:
        """Tangent vectors (..., M, D) -> points (..., M, D), clipped and mapped."""
        return self.geometry.expmap0(self.clip(v), self.log_c.to(v.dtype).exp())

    def codewords(self, dtype: torch.dtype | None = None) -> Tensor:
        """Points of all codewords, shape (M, K, D); worked out in a dtype if one is given."""
        v = self._clipped_codebooks(dtype)
        return self.geometry.expmap0(v, self.log_c.to(v.dtype).exp()[:, None])

    def _clipped_codebooks(self, dtype: torch.dtype | None = None) -> Tensor:
        """Tangent vectors of all codewords, shape (M, K, D)."""
        v = self.codebooks.to(dtype)
        return self.geometry.clip(v, self.max_norm, self.log_c.to(v.dtype).exp()[:, None])

    def _exact_codewords(self) -> Tensor:
        """Points of all codewords in float64, kept: half of the time of one query's tables."""
        sources = (self.codebooks, self.log_c)
        return self._words.get(sources, lambda: self.codewords(torch.float64).detach())

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Soft quantization: each point becomes a centroid of all codewords.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Points.

        Returns
        -------
        soft : Tensor, shape (n, M, D)
            Centroids.
        p : Tensor, shape (M, n, K)
            Weights of the centroids, ``softmax(-beta q^2)``, with q^2 the squared chord.
        """
        words, c = self.codewords(), self.c[:, None]
        q2 = self.geometry.sqchord_matrix(x.transpose(0, 1), words, c)
        p = torch.softmax(-self.beta * q2, dim=-1)
        return self.geometry.centroid(words, p, c).transpose(0, 1), p

    def straight_through(self, x: Tensor) -> Tensor:
        """Hard quantization: each point becomes its nearest codeword.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Points.

        Returns
        -------
        Tensor, shape (n, M, D)
            Points of the codewords. Their gradient goes to the codewords, and the same one to
            ``x``, as if the step were the identity (van den Oord et al., NeurIPS 2017).
        """
        own = self.codes(x.detach()).long()
        words = self.codewords()[torch.arange(self.M, device=x.device), own]
        return words + x - x.detach()

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Index of the nearest codeword in each subspace, the first of equal ones.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Points.

        Returns
        -------
        Tensor, shape (n, M), uint8
        """
        words, c = self._exact_codewords(), self.log_c.double().exp()[:, None]
        out = torch.empty(x.shape[0], self.M, dtype=torch.uint8, device=x.device)
        step = max(1, _CODE_ENTRIES // (self.M * self.K))
        for start in range(0, x.shape[0], step):
            block = x[start : start + step].transpose(0, 1).double()
            nearest = self.geometry.nearest(block, words, c)
            out[start : start + step] = nearest.T.to(torch.uint8)
        return out

    @torch.no_grad()
    def tables(self, x: Tensor) -> Tensor:
        """Distances from points to every codeword: the ADC tables.

        Parameters
        ----------
        x : Tensor, shape (nq, M, D)
            Points of the queries.

        Returns
        -------
        Tensor, shape (nq, M, K)
            Accurate to the rounding of their type, near codewords included.
        """
        exact = x.dtype == torch.float64
        words = self._exact_codewords() if exact else self.codewords(x.dtype)
        c = self.log_c.to(x.dtype).exp()[:, None]
        out = torch.empty(x.shape[0], self.M, self.K, dtype=x.dtype, device=x.device)
        step = max(1, _TABLE_ENTRIES // (self.M * self.K))
        for start in range(0, x.shape[0], step):
            q2 = self.geometry.sqchord_table(x[start : start + step].transpose(0, 1), words, c)
            distances = self.geometry.metric_from_sqchord(q2.transpose(0, 1), c, self.metric)
            out[start : start + step] = distances
        return out

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Tangent vectors of coded codewords: (n, M) integers -> (n, M, D)."""
        v = self._clipped_codebooks()
        return v[torch.arange(self.M, device=v.device), codes.long()]

    @torch.no_grad()
    def code_points(self, codes: Tensor) -> Tensor:
        """Points of coded codewords: (n, M) integers -> (n, M, D), float64.

        They have the bits of the codewords in `tables`, so the distance to a codeword of its own is
        exactly 0. Points that are worked out anew have other last bits in another batch.
        """
        words = self._exact_codewords()
        return words[torch.arange(self.M, device=words.device), codes.long()]

    def pairwise_distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs in the product space, differentiable.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Points.
        y : Tensor, shape (m, M, D)
            Points.

        Returns
        -------
        Tensor, shape (n, m)
            Sums over the subspaces.
        """
        return self.geometry.pairwise_distances(x, y, self.c, self.metric)

    def extra_repr(self) -> str:
        """Show sizes, metric and geometry in ``repr``."""
        return (
            f"M={self.M}, D={self.D}, nbits={self.nbits}, metric={self.metric!r}, "
            f"geometry={self.geometry.name!r}"
        )


# The earlier name, from when hyperbolic space, the default, was the only one.
LorentzProductQuantizer = ProductQuantizer
