"""`AdditiveQuantizer`: a vector is coded as a sum of M codewords, each as wide as the vector.

It serves codes that keep exact neighbours. The space is flat and not cut into subspaces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperpq.codes import check_sizes
from hyperpq.quantizers.additive_constants import BEAM, DISCOUNT, SHARE
from hyperpq.quantizers.flat_metrics import FIDELITY_METRICS, FidelityMetric
from hyperpq.utils.exact_matmul import exact_matmul, squared_lengths
from hyperpq.utils.validation import as_choice

# Rows whose candidates are in memory at once.
_BATCH_ROWS = 256
# Candidates in one bin when the smallest ones are looked for.
_BIN = 16


class AdditiveQuantizer(nn.Module):
    """Codewords that add up, each with a share of the distance.

    A vector is (y, s): y are some coordinates of a longer vector in an orthonormal basis, and s is
    the squared length of that vector, s >= |y|^2. Its code has M codewords (c_m, n_m). Their sum
    (z, N) gives a query (q, t) the distance ``t - 2 <q, z> + DISCOUNT * N``. The squared distance
    has |z|^2 in place of N, and |z|^2 is not a sum over m. Codes are therefore chosen for a small
    ``|y - z|^2 + stress * (N - <y, z> - (s - |y|^2) / 2)^2``: z is near y, and N is what it should
    be for queries near y.

    With the metric ``ip`` the distance is ``-<q, z>``, and N and s have no part in it: the stress
    is 0, and codes are chosen for a small ``|y - z|^2``.

    Parameters
    ----------
    M : int
        Number of codebooks.
    D : int
        Coordinates of a vector, s included; at least 2.
    nbits : {4, 8}
        Bits of one code; K = 2**nbits codewords a codebook.
    metric : {"cosine", "l2", "ip"}
        What distances estimate: a squared distance, with ``cosine`` that of unit vectors, or the
        negative of the inner product.

    Attributes
    ----------
    codebooks : Parameter, shape (M, K, D)
        ``codebooks[m, k]`` is (c, n).
    stress : Buffer, scalar
        Weight of the error of N.
    """

    spaces = 1

    def __init__(
        self, M: int, D: int, nbits: int = 8, *, metric: FidelityMetric = "cosine"
    ) -> None:
        super().__init__()
        check_sizes(M, D, nbits, least=2)
        self.metric: FidelityMetric = as_choice(metric, "metric", FIDELITY_METRICS)
        self.M, self.D, self.nbits, self.K = M, D, nbits, 1 << nbits
        self.codebooks = nn.Parameter(torch.zeros(M, self.K, D))
        self.stress = nn.Buffer(torch.ones(()))

    @property
    def curvatures(self) -> Tensor:
        """None, as space is flat: shape (0,)."""
        return self.stress.new_zeros(0)

    def clip(self, v: Tensor) -> Tensor:
        """Vectors (..., 1, D) as they are."""
        return v

    def points(self, v: Tensor) -> Tensor:
        """Vectors (..., 1, D) as they are."""
        return v

    @torch.no_grad()
    def codes(self, x: Tensor, beam: int = BEAM) -> Tensor:
        """Codes by beam search: after each codebook the best partial sums are kept.

        Parameters
        ----------
        x : Tensor, shape (n, 1, D)
            Vectors (y, s).
        beam : int
            Partial sums that are kept for each vector; with K**M the best code is found.

        Returns
        -------
        Tensor, shape (n, M), uint8
        """
        out = torch.empty(len(x), self.M, dtype=torch.uint8, device=x.device)
        for start in range(0, len(x), _BATCH_ROWS):
            rows = slice(start, start + _BATCH_ROWS)
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
        """Share of every codeword in the distance: the ADC tables.

        Parameters
        ----------
        x : Tensor, shape (nq, 1, D)
            Queries (q, t).

        Returns
        -------
        Tensor, shape (nq, M, K)
            ``t / M - 2 <q, c> + DISCOUNT * n``, or ``-<q, c>`` with the metric ``ip``; sums over M
            estimate distances.
        """
        flat = x[:, 0]
        words = self.codebooks.flatten(0, 1).to(x.dtype)
        if self.metric == "ip":
            return -(flat[:, :-1] @ words[:, :-1].T).view(len(x), self.M, self.K)
        shares = DISCOUNT * words[:, -1] - 2 * flat[:, :-1] @ words[:, :-1].T
        return (shares + flat[:, -1:] / self.M).view(len(x), self.M, self.K)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes: (n, M) integers -> (n, 1, D), the last coordinate as N implies it."""
        total = self._exact_sums(codes)
        z, N = total[:, :-1], total[:, -1:]
        length = z.square().sum(1, keepdim=True)
        last = length if self.metric == "ip" else 2 * N - length
        return torch.cat([z, last], 1)[:, None].float()

    @torch.no_grad()
    def corrections(self, codes: Tensor) -> Tensor:
        """What makes the distances of codes more exact, as their N has an error.

        N stands for |z|^2, which is not a sum over codebooks, and for half of the squared length
        that y lacks. |z|^2 in place of a share of N takes this share of the error away. It needs no
        query, but the whole code.

        Parameters
        ----------
        codes : Tensor, shape (n, M)
            Integers.

        Returns
        -------
        Tensor, shape (n,), float64
            ``DISCOUNT * SHARE * (|z|^2 - N)``, and 0 with the metric ``ip``; to be added to the
            distances of `tables`.
        """
        if self.metric == "ip":
            return torch.zeros(len(codes), dtype=torch.float64, device=codes.device)
        total = self._exact_sums(codes)
        return DISCOUNT * SHARE * (squared_lengths(total[:, :-1]) - total[:, -1])

    def code_points(self, codes: Tensor) -> Tensor:
        """Points of codes: (n, M) integers -> the decoded vectors, float64."""
        return self.points(self.decode(codes).double())

    def _exact_sums(self, codes: Tensor) -> Tensor:
        """`sums` in float64, one codeword after another: they have the same bits everywhere."""
        books = self.codebooks.double()
        total = torch.zeros(len(codes), self.D, dtype=torch.float64, device=codes.device)
        for m in range(self.M):
            total += books[m, codes[:, m].long()]
        return total

    def sums(self, codes: Tensor) -> Tensor:
        """Sums (z, N) of codewords: codes (n, M) int64 -> (n, D); differentiable."""
        return self.codebooks[torch.arange(self.M, device=codes.device), codes].sum(1)

    def extra_repr(self) -> str:
        """Show sizes in ``repr``."""
        return f"M={self.M}, D={self.D}, nbits={self.nbits}, metric={self.metric!r}"


def smallest(cost: Tensor, k: int) -> Tensor:
    """Positions (n, k) of the k smallest of each row (n, C), ascending; C a multiple of 16.

    They lie in the k bins with the smallest minima, and the minimum of a bin is cheap.
    """
    n, C = cost.shape
    bins = C // _BIN
    if k >= bins:
        return cost.topk(k, dim=1, largest=False)[1]
    # Bin b holds the positions b, b + bins, ...: the minimum runs over rows of memory.
    near = cost.view(n, _BIN, bins).amin(1).topk(k, dim=1, largest=False, sorted=False)[1]
    inside = near[:, None] + bins * torch.arange(_BIN, device=cost.device)[:, None]
    inside = inside.flatten(1)
    best = cost.gather(1, inside).topk(k, dim=1, largest=False)[1]
    return inside.gather(1, best)
