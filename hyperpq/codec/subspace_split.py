"""The subspaces that coordinates of a representation are cut into."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split_coordinates(F: int, M: int, order: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Cut F coordinates into M subspaces of consecutive ones, as equal as possible.

    Parameters
    ----------
    F : int
        Coordinates.
    M : int
        Subspaces.
    order : ndarray, shape (F,), int64, optional
        What `spread_coordinates` returned: the coordinates are cut in this order.

    Returns
    -------
    ndarray, shape (M, D), int64
        Coordinates of each subspace; -1 fills up those that are one shorter. With M > F the last
        ones are empty.
    """
    subspaces = np.array_split(np.arange(F) if order is None else order, M)
    out = np.full((M, max(1, len(subspaces[0]))), -1, np.int64)
    for row, own in zip(out, subspaces, strict=True):
        row[: len(own)] = own
    return out
