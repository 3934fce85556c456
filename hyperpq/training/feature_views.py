"""Views that are made in feature space: in place of augmented images, or beside few of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Rows that are made at a time.
_BATCH_ROWS = 1024


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


def transferred_views(
    x: NDArray[np.float32],
    views: NDArray[np.floating],
    count: int,
    *,
    donors: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float32]:
    """Features moved as views have moved from other images.

    What a crop or another colour does to a feature is much the same for many images. So the
    difference between a view and its image makes a view of another image. Differences are taken
    between signed square roots, as the normalization ``power`` takes them.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features of images.
    views : ndarray, shape (V, n, d)
        Features of their views.
    count : int
        Views of each image to make.
    donors : ndarray, shape (m,), int64
        Rows of the images whose views are taken.
    seed : int
        The same seed gives the same views.

    Returns
    -------
    ndarray, shape (count, n, d), float32
        View number t of an image is made of view t modulo V of a donor.
    """
    rng = np.random.default_rng(seed)
    out = np.empty((count, *x.shape), np.float32)
    for t in range(count):
        chosen = donors[rng.integers(0, len(donors), len(x))]
        for start in range(0, len(x), _BATCH_ROWS):
            rows = slice(start, start + _BATCH_ROWS)
            donor = chosen[rows]
            view = np.asarray(views[t % len(views), donor], np.float32)
            moved = _signed_root(x[rows]) + _signed_root(view) - _signed_root(x[donor])
            out[t, rows] = np.sign(moved) * np.square(moved)
    return out


def _signed_root(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sign(x) * np.sqrt(np.abs(x))
