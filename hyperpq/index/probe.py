"""`Probe`: which cells a search looks at, and the scan of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codec.coder import Coder
from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.index.cells import Cells
from hyperpq.index.recall import RecallCurve, as_recall, check_one
from hyperpq.index.view import RowView
from hyperpq.scan.scanner import Scanner
from hyperpq.utils.validation import as_count


@dataclass(frozen=True)
class CellScanner:
    """Scans some cells for a batch of queries, on the CPU wherever the index is.

    Its methods are those of `Scanner`; the segments have codes that are grouped by cell.

    Attributes
    ----------
    cells : ndarray, shape (nq, n), int64
        Those of each query, the nearest one first.
    """

    cells: NDArray[np.int64]

    def search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        k: int,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows in the cells, see `scan.search_cells`."""
        return scan.search_cells(tables, segments, self.cells, k, threads=threads)

    def range_search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        radius: float,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All rows in the cells below a radius, see `scan.range_search_cells`."""
        return scan.range_search_cells(tables, segments, self.cells, radius, threads=threads)


@dataclass(frozen=True)
class Probe:
    """The nearest cells of each query.

    Attributes
    ----------
    cells : Cells
        The cells of the index.
    coder : Coder
        Its codec.
    nprobe : int
        Number of cells of a query, below ``nlist``.
    """

    cells: Cells
    coder: Coder
    nprobe: int

    @classmethod
    def of(
        cls, rows: RowView, coder: Coder, nprobe: int | None, recall: float | None = None
    ) -> Probe | None:
        """What ``nprobe`` or ``recall`` of a search asks for; None where all rows are searched.

        Raises
        ------
        InvalidInputError
            If it is no number of cells or no recall, both are given, or the index has no cells.
        """
        check_one(nprobe, recall)
        if nprobe is None and recall is None:
            return None
        name, given = ("nprobe", nprobe) if recall is None else ("recall", recall)
        count = None if nprobe is None else as_count(nprobe, "nprobe")
        target, held = as_recall(recall), rows.held
        cells = None if held is None else held.cells
        if cells is None:
            raise InvalidInputError(
                f"{name} is {given}, but the index has no cells; expected one that does; call "
                f"make_cells() of the index, or leave {name} out."
            )
        if target is not None:
            count = RecallCurve.of(rows, coder, cells).nprobe_of(target)
        return None if count is None or count >= cells.nlist else cls(cells, coder, count)

    def scanner(self, x: NDArray[np.float32]) -> Scanner:
        """What scans the cells of some queries (nq, d)."""
        return CellScanner(self.cells.nearest(x, self.coder, self.nprobe))
