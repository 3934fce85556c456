"""`Strings`: a column of byte strings as one blob and the offset where each string begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Rows that are gathered at once: the positions of their bytes take eight times their length.
_BATCH = 1 << 16


class Strings:
    """Byte strings in no particular encoding, such as paths.

    Parameters
    ----------
    offsets : ndarray, shape (n + 1,), int64
        String i is the bytes from ``offsets[i]`` to ``offsets[i + 1]``.
    blob : ndarray, shape (bytes,), uint8
        All of them, one after another.
    """

    def __init__(self, offsets: NDArray[np.int64], blob: NDArray[np.uint8]) -> None:
        self.offsets, self.blob = offsets, blob

    @classmethod
    def from_list(cls, strings: Iterable[bytes]) -> Strings:
        """Strings of Python as a column."""
        strings = list(strings)
        offsets = np.zeros(len(strings) + 1, np.int64)
        np.cumsum([len(s) for s in strings], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(strings), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        """One string; the others are not read."""
        return self.blob[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def tolist(self) -> list[bytes]:
        """All strings."""
        data = self.blob.tobytes()
        return [data[start:end] for start, end in pairwise(self.offsets.tolist())]

    def take(self, rows: NDArray[np.int64]) -> Strings:
        """The strings of some rows, in their order."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        blob = np.empty(offsets[-1], np.uint8)
        for start in range(0, len(rows), _BATCH):
            batch = slice(start, start + _BATCH)
            first, last = offsets[start], offsets[min(start + _BATCH, len(rows))]
            shift = self.offsets[rows[batch]] - offsets[:-1][batch]
            blob[first:last] = self.blob[np.repeat(shift, lengths[batch]) + np.arange(first, last)]
        return Strings(offsets, blob)

    @classmethod
    def concatenate(cls, columns: Sequence[Strings]) -> Strings:
        """Columns one after another."""
        ends = np.cumsum([0, *(c.offsets[-1] for c in columns)])
        offsets = [c.offsets[1:] + end for c, end in zip(columns, ends[:-1], strict=True)]
        first = np.zeros(1, np.int64)
        return cls(np.concatenate([first, *offsets]), np.concatenate([c.blob for c in columns]))

    @property
    def problem(self) -> str | None:
        """Why the offsets cannot be those of the blob, or None."""
        offsets, size = self.offsets, len(self.blob)
        if offsets[0] != 0 or offsets[-1] != size or np.any(offsets[1:] < offsets[:-1]):
            return f"the offsets do not rise from 0 to the {size} bytes"
        return None
