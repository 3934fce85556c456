"""`Part`: consecutive rows of a segment that one device scans."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import BLOCK_ROWS, TILE_ROWS, CodeSegment, tiled_size
from hyperpq.scan.cuda.piece import MAX_ROWS

_TILE_BITS = TILE_ROWS // 8


@dataclass(frozen=True)
class Part:
    """Rows of a segment, from the first row of a tile on.

    Attributes
    ----------
    segment : CodeSegment
        The segment.
    first, n : int
        First row and number of rows.
    """

    segment: CodeSegment
    first: int
    n: int

    @property
    def code_size(self) -> int:
        """Bytes of a row."""
        return self.segment.codes.code_size

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The bytes of its tiles; whole tiles lie one after another, so that nothing is copied."""
        start = self.first * self.code_size
        return self.segment.codes.data[start : start + tiled_size(self.n, self.code_size)]

    @property
    def words(self) -> NDArray[np.uint64] | None:
        """Which rows are searched, as in the segment; None: all."""
        bits = self.segment.bits
        last = -(-(self.first + self.n) // BLOCK_ROWS)
        return None if bits is None else bits[self.first // BLOCK_ROWS : last]

    @property
    def bits(self) -> NDArray[np.uint8] | None:
        """Which rows are searched, (8 * ceil(n / 64),), bit r % 8 of byte r // 8; None: all."""
        words = self.words
        if words is None:
            return None
        # Bits are numbers of the machine; the bytes of a number begin with the lowest bits.
        return (words if sys.byteorder == "little" else words.byteswap()).view(np.uint8)

    def ids(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of some of its rows."""
        numbers = rows + self.first
        ids = self.segment.ids
        return numbers if ids is None else np.asarray(ids[numbers])

    def cut(self, rows: int) -> list[Part]:
        """Parts of at most so many rows, or of one tile if that is more."""
        step = max(rows // TILE_ROWS, 1) * TILE_ROWS
        end = self.first + self.n
        return [
            Part(self.segment, start, min(step, end - start))
            for start in range(self.first, end, step)
        ]


def divide(segments: Sequence[CodeSegment], devices: int) -> list[list[Part]]:
    """The parts of each device: an equal share of each segment, always the same one.

    So the codes of a segment stay on their devices. A segment of one tile is a part of the first
    device.
    """
    out: list[list[Part]] = [[] for _ in range(devices)]
    for segment in segments:
        tiles = -(-len(segment.codes) // TILE_ROWS)
        for device in range(devices):
            first = -(-tiles * device // devices) * TILE_ROWS
            last = min(-(-tiles * (device + 1) // devices) * TILE_ROWS, len(segment.codes))
            if first < last:
                out[device] += Part(segment, first, last - first).cut(MAX_ROWS)
    return out
