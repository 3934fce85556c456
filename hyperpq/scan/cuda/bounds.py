"""Lower bounds of distances in bytes, so that few rows need their float64 sums on a GPU.

The distance of a row is D = fl32(S), where S is the sum of its M float32 table entries in float64,
added in order, see `hyperpq.scan.reference`. A search needs the rows with D <= theta, which are
those with S <= sigma, see `largest_sums`. With a[m] the least entry of subspace m and A = sum a[m],
an entry t is replaced by the byte

    b = min(cap, floor(s (t - a)))          s = limit / (sigma - A + margin)

With u = 2^-53, g = M u and B = sum |a|, rounding leaves S >= E - g sum |t| of the exact sum E, and
|t| <= (t - a) + |a|, so

    S <= sigma   =>   (E - A) (1 - g) <= sigma - A + g B   =>   sum b <= s (E - A) <= limit

if s is lowered by a factor of 1 - 2^-40, which is more than 1 - g and all roundings of the
computation of b together, and margin = 4 g B covers g B and the rounding of A. So rows with a sum
of bytes above the limit have D > theta and are skipped. The others get their exact distances. This
is the bound of ``scan/native/bound.h`` with the bytes computed in float64.

Four queries share a 32-bit word of a table, so that one look-up serves them all. The kernel adds
the even and the odd bytes of a word in two sums with 16 bits a query. An entry is therefore at
most 65,535 / S, with S bytes a row, which only matters from S = 258 on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LANES = 4
"""Queries that share a word of a table; a single query has a table of bytes."""


@dataclass(frozen=True)
class Bounds:
    """The byte tables of queries for their thresholds.

    Attributes
    ----------
    words : Tensor, shape (groups, S, 256)
        Of each column of bytes and each value the entries of the queries of a group: uint8 with
        one query to a group, int32 with `LANES` of them, the first in the lowest byte.
    limits : Tensor, shape (groups * lanes,), int32
        Largest sum of a row that can matter to each query; -1 if no row can. The groups are filled
        up with queries that have the limit -1.
    lanes : int
        Queries of a group, 1 or `LANES`.
    nq : int
        Number of queries.
    """

    words: Tensor
    limits: Tensor
    lanes: int
    nq: int

    @classmethod
    def of(cls, tables: Tensor, theta: Tensor) -> Bounds:
        """The bounds of queries.

        Parameters
        ----------
        tables : Tensor, shape (nq, M, K), float32
            Their distance tables, finite; K = 256 or 16.
        theta : Tensor, shape (nq,), float32
            The largest distance that matters to each query; +inf if all do, never -inf.

        Returns
        -------
        Bounds
            On the device of the tables.
        """
        import torch

        nq, M, K = tables.shape
        wide = tables.double()
        least = wide.amin(2)
        margin = 4 * M * 2.0**-53 * least.abs().sum(1) + 1e-300
        slack = largest_sums(theta) - least.sum(1) + margin
        above = wide - least[:, :, None]
        columns = above if K == 256 else _pairs(above)
        S = columns.shape[1]
        lanes = 1 if nq == 1 else LANES
        cap = 255 if lanes == 1 else min(255, 65535 // S)
        shrunk = 1 - 2.0**-40
        # No row is skipped where the slack is infinite, as the scale is 0.
        scale = torch.where(slack >= 0, (cap - 1) / slack.abs().clamp(min=1e-300) * shrunk, 0.0)
        entries = (columns * scale[:, None, None]).clamp(max=cap).to(torch.uint8)
        limits = torch.where(slack >= 0, cap - 1, -1).to(torch.int32)
        if lanes == 1:
            return cls(entries, limits, lanes, nq)
        groups = math.ceil(nq / LANES)
        filled = entries.new_zeros((groups * LANES, S, 256))
        filled[:nq] = entries
        together = filled.view(groups, LANES, S, 256).permute(0, 2, 3, 1).contiguous()
        padded = limits.new_full((groups * LANES,), -1)
        padded[:nq] = limits
        return cls(together.view(torch.int32)[..., 0], padded, lanes, nq)


def largest_sums(theta: Tensor) -> Tensor:
    """Bounds (nq,) of the float64 sums whose distance is ``theta`` (nq,) float32 or less.

    They are the points halfway to the next float32, which float64 holds exactly; +inf for +inf and
    for the largest finite float32, which stands for all greater sums, too.
    """
    import torch

    following = torch.nextafter(theta, torch.full_like(theta, math.inf)).double()
    wide = theta.double()
    return torch.where(torch.isinf(following), math.inf, wide + (following - wide) / 2)


def _pairs(above: Tensor) -> Tensor:
    """Entries (nq, M, 16) -> of each byte the sums (nq, ceil(M / 2), 256) of its two halves."""
    import torch

    nq, M, _ = above.shape
    if M % 2:
        above = torch.cat([above, above.new_zeros((nq, 1, 16))], 1)
    low, high = above[:, 0::2], above[:, 1::2]
    return (low[:, :, None, :] + high[:, :, :, None]).flatten(2)
