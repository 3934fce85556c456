"""Code bytes: M codes of nbits bits in a row of bytes, rows in the tiles that the scan reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_count

MAX_CODES = 1024
"""Codes of one vector that the scan can read."""
BLOCK_ROWS = 64
"""Rows that are scanned together; a tile has whole blocks, the last one filled up with zeros."""
TILE_ROWS = 4096
"""Rows of a tile; the last tile of an array may have fewer."""
_LINE = 64  # bytes of a cache line


def check_sizes(M: int, D: int, nbits: int, least: int = 1) -> None:
    """Raise `InvalidInputError` unless a quantizer can have these sizes.

    Parameters
    ----------
    M : int
        Codes of a vector, 1 to `MAX_CODES`.
    D : int
        Coordinates that a codeword has, ``least`` or more.
    nbits : int
        Bits of a code, 4 or 8.
    """
    if as_count(nbits, "nbits") not in (4, 8):
        raise InvalidInputError(f"nbits is {nbits}; expected 8 (one byte a code) or 4 (half).")
    as_count(M, "M", high=MAX_CODES)
    as_count(D, "D", least)


def code_size(M: int, nbits: int) -> int:
    """Bytes of one row of codes."""
    return (M * nbits + 7) // 8


def pack(codes: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """Pack codes into rows of bytes, in the layout of FAISS's PQ.

    With nbits 4, code 2j is the low half of byte j and code 2j + 1 the high half; the high half of
    the last byte is 0 if M is odd.

    Parameters
    ----------
    codes : ndarray, shape (n, M), uint8
        One code in each byte.
    nbits : int
        Bits of a code, 4 or 8.

    Returns
    -------
    ndarray, shape (n, code_size), uint8
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    if nbits == 8:
        return codes
    out = codes[:, 0::2].copy()
    out[:, : codes.shape[1] // 2] |= codes[:, 1::2] << 4
    return out


def unpack(packed: NDArray[np.uint8], M: int, nbits: int) -> NDArray[np.uint8]:
    """Inverse of `pack`: rows of bytes (n, code_size) to codes (n, M), one in each byte."""
    if nbits == 8:
        return packed
    out = np.empty((packed.shape[0], M), dtype=np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = (packed >> 4)[:, : M // 2]
    return out


def tiled_size(n: int, code_size: int) -> int:
    """Bytes of n rows in tiles."""
    return -(-n // BLOCK_ROWS) * BLOCK_ROWS * code_size


def _aligned_zeros(size: int) -> NDArray[np.uint8]:
    """Bytes that begin at a cache line, as those of shards do.

    NumPy's own begin 16 bytes after one, so that each register of 64 bytes is loaded from two; one
    query over a million codes of 8 bytes took 1.12 to 1.24 times as long.
    """
    raw = np.zeros(size + _LINE - 1, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size]


class TiledCodes:
    """Rows of codes as the scan reads them and shards hold them.

    Tiles of 4,096 rows lie one after another, each column by column; the last tile ends with the
    block of 64 rows that holds the last row. A scan thus reads whole registers, and does not touch
    the pages of columns that it does not need.

    Parameters
    ----------
    data : ndarray, shape (tiled_size(n, code_size),), uint8, C-contiguous
        The bytes, memory-mapped or not.
    n : int
        Rows.
    code_size : int
        Bytes of a row.
    """

    def __init__(self, data: NDArray[np.uint8], n: int, code_size: int) -> None:
        self.data, self.n, self.code_size = data, n, code_size

    @classmethod
    def from_rows(cls, rows: NDArray[np.uint8]) -> TiledCodes:
        """Rows of bytes (n, code_size) in tiles."""
        n, size = rows.shape
        out = cls(_aligned_zeros(tiled_size(n, size)), n, size)
        for start, tile in out._tiles(0, n):
            some = rows[start : start + TILE_ROWS]
            tile[:, : len(some)] = some.T
        return out

    def __len__(self) -> int:
        return self.n

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Rows of bytes from ``start`` to ``stop``, a copy of shape (stop - start, code_size)."""
        stop = self.n if stop is None else min(stop, self.n)
        out = np.empty((max(stop - start, 0), self.code_size), np.uint8)
        for first, tile in self._tiles(start, stop):
            low, high = max(start, first), min(stop, first + TILE_ROWS)
            out[low - start : high - start] = tile[:, low - first : high - first].T
        return out

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Rows of bytes by their numbers, shape (len(numbers), code_size)."""
        if len(numbers) and np.all(numbers[1:] == numbers[:-1] + 1):
            return self.rows(int(numbers[0]), int(numbers[-1]) + 1)
        out = np.empty((len(numbers), self.code_size), np.uint8)
        # In batches, as the positions of the bytes take eight times the memory of the rows.
        for start in range(0, len(numbers), TILE_ROWS):
            some = numbers[start : start + TILE_ROWS]
            first = some // TILE_ROWS * TILE_ROWS
            width = np.minimum(TILE_ROWS, -(-self.n // BLOCK_ROWS) * BLOCK_ROWS - first)
            starts = first * self.code_size + some - first
            positions = starts[:, None] + width[:, None] * np.arange(self.code_size)
            out[start : start + TILE_ROWS] = self.data[positions]
        return out

    def _tiles(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and bytes (code_size, rows) of the tiles with rows from start to stop."""
        padded = -(-self.n // BLOCK_ROWS) * BLOCK_ROWS
        for first in range(start // TILE_ROWS * TILE_ROWS, stop, TILE_ROWS):
            width = min(TILE_ROWS, padded - first)
            offset = first * self.code_size
            yield first, self.data[offset : offset + width * self.code_size].reshape(-1, width)


def row_bits(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Which rows take part in a scan, as bits.

    Parameters
    ----------
    mask : ndarray, shape (n,), bool
        True where the row takes part.

    Returns
    -------
    ndarray, shape (ceil(n / 64),), uint64
        Row r is bit ``r % 64`` of word ``r // 64``.
    """
    packed = np.packbits(mask, bitorder="little")
    words = np.zeros(-(-len(mask) // BLOCK_ROWS), "<u8")
    words.view(np.uint8)[: len(packed)] = packed
    return words


class CodeSegment(NamedTuple):
    """A segment of the rows of an index, as the scan reads it.

    Attributes
    ----------
    codes : TiledCodes
        The codes of its rows.
    ids : ndarray, shape (n,), int64, or None
        The ids of its rows; 0 to n - 1 if None.
    bits : ndarray, shape (ceil(n / 64),), uint64, or None
        Which rows are searched, see `row_bits`; all of them if None.
    starts : ndarray, shape (nlist + 1,), int64, or None
        Of rows that are grouped by cell: those of cell c are rows ``starts[c]`` to
        ``starts[c + 1]``.
    """

    codes: TiledCodes
    ids: NDArray[np.int64] | None = None
    bits: NDArray[np.uint64] | None = None
    starts: NDArray[np.int64] | None = None
