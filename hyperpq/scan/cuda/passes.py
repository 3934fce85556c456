"""The two passes over codes on a device: which rows may matter, and the distances of some rows.

`TorchPasses` is the reference, on any device. `kernels.TritonPasses` does the same on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from hyperpq.codes import TILE_ROWS

if TYPE_CHECKING:
    from torch import Tensor

    from hyperpq.scan.cuda.bounds import Bounds
    from hyperpq.scan.cuda.piece import Piece

LARGEST = float(np.finfo(np.float32).max)
"""Distances beyond the range of float32 are this, as infinity means that there is no row."""

# Pairs of a query and a row whose sums are in memory at once.
_PAIRS = 1 << 22


class Passes(Protocol):
    """What searches need of a device."""

    def survivors(self, piece: Piece, bounds: Bounds, capacity: int) -> tuple[Tensor, Tensor]:
        """The rows that are searched and that the bounds do not rule out.

        Parameters
        ----------
        piece : Piece
            The rows.
        bounds : Bounds
            Of nq queries.
        capacity : int
            Number of rows that are returned for each query at most.

        Returns
        -------
        rows : Tensor, shape (nq, capacity), int32
            Their numbers in any order, filled up with -1; of more than ``capacity`` any of them.
        counts : Tensor, shape (nq,), int32
            How many there are, also beyond ``capacity``.
        """

    def distances(self, piece: Piece, tables: Tensor, rows: Tensor) -> Tensor:
        """Exact distances of some rows.

        Parameters
        ----------
        piece : Piece
            The rows.
        tables : Tensor, shape (nq, M, K), float32
            Tables of the queries.
        rows : Tensor, shape (nq, w), int32
            Numbers of rows, -1 for none. It may be an expanded tensor, of equal rows.

        Returns
        -------
        Tensor, shape (nq, w), float32
            +inf where there is no row.
        """


class TorchPasses:
    """The passes in plain PyTorch."""

    def survivors(self, piece: Piece, bounds: Bounds, capacity: int) -> tuple[Tensor, Tensor]:
        """See `Passes.survivors`."""
        import torch

        words, groups = bounds.words.int(), len(bounds.words)
        rows = words.new_full((bounds.nq, capacity), -1)
        counts = words.new_zeros(bounds.nq)
        for first, codes in piece.columns(max(1, _PAIRS // groups)):
            low = words.new_zeros((groups, codes.shape[1]))
            high = torch.zeros_like(low)
            for c, code in enumerate(codes.int()):
                entry = words[:, c].index_select(1, code)
                if bounds.lanes == 1:
                    low += entry
                else:
                    low += entry & 0x00FF00FF
                    high += entry >> 8 & 0x00FF00FF
            if bounds.lanes == 1:
                sums = low
            else:
                each = (low, high, low >> 16, high >> 16)
                sums = (torch.stack(each, 1) & 0xFFFF).flatten(0, 1)
            numbers = torch.arange(first, first + codes.shape[1], device=codes.device)
            left = (sums <= bounds.limits[:, None]) & piece.active(numbers)
            for q, mine in enumerate(left[: bounds.nq]):
                found = numbers[mine].int()
                start = min(int(counts[q]), capacity)
                some = found[: capacity - start]
                rows[q, start : start + len(some)] = some
                counts[q] += len(found)
        return rows, counts

    def distances(self, piece: Piece, tables: Tensor, rows: Tensor) -> Tensor:
        """See `Passes.distances`."""
        import torch

        tile = (rows.long().clamp(min=0) // TILE_ROWS) * TILE_ROWS
        stride = (piece.padded - tile).clamp(max=TILE_ROWS)
        start = tile * piece.code_size + rows.clamp(min=0) - tile
        out = tables.new_full(rows.shape, float("inf"))
        step = max(1, _PAIRS // max(len(rows), 1))
        for first in range(0, rows.shape[1], step):
            some = slice(first, first + step)
            total = None
            for m in range(tables.shape[1]):
                if tables.shape[2] == 256:
                    code = piece.codes[start[:, some] + m * stride[:, some]].long()
                else:
                    byte = piece.codes[start[:, some] + m // 2 * stride[:, some]].long()
                    code = byte >> m % 2 * 4 & 15
                entry = tables[:, m].gather(1, code).double()
                total = entry if total is None else total + entry
            out[:, some] = rounded(total)
        return torch.where(rows >= 0, out, float("inf"))


def block_distances(tables: Tensor, codes: Tensor) -> Tensor:
    """Distances (nq, n) float32 of rows by the tables (nq, M, K) of queries.

    The entries are added in order in float64, and rounded once.

    Parameters
    ----------
    tables : Tensor, shape (nq, M, K), float32
    codes : Tensor, shape (code_size, n), uint8
        Bytes of the rows, see `Piece.columns`.
    """
    total = None
    for m in range(tables.shape[1]):
        code = codes[m] if tables.shape[2] == 256 else codes[m // 2] >> m % 2 * 4 & 15
        entry = tables[:, m].double().index_select(1, code.int())
        total = entry if total is None else total.add_(entry)
    return rounded(total)


def rounded(total: Tensor | None) -> Tensor:
    """Float64 sums as distances: the nearest finite float32."""
    assert total is not None  # a table has at least one subspace
    return total.clamp(-LARGEST, LARGEST).float()
