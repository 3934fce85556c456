"""`CellNumbers` and `Grouping`: the codes of a segment in the order of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError

MAX_CELLS = 1 << 20
"""Cells of an index."""


@dataclass(frozen=True, eq=False)
class CellNumbers:
    """Which cell each of some rows is in.

    Attributes
    ----------
    numbers : ndarray, shape (n,), int32
        From 0 to ``count - 1``.
    count : int
        Number of cells of the index.
    """

    numbers: NDArray[np.int32]
    count: int

    def check(self, n: int) -> None:
        """Raise `InvalidInputError` unless these are the cells of n rows."""
        numbers = self.numbers
        is_whole = 1 <= self.count <= MAX_CELLS
        if numbers.dtype != np.int32 or numbers.shape != (n,) or not is_whole:
            raise InvalidInputError(
                f"cells are {numbers.dtype} {numbers.shape} of {self.count}; expected int32 ({n},) "
                f"of 1 to {MAX_CELLS} cells."
            )
        if n and not 0 <= numbers.min() <= numbers.max() < self.count:
            raise InvalidInputError(
                f"cells reach from {numbers.min()} to {numbers.max()}; expected 0 to "
                f"{self.count - 1}."
            )

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.intp]) -> CellNumbers:
        """Those of some rows."""
        return CellNumbers(self.numbers[rows], self.count)

    @classmethod
    def concatenate(cls, several: Sequence[CellNumbers]) -> CellNumbers:
        """Those of the rows of several, of one index."""
        return cls(np.concatenate([cells.numbers for cells in several]), several[0].count)


@dataclass(frozen=True, eq=False)
class Grouping:
    """Where the codes of the rows of a segment lie: those of a cell follow each other.

    Attributes
    ----------
    places : ndarray, shape (n,), int32
        Of each row, the number of its code among the codes.
    starts : ndarray, shape (cells + 1,), int64
        The codes of cell c are those from ``starts[c]`` to ``starts[c + 1]``.
    """

    places: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, cells: CellNumbers) -> tuple[Grouping, NDArray[np.intp]]:
        """The grouping of rows by cell, and the row (n,) of each place; in a cell, as they are."""
        order = np.argsort(cells.numbers, kind="stable")
        places = np.empty(len(order), np.int32)
        places[order] = np.arange(len(order), dtype=np.int32)
        counts = np.bincount(cells.numbers, minlength=cells.count)
        return cls(places, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)), order

    @property
    def count(self) -> int:
        """Number of cells."""
        return len(self.starts) - 1

    def cells(self, places: NDArray[np.int64]) -> CellNumbers:
        """The cells of the rows whose codes are at some places."""
        numbers = np.searchsorted(self.starts, places, "right") - 1
        return CellNumbers(numbers.astype(np.int32), self.count)


def positions_of(
    ids: NDArray[np.int64], n: int, id_at: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Where each of ``ids`` is among n ascending ids, -1 where it is not, by bisection.

    Parameters
    ----------
    id_at : callable
        The ids at some positions; few are asked for.
    """
    low, high = np.zeros(len(ids), np.int64), np.full(len(ids), n, np.int64)
    while (low < high).any():
        middle = np.minimum((low + high) // 2, n - 1)
        is_open, is_less = low < high, id_at(middle) < ids
        low = np.where(is_open & is_less, middle + 1, low)
        high = np.where(is_open & ~is_less, middle, high)
    inside = low < n
    out = np.where(inside, low, 0)
    return np.where(inside & (id_at(out) == ids), out, -1) if n else np.full(len(ids), -1)


def placed(
    mask: NDArray[np.bool_], places: NDArray[np.int32] | NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    """A mask of rows (n,) in the order of their codes, which lie at some places."""
    if places is None:
        return mask
    out = np.zeros(len(mask), bool)
    out[places] = mask
    return out
