"""`FlatProductQuantizer`: codebooks of Euclidean subspaces, those of FAISS's `IndexPQ`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError
from hyperpq.quantizers.flat_metrics import FLAT_METRICS, FlatMetric
from hyperpq.utils.exact_matmul import ExactFactor, squared_lengths
from hyperpq.utils.kept import Kept

# Products with codewords in memory at once.
_MAX_ENTRIES = 1 << 20
# Share of the squared lengths below which a squared distance is not computed from them.
_NEAR = 2.0**-16


class FlatProductQuantizer(nn.Module):
    """Product quantizer on M Euclidean subspaces.

    Distances are computed in float64, so that they are accurate to float32 although large norms
    cancel in them. The tables of a query do not depend on the batch that it is in, nor on the
    processor.

    Parameters
    ----------
    M : int
        Number of subspaces, each with its own codebook.
    D : int
        Dimension of a subspace.
    nbits : {4, 8}
        Bits of one code; K = 2**nbits codewords a codebook.
    metric : {"l2", "ip"}
        Squared Euclidean distance, or the negative of the inner product; smaller is nearer.

    Attributes
    ----------
    codebooks : Buffer, shape (M, K, D)
    """

    def __init__(self, M: int, D: int, nbits: int = 8, *, metric: FlatMetric = "l2") -> None:
        super().__init__()
        check_sizes(M, D, nbits)
        if metric not in FLAT_METRICS:
            raise InvalidInputError(f"metric is {metric!r}; expected 'l2' or 'ip'.")
        self.M, self.D, self.nbits, self.K, self.metric = M, D, nbits, 1 << nbits, metric
        self.codebooks = nn.Buffer(torch.zeros(M, self.K, D))
        self._firsts: Kept[Tensor] = Kept()
        self._tables: Kept[tuple[Tensor, Tensor, Tensor, ExactFactor]] = Kept()

    @property
    def spaces(self) -> int:
        """Number of subspaces: M."""
        return self.M

    @property
    def curvatures(self) -> Tensor:
        """None, as space is flat: shape (0,)."""
        return self.codebooks.new_zeros(0)

    def clip(self, v: Tensor) -> Tensor:
        """Vectors as they are; none is too long for flat space."""
        return v

    def points(self, v: Tensor) -> Tensor:
        """Vectors as they are; they are the points of flat space."""
        return v

    def _products(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows of x (n, M, D), and their products (M, rows, K) with codewords."""
        words = self.codebooks.double().transpose(1, 2)
        step = max(1, _MAX_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            yield rows, x[rows].double().transpose(0, 1) @ words

    def _lengths(self) -> Tensor:
        """Squared lengths (M, 1, K) of the codewords."""
        return self.codebooks.double().square().sum(-1)[:, None]

    def _first_of_equals(self) -> Tensor:
        """For each codeword the first one equal to it, (M, K); a BLAS may rank equal ones apart.

        It is kept until the codebooks change: it takes as long as the codes of 1,000 vectors.
        """
        return self._firsts.get((self.codebooks,), self._compare_codewords)

    def _compare_codewords(self) -> Tensor:
        number = torch.arange(self.K, device=self.codebooks.device)
        out = []
        for book in self.codebooks:
            same = torch.unique(book, dim=0, return_inverse=True)[1]
            out.append(number.scatter_reduce(0, same, number, "amin", include_self=False)[same])
        return torch.stack(out)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Index of the nearest codeword in each subspace, by l2 distance with either metric.

        Parameters
        ----------
        x : Tensor, shape (n, M, D)

        Returns
        -------
        Tensor, shape (n, M), uint8
            The first of equal codewords.
        """
        lengths, first = self._lengths(), self._first_of_equals()
        out = torch.empty(len(x), self.M, dtype=torch.uint8, device=x.device)
        for rows, product in self._products(x):
            cost = product.mul_(-2).add_(lengths)
            if cost.device.type == "cpu":  # numpy's argmin has vector code, torch's has none
                nearest = torch.from_numpy(cost.numpy().argmin(-1))
            else:
                nearest = cost.argmin(-1)
            out[rows] = first.gather(1, nearest).T.to(torch.uint8)
        return out

    @torch.no_grad()
    def tables(self, x: Tensor) -> Tensor:
        """Share of every codeword in the distance: queries (nq, M, D) -> (nq, M, K)."""
        middle, words, lengths, factor = self._prepared()
        out = torch.empty(len(x), self.M, self.K, dtype=x.dtype, device=x.device)
        step = max(1, _MAX_ENTRIES // (self.M * self.K))
        for start in range(0, len(x), step):
            given = x[start : start + step].double().transpose(0, 1)
            points = given - middle[:, None]
            share = factor.left_product(points)
            if self.metric == "ip":
                share.neg_()
            else:
                both = lengths + squared_lengths(points)[..., None]
                share.mul_(-2).add_(both)
                m, row, k = (share < both.mul_(_NEAR)).nonzero(as_tuple=True)
                share[m, row, k] = squared_lengths(given[m, row] - words[m, k])
            out[start : start + step] = share.transpose(0, 1).to(x.dtype)
        return out

    def _prepared(self) -> tuple[Tensor, Tensor, Tensor, ExactFactor]:
        """What tables need of the codebooks: an origin, codewords, and their lengths from there.

        It is kept until the codebooks change: it takes as long as the tables of several queries.
        """
        return self._tables.get((self.codebooks,), self._prepare)

    def _prepare(self) -> tuple[Tensor, Tensor, Tensor, ExactFactor]:
        words = self.codebooks.double()
        # With the middle of the codewords as the origin, few distances are much smaller than
        # lengths. Their mean would depend on the order in which it is summed.
        middle = (words.amin(1) + words.amax(1)) / 2
        if self.metric == "ip":
            middle.zero_()
        shifted = words - middle[:, None]
        factor = ExactFactor(shifted.transpose(1, 2))
        return middle, words, squared_lengths(shifted)[:, None], factor

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Coded codewords: (n, M) integers -> (n, M, D)."""
        return self.codebooks[torch.arange(self.M, device=codes.device), codes.long()]

    def code_points(self, codes: Tensor) -> Tensor:
        """Points of codes: (n, M) integers -> the decoded vectors, float64."""
        return self.points(self.decode(codes).double())

    def extra_repr(self) -> str:
        """Show sizes and metric in ``repr``."""
        return f"M={self.M}, D={self.D}, nbits={self.nbits}, metric={self.metric!r}"
