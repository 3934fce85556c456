"""Paths as a shard holds them, one after another in a blob, and which of them match a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths of n rows, matched without making a Python object of each.

    Attributes
    ----------
    offsets : ndarray, shape (n + 1,), int64
        Path i is ``blob`` from ``offsets[i]`` to ``offsets[i + 1]``; they never fall.
    blob : ndarray, shape (bytes,), uint8
        The paths, one after another.
    """

    offsets: NDArray[np.int64]
    blob: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> Paths:
        """Neighbouring rows, with the same blob."""
        start, stop, _ = rows.indices(len(self))
        return Paths(self.offsets[start : stop + 1], self.blob)

    def equals(self, text: bytes) -> NDArray[np.bool_]:
        """Which paths are ``text``, shape (n,)."""
        rows = np.flatnonzero(self._lengths == len(text))
        return self._matching(text, rows, self.offsets[:-1])

    def startswith(self, text: bytes) -> NDArray[np.bool_]:
        """Which paths begin with ``text``, shape (n,)."""
        rows = np.flatnonzero(self._lengths >= len(text))
        return self._matching(text, rows, self.offsets[:-1])

    def endswith(self, text: bytes) -> NDArray[np.bool_]:
        """Which paths end with ``text``, shape (n,)."""
        rows = np.flatnonzero(self._lengths >= len(text))
        return self._matching(text, rows, self.offsets[1:] - len(text))

    def contains(self, text: bytes) -> NDArray[np.bool_]:
        """Which paths contain ``text``, shape (n,)."""
        if not text:
            return np.ones(len(self), np.bool_)
        offsets = self.offsets - self.offsets[0]
        blob = self.blob[self.offsets[0] : self.offsets[-1]]
        ends = np.flatnonzero(blob[len(text) - 1 :] == text[-1])
        starts = ends[_matches(blob, ends, text[:-1])]
        rows = np.searchsorted(offsets, starts, side="right") - 1
        # A match may begin in one path and end in the next.
        return self._mask(rows[starts + len(text) <= offsets[rows + 1]])

    @property
    def _lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)

    def _matching(
        self, text: bytes, rows: NDArray[np.intp], starts: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        return self._mask(rows[_matches(self.blob, starts[rows], text)])

    def _mask(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        out = np.zeros(len(self), np.bool_)
        out[rows] = True
        return out


def _matches(blob: NDArray[np.uint8], starts: NDArray[np.int64], text: bytes) -> NDArray[np.intp]:
    """Numbers of the ``starts`` at which ``blob`` has ``text``."""
    left = np.arange(len(starts))
    # From the end, as paths have their beginnings in common.
    for i in reversed(range(len(text))):
        left = left[blob[starts[left] + i] == text[i]]
    return left
