"""`LorentzProductQuantizer`: codebooks, learned curvatures and codebook attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError
from hyperpq.geometry import lorentz
from hyperpq.geometry.pairwise import pair_scores
from hyperpq.utils.exact_matmul import exact_matmul

# sqrt(c) r stays under 5 for every clip radius r in use (docs/method.md), and c can't reach 0.
CURVATURE_RANGE = (0.01, 10.0)
# Entries of tables made, and of products that codes are read off, at a time: sizes for caches.
_CACHED, _ENCODED = 1 << 16, 1 << 20
# Products in float32 may rank columns otherwise than exact ones if they differ by less than this
# times the lengths of the factors; the two differ by up to 2.4e-7 of these, 2 to 1,025 coordinates.
_ROUNDING = 4e-6


def _nearest(left: Tensor, right: Tensor, error: Tensor) -> Tensor:
    """Column of the smallest exact product, the first of equal ones.

    Products in float32 are several times as fast. They settle all rows but those with a second
    column within ``error`` of the smallest.

    Parameters
    ----------
    left : Tensor, shape (M, n, k), float64
    right : Tensor, shape (M, k, K), float64
    error : Tensor, shape (M, n), float32

    Returns
    -------
    Tensor, shape (M, n), int64
    """
    cross = left.float() @ right.float()
    if cross.device.type == "cpu":  # numpy's argmin has vector code, torch's has none
        nearest = torch.from_numpy(cross.numpy().argmin(-1))
    else:
        nearest = cross.argmin(-1)
    least = cross.gather(-1, nearest.unsqueeze(-1)) + error.unsqueeze(-1)
    close = (cross <= least).sum(-1) > 1
    for m in close.any(1).nonzero()[:, 0].tolist():
        rows = close[m]
        exact = exact_matmul(left[m, rows], right[m])
        nearest[m, rows] = torch.from_numpy(exact.cpu().numpy().argmin(-1)).to(nearest.device)
    return nearest


class LorentzProductQuantizer(nn.Module):
    """Product quantizer on M Lorentz spaces (paper, section 3.2).

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
        How the distances of the subspaces add up, see `lorentz.score_of`.
    beta : float
        Inverse temperature of the codebook attention.
    max_norm : float
        Tangent vectors longer than this are shortened to it.

    Attributes
    ----------
    codebooks : Parameter, shape (M, K, D)
        Tangent vectors of the codewords.
    log_c : Parameter, shape (M,)
        Logarithm of the negated curvatures; never weight-decayed.
    """

    def __init__(
        self,
        M: int,
        D: int,
        nbits: int = 8,
        *,
        metric: str = "l1",
        beta: float = 5.0,
        max_norm: float = 1.5,
    ) -> None:
        super().__init__()
        check_sizes(M, D, nbits)
        if metric not in lorentz.METRICS:
            raise InvalidInputError(
                f"metric is {metric!r}; choose one of {', '.join(lorentz.METRICS)}."
            )
        if not (beta > 0 and max_norm > 0):
            raise InvalidInputError(
                f"beta is {beta} and max_norm {max_norm}; both must be positive numbers."
            )
        self.M, self.D, self.nbits, self.K = M, D, nbits, 1 << nbits
        self.metric, self.beta, self.max_norm = metric, float(beta), float(max_norm)
        self.codebooks = nn.Parameter(torch.zeros(M, self.K, D))
        self.log_c = nn.Parameter(torch.zeros(M))

    @property
    def spaces(self) -> int:
        """Number of subspaces: M."""
        return self.M

    @property
    def c(self) -> Tensor:
        """Negated curvatures, shape (M,)."""
        return self.log_c.exp()

    def clamp_(self) -> None:
        """Bring curvatures back into `CURVATURE_RANGE`; called after each optimiser step."""
        low, high = CURVATURE_RANGE
        with torch.no_grad():
            self.log_c.clamp_(torch.tensor(low).log().item(), torch.tensor(high).log().item())

    def clip(self, v: Tensor) -> Tensor:
        """Tangent vectors (..., M, D), those longer than ``max_norm`` shortened to it."""
        return lorentz.clip_norm(v, self.max_norm)

    def points(self, v: Tensor) -> Tensor:
        """Tangent vectors (..., M, D) -> space parts of points (..., M, D), clipped and mapped."""
        return lorentz.expmap0(self.clip(v), self.log_c.to(v.dtype).exp())

    def codewords(self, dtype: torch.dtype | None = None) -> Tensor:
        """Space parts of all codewords, shape (M, K, D); worked out in a dtype if one is given."""
        v = self.clip(self.codebooks.to(dtype))
        return lorentz.expmap0(v, self.log_c.to(v.dtype).exp()[:, None])

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Soft quantization: each point becomes the Lorentz centroid of the codewords.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Space parts of points.

        Returns
        -------
        soft : Tensor, shape (n, M, D)
            Space parts of the centroids.
        p : Tensor, shape (M, n, K)
            Attention ``softmax(-beta q^2)``, with q^2 the squared Lorentzian distance.
        """
        words, c = self.codewords(), self.c[:, None]
        p = torch.softmax(-self.beta * lorentz.sqchord_matrix(x.transpose(0, 1), words, c), dim=-1)
        return lorentz.centroid(words, p, c).transpose(0, 1), p

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Index of the nearest codeword in each subspace, the first of equal ones.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Space parts of points.

        Returns
        -------
        Tensor, shape (n, M), uint8
        """
        words, c = self.codewords(torch.float64), self.log_c.double().exp()[:, None]
        # q^2 without its constant: within one subspace -<x, y> alone ranks.
        right = torch.cat([-words, lorentz.time_part(words, c).unsqueeze(-1)], -1)
        right = right.transpose(-1, -2)
        longest = right.norm(dim=1).amax(1, keepdim=True)
        out = torch.empty(x.shape[0], self.M, dtype=torch.uint8, device=x.device)
        step = max(1, _ENCODED // (self.M * self.K))
        for start in range(0, x.shape[0], step):
            block = x[start : start + step].transpose(0, 1).double()
            left = torch.cat([block, lorentz.time_part(block, c).unsqueeze(-1)], -1)
            error = (_ROUNDING * left.norm(dim=-1) * longest).float()
            out[start : start + step] = _nearest(left, right, error).T.to(torch.uint8)
        return out

    @torch.no_grad()
    def tables(self, x: Tensor) -> Tensor:
        """Scores from points to every codeword: the ADC tables.

        Parameters
        ----------
        x : Tensor, shape (nq, M, D)
            Space parts of the queries' points.

        Returns
        -------
        Tensor, shape (nq, M, K)
            Right to the rounding of their type, near codewords included.
        """
        words, c = self.codewords(x.dtype), self.log_c.to(x.dtype).exp()[:, None]
        out = torch.empty(x.shape[0], self.M, self.K, dtype=x.dtype, device=x.device)
        step = max(1, _CACHED // (self.M * self.K))
        for start in range(0, x.shape[0], step):
            q2 = lorentz.sqchord_table(x[start : start + step].transpose(0, 1), words, c)
            out[start : start + step] = lorentz.score_of(q2.transpose(0, 1), c, self.metric)
        return out

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Tangent vectors of coded codewords: (n, M) integers -> (n, M, D)."""
        v = self.clip(self.codebooks)
        return v[torch.arange(self.M, device=v.device), codes.long()]

    def product_score(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores of all pairs under the product space, differentiable.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)
            Space parts.
        y : Tensor, shape (m, M, D)
            Space parts.

        Returns
        -------
        Tensor, shape (n, m)
            Sum of the subspaces' scores.
        """
        return pair_scores(x, y, self.c, self.metric)

    def extra_repr(self) -> str:
        """Show sizes and metric in ``repr``."""
        return f"M={self.M}, D={self.D}, nbits={self.nbits}, metric={self.metric!r}"
