"""Rotations: matrices with orthonormal rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError

# Largest difference from 1 and 0 of the products of rows of a rotation.
_ORTHONORMAL = 1e-3


def check_orthonormal(rotation: NDArray[np.float32]) -> None:
    """Raise `InvalidInputError` unless the rows of a rotation (width, d) are orthonormal."""
    products = rotation.astype(np.float64) @ rotation.T.astype(np.float64)
    error = np.abs(products - np.eye(len(rotation))).max()
    if not error <= _ORTHONORMAL:
        raise InvalidInputError(
            f"rotation has rows whose products differ by up to {error:.2g} from those of "
            "orthonormal ones; expected orthonormal rows."
        )
