"""Views that are made in feature space, for training on vectors without augmented images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def feature_views(
    x: NDArray[np.float32], n_views: int, *, seed: int, strength: float = 0.3, dropout: float = 0.1
) -> NDArray[np.float32]:
    """Perturbed copies of features.

    Each view is ``x + strength (a - b) / sqrt 2`` with a and b two random rows of ``x``, with a
    share of its entries set to the mean. The difference of two random rows has the covariance of
    the data: the noise is large where the data vary and 0 where they don't, whatever their scale.
    Dropped entries keep single dimensions from deciding.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features.
    n_views : int
        V.
    seed : int
        Of the noise: the same seed gives the same views.
    strength : float
        Standard deviation of the noise, relative to that of the data.
    dropout : float
        Share of entries that are replaced by the mean, 0 to 1.

    Returns
    -------
    ndarray, shape (V, n, d), float32
    """
    rng = np.random.default_rng(seed)
    n, mean = len(x), x.mean(axis=0)
    out = np.empty((n_views, *x.shape), np.float32)
    for v in range(n_views):
        a, b = rng.integers(0, n, (2, n))
        out[v] = x + np.float32(strength / np.sqrt(2)) * (x[a] - x[b])
        np.copyto(out[v], mean, where=rng.random(x.shape, dtype=np.float32) < dropout)
    return out
