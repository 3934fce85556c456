"""`CellStats`: how the rows of an index lie in its cells, and when new cells pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyperpq.index.cells import as_nlist

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hyperpq.store import Segment

# Cells are outgrown where a row shares its cell with so many times the rows that it would share it
# with in even cells of the number that "auto" chooses. From there on a search with a recall of .95
# looks at two to five times the rows that it looks at with new cells. 32,000 vectors of 32 numbers
# around centres (64 bits, l2, 32 cells), and rows that a search looks at with the cells as they
# were, with each large one split, and with new ones:
#
#     added                       crowding  as they were    split      new
#     as many of the same kind         2.1        14,800   11,000    8,400
#     3 times of the same kind         4.2        25,000   11,100    8,800
#     10 times of the same kind        8.5        57,900    8,200   10,300
#     as many of another kind          4.4        20,700   14,900    9,900
#     twice as many of another kind     12        40,000   23,900    9,900
#     10 times of another kind          39       195,800   27,700   21,400
#
# Splits of large cells do as well where the kind is the same, and cost up to 2.4 times as much
# where it is not, as the cells beside stay where they were. They too compare all rows with the new
# centroids and write all rows again. So all cells are made anew.
_OUTGROWN = 4.0


@dataclass(frozen=True)
class CellStats:
    """Sizes of the cells of an index.

    Attributes
    ----------
    sizes : ndarray, shape (nlist,), int64
        Rows of each cell, deleted ones included.
    """

    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, segments: Sequence[Segment], nlist: int) -> CellStats:
        """The sizes of the cells of some segments, which are grouped by ``nlist`` of them."""
        sizes = np.zeros(nlist, np.int64)
        for segment in segments:
            grouping = segment.grouping
            assert grouping is not None  # the index has cells
            sizes += np.diff(grouping.starts)
        return cls(sizes)

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.sizes.sum())

    @property
    def imbalance(self) -> float:
        """How many times the mean size the cell of a row has, in the mean of the rows.

        1 where all cells have the same size, and ``nlist`` where one has all rows.
        """
        if not self.n:
            return 1.0
        wide = self.sizes.astype(np.float64)
        return float((wide**2).sum() * len(wide) / self.n**2)

    @property
    def crowding(self) -> float:
        """Rows that a row shares its cell with, over those of even cells as "auto" makes them."""
        return self.imbalance * as_nlist("auto", self.n) / len(self.sizes)

    @property
    def is_outgrown(self) -> bool:
        """Whether new cells would spare a search half of its rows and more."""
        return self.crowding >= _OUTGROWN
