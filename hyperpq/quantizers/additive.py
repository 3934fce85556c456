"""`AdditiveQuantizer`: a vector is the sum of M whole codewords, and so is its metric.

For codes that keep exact neighbours. The space is flat and not cut into subspaces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperpq.codes import check_sizes
from hyperpq.utils.exact_matmul import exact_matmul

# The name of its metric, as `lorentz.METRICS` has those of the product quantizer.
INNER = "inner"
# What N counts in the metric: queries lie further out than what is left of a vector in its code.
# Found on rows that weren't learned from (docs/method.md).
DISCOUNT = 0.9
# Codes kept after each codebook; rows whose candidates are in memory at once.
BEAM, _ROWS = 16, 256
# Candidates are searched for the smallest by groups of this many.
_GROUP = 16


class AdditiveQuantizer(nn.Module):
    """Codewords that add up, with a share of the metric of their own.

    A vector is (y, s): coordinates y and the squared length s of the whole vector that y is a part
    of, s >= |y|^2. Its code has M codewords (c_m, n_m); their sum (z, N) scores a query (q, t) by
    ``t - 2 <q, z> + DISCOUNT * N``. The squared distance has |z|^2 in place of N, which is no sum
    over m. So codes are chosen for a small
    ``|y - z|^2 + stress * (N - <y, z> - (s - |y|^2) / 2)^2``: near vectors
    whose N is what it should be for queries near y.

    Parameters
    ----------
    M : int
        Number of codebooks.
    D : int
        Coordinates of a vector, s included; at least 2.
    nbits : {4, 8}
        Bits of one code; K = 2**nbits codewords a codebook.

    Attributes
    ----------
    codebooks : Parameter, shape (M, K, D)
        ``codebooks[m, k]`` is (c, n).
    stress : Buffer, scalar
        Weight of the error of N.
    """

    spaces = 1
    metric = INNER

    def __init__(self, M: int, D: int, nbits: int = 8) -> None:
        super().__init__()
        check_sizes(M, D, nbits, least=2)
        self.M, self.D, self.nbits, self.K = M, D, nbits, 1 << nbits
        self.codebooks = nn.Parameter(torch.zeros(M, self.K, D))
        self.stress = nn.Buffer(torch.ones(()))

    @property
    def c(self) -> Tensor:
        """Negated curvatures: none, shape (0,)."""
        return self.stress.new_zeros(0)

    def clip(self, v: Tensor) -> Tensor:
        """Vectors (..., 1, D) as they are."""
        return v

    def points(self, v: Tensor) -> Tensor:
        """Vectors (..., 1, D) as they are."""
        return v

    @torch.no_grad()
    def codes(self, x: Tensor, beam: int = BEAM) -> Tensor:
        """Codes by beam search: codebook after codebook, the best partial sums go on.

        Parameters
        ----------
        x : Tensor, shape (n, 1, D)
            Vectors (y, s).
        beam : int
            Partial sums of each vector that go on; K**M of them find the best code.

        Returns
        -------
        Tensor, shape (n, M), uint8
        """
        out = torch.empty(len(x), self.M, dtype=torch.uint8, device=x.device)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            out[rows] = self._search(x[rows, 0], beam).to(torch.uint8)
        return out

    def _search(self, x: Tensor, beam: int) -> Tensor:
        """Codes (n, M) int64 of vectors (n, D), see `codes`."""
        x, books = x.double(), self.codebooks.double()
        y, (n, K) = x[:, :-1], (len(x), self.K)
        # Of each partial sum: what is left of y and of N, and the codes.
        rest = y[:, None]
        short = (y.square().sum(1, keepdim=True) - x[:, -1:]) / 2
        codes = torch.empty(n, 1, 0, dtype=torch.int64, device=x.device)
        each = torch.arange(n, device=x.device)[:, None]
        for book in books:
            words, B = book[:, :-1], rest.shape[1]
            step = book[:, -1] - exact_matmul(y, words.T)
            miss = short[:, :, None] + step[:, None]
            cost = exact_matmul(rest.flatten(0, 1), words.T).view(n, B, K).mul_(-2)
            cost += words.square().sum(1) + rest.square().sum(2, keepdim=True)
            cost += miss.square().mul_(self.stress)
            best = smallest(cost.flatten(1), min(beam, B * K))
            parent, word = best // K, best % K
            rest = rest[each, parent] - words[word]
            short = miss.flatten(1).gather(1, best)
            codes = torch.cat([codes[each, parent], word[..., None]], 2)
        return codes[:, 0]

    @torch.no_grad()
    def tables(self, x: Tensor) -> Tensor:
        """Shares of the metric of every codeword: the ADC tables.

        Parameters
        ----------
        x : Tensor, shape (nq, 1, D)
            Queries (q, t).

        Returns
        -------
        Tensor, shape (nq, M, K)
            ``t / M - 2 <q, c> + DISCOUNT * n``: sums estimate squared distances.
        """
        flat = x[:, 0]
        words = self.codebooks.flatten(0, 1).to(x.dtype)
        shares = DISCOUNT * words[:, -1] - 2 * flat[:, :-1] @ words[:, :-1].T
        return (shares + flat[:, -1:] / self.M).view(len(x), self.M, self.K)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes: (n, M) integers -> (n, 1, D), the last coordinate as N implies it."""
        total = self.sums(codes.long())
        z, N = total[:, :-1], total[:, -1:]
        return torch.cat([z, 2 * N - z.square().sum(1, keepdim=True)], 1)[:, None]

    def sums(self, codes: Tensor) -> Tensor:
        """Sums (z, N) of codewords: codes (n, M) int64 -> (n, D); differentiable."""
        return self.codebooks[torch.arange(self.M, device=codes.device), codes].sum(1)

    def extra_repr(self) -> str:
        """Show sizes in ``repr``."""
        return f"M={self.M}, D={self.D}, nbits={self.nbits}"


def smallest(cost: Tensor, k: int) -> Tensor:
    """Positions (n, k) of the k smallest of each row (n, C), ascending; C a multiple of 16.

    They lie in the k groups with the smallest minima, and minima of groups are cheap.
    """
    n, C = cost.shape
    groups = C // _GROUP
    if k >= groups:
        return cost.topk(k, dim=1, largest=False)[1]
    # Group g holds positions g, g + groups, ...: the minimum runs over rows of memory.
    near = cost.view(n, _GROUP, groups).amin(1).topk(k, dim=1, largest=False, sorted=False)[1]
    inside = near[:, None] + groups * torch.arange(_GROUP, device=cost.device)[:, None]
    inside = inside.flatten(1)
    best = cost.gather(1, inside).topk(k, dim=1, largest=False)[1]
    return inside.gather(1, best)
