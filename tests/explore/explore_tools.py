"""Vectors in groups."""

from __future__ import annotations

import numpy as np


def points(n, d=24, groups=12, seed=0):
    """Vectors in groups, with the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, n)
    x = rng.normal(size=(groups, d))[group] + 0.3 * rng.normal(size=(n, d))
    return x.astype(np.float32), group
