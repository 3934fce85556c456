"""`Piece`: codes of consecutive rows on a device, in the tiles that they are stored in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperpq.codes import BLOCK_ROWS, TILE_ROWS

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 1 << 30
"""Rows of a piece at most, so that row numbers are 32-bit integers on the device."""


@dataclass(frozen=True)
class Piece:
    """Rows on a device.

    Attributes
    ----------
    codes : Tensor, shape (tiled_size(n, code_size),), uint8
        The codes as `TiledCodes` arranges them.
    n : int
        Rows, at most `MAX_ROWS`.
    code_size : int
        Bytes of a row.
    bits : Tensor, shape (8 * ceil(n / 64),), uint8, or None
        Which rows are searched, bit r % 8 of byte r // 8; all of them if None.
    n_active : int
        How many rows are searched.
    """

    codes: Tensor
    n: int
    code_size: int
    bits: Tensor | None
    n_active: int

    @property
    def padded(self) -> int:
        """Rows with those that fill up the last block."""
        return -(-self.n // BLOCK_ROWS) * BLOCK_ROWS

    def columns(self, rows: int) -> Iterator[tuple[int, Tensor]]:
        """The codes column by column, in blocks of whole tiles.

        Parameters
        ----------
        rows : int
            Rows of a block at most, or `TILE_ROWS` if it is less.

        Yields
        ------
        first, codes : int, Tensor (code_size, block), uint8
            First row of the block and its codes, without those that fill up a block.
        """
        S, whole, step = self.code_size, self.n // TILE_ROWS, max(1, rows // TILE_ROWS)
        for first in range(0, whole, step):
            last = min(first + step, whole)
            tiles = self.codes[first * TILE_ROWS * S : last * TILE_ROWS * S]
            yield (
                first * TILE_ROWS,
                tiles.view(last - first, S, TILE_ROWS).permute(1, 0, 2).reshape(S, -1),
            )
        start = whole * TILE_ROWS
        if start < self.n:
            yield start, self.codes[start * S :].view(S, -1)[:, : self.n - start]

    def active(self, rows: Tensor) -> Tensor:
        """Which of some rows, int64 numbers of any shape, are searched."""
        import torch

        if self.bits is None:
            return torch.ones_like(rows, dtype=torch.bool)
        return (self.bits[rows >> 3] >> (rows & 7).to(torch.uint8)) & 1 != 0

    def active_rows(self) -> Tensor:
        """Numbers (n_active,) int64 of the rows that are searched, ascending; there are bits."""
        import torch

        assert self.bits is not None
        eight = torch.arange(8, device=self.bits.device)
        rows = (self.bits.nonzero() * 8 + eight).flatten()
        rows = rows[rows < self.n]
        return rows[self.active(rows)]
