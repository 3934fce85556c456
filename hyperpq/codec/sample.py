"""Which vectors stand for all where a codec is fitted. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", "Tensor", NDArray[np.float32], NDArray[np.int64])

SAMPLE_SIZE = 8192
"""Vectors that a codec keeps at most to fit codebooks of other lengths: 4 MB at 256 coordinates."""


def evenly(rows: Rows, most: int = SAMPLE_SIZE) -> Rows:
    """Take at most ``most`` of rows (n, ...), evenly."""
    return rows[:: -(-len(rows) // most) or 1]
