"""`CodeDistances`: how far the codes of an index are from their nearest ones and from any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import unpack
from hyperpq.scan import search_segments

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

_SAMPLE = 512
# Queries whose tables are in memory at once.
_BATCH = 32


@dataclass(frozen=True, eq=False)
class CodeDistances:
    """Distances between decoded codes of a sample of s rows, by the metric of the index.

    Attributes
    ----------
    metric : str
        Name of the distance.
    nearest : ndarray, shape (s,), float64
        Distance of each to the nearest other row of the whole index.
    random : ndarray, shape (s,), float64
        Distance of each to another row that was drawn.
    shared : float
        Share of the sample whose nearest other row has the same code.
    """

    metric: str
    nearest: NDArray[np.float64]
    random: NDArray[np.float64]
    shared: float

    @classmethod
    def of(cls, view: IndexView, *, seed: int = 0) -> CodeDistances | None:
        """Measure a sample of 512 rows, or all of fewer; None if there is only one.

        Raises
        ------
        NotTrainedError
            If the index has no codec.
        """
        coder, n = view.coder, view.ntotal
        if n < 2:
            return None
        segments = view.rows.code_segments()
        rng = np.random.default_rng(seed)
        places = np.sort(rng.choice(n, min(n, _SAMPLE), replace=False))
        ids = view.rows.ids_at(places)
        # Positions other than the own ones; `ids_at` returns ids in the order of positions.
        other = (places + rng.integers(1, n, len(places))) % n
        order = np.argsort(other, kind="stable")
        drawn = np.empty((len(ids), coder.M), np.int64)
        codes = view.codes_of(view.rows.ids_at(other[order]))
        drawn[order] = unpack(codes, coder.M, coder.nbits)
        own = view.codes_of(ids)
        nearest, random, shared = np.empty(len(ids)), np.empty(len(ids)), 0
        for start in range(0, len(ids), _BATCH):
            some = slice(start, start + _BATCH)
            tables = coder.code_tables(own[some])
            D, found = search_segments(tables, segments, 2)
            # The row itself is among the two, unless two others have its code.
            column = np.where(found[:, 0] == ids[some], 1, 0)
            rows = np.arange(len(column))
            nearest[some] = D[rows, column]
            same = view.codes_of(found[rows, column]) == own[some]
            shared += int(same.all(1).sum())
            entries = np.take_along_axis(tables, drawn[some][..., None], 2)[..., 0]
            random[some] = entries.sum(1, dtype=np.float64)
        return cls(coder.metric, nearest, random, shared / len(ids))
