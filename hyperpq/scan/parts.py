"""`Part`: rows of an index on their way into a scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import TiledCodes


class Part(NamedTuple):
    """Some rows of an index.

    Attributes
    ----------
    codes : TiledCodes
        Their codes, see `prepare`.
    ids : ndarray, shape (n,), int64, or None
        Their ids; 0 to n - 1 if None.
    bits : ndarray, shape (ceil(n / 64),), uint64, or None
        Rows that take part, see `codes.row_bits`; all if None.
    """

    codes: TiledCodes
    ids: NDArray[np.int64] | None = None
    bits: NDArray[np.uint64] | None = None
