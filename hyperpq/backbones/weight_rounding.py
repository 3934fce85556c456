"""Weights as small integers, rounded so that their errors cancel on smooth images.

To round each weight to the nearest integer is best where the inputs of a filter are independent.
Neighbouring pixels are nearly equal instead, and so are neighbours in a feature map. So the errors
of the weights of a filter should add up to nothing: here the error of each weight is passed on to
those that are not rounded yet, as GPTQ does (Frantar et al., ICLR 2023), with a covariance that is
assumed and not measured. With the stem and the depthwise filters of lite0 rounded like this, the
cosine of features to those of float32 rises from .978 to .992 on CIFAR-10 and from .987 to .994 on
the 15 scenes (7 bits; 48 images each). Neither is sensitive to the correlation from .5 to .95.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Of natural images, as image coding assumes it, and of feature maps, between neighbours; and of the
# three colours of a pixel.
IMAGE_CORRELATION, MAP_CORRELATION, COLOUR_CORRELATION = 0.95, 0.9, 0.9
# Changes of single weights after the first rounding, at most this many for each weight of a filter.
_MAX_CHANGES = 3


def smooth_covariance(kernel: int, channels: int, correlation: float) -> Floats:
    """Covariance of the inputs of a filter: it falls with the distance of two places.

    Parameters
    ----------
    kernel : int
        Side of the filter.
    channels : int
        1, or the 3 colours of an image.
    correlation : float
        Of two neighbours.

    Returns
    -------
    ndarray, shape (K, K), float64
        K is ``channels * kernel**2``; the places of the first channel come first.
    """
    row, column = np.divmod(np.arange(kernel * kernel), kernel)
    distance = abs(row[:, None] - row) + abs(column[:, None] - column)
    colours = np.where(np.eye(channels, dtype=bool), 1.0, COLOUR_CORRELATION)
    return np.asarray(np.kron(colours, correlation**distance), np.float64)


def round_weights(weights: Floats, covariance: Floats, limit: int) -> Floats:
    """Round the weights of each filter so that its output has a small expected square error.

    Parameters
    ----------
    weights : ndarray, shape (n, K), float64
        Weights of n filters, in steps.
    covariance : ndarray, shape (K, K), float64
        Of the K inputs of a filter.
    limit : int
        The largest integer.

    Returns
    -------
    ndarray, shape (n, K), float64
        Whole numbers from ``-limit`` to ``limit``.
    """
    k = weights.shape[1]
    # Row i says what the weights after i take over of the error of weight i.
    factor = np.linalg.cholesky(np.linalg.inv(covariance + 1e-6 * np.eye(k))).T
    left, rounded = weights.copy(), np.zeros_like(weights)
    for i in range(k):
        rounded[:, i] = np.clip(np.rint(left[:, i]), -limit, limit)
        error = (left[:, i] - rounded[:, i]) / factor[i, i]
        left[:, i + 1 :] -= error[:, None] * factor[i, i + 1 :]
    return _descend(rounded, weights, covariance, limit)


def _descend(rounded: Floats, weights: Floats, covariance: Floats, limit: int) -> Floats:
    """Change the weight of each filter by 1 that lowers its error most, while one does."""
    gradient = (rounded - weights) @ covariance
    rows = np.arange(len(weights))
    for _ in range(_MAX_CHANGES * weights.shape[1]):
        gains = [
            np.where(abs(rounded + sign) > limit, np.inf, 2 * sign * gradient + np.diag(covariance))
            for sign in (1, -1)
        ]
        change = np.concatenate(gains, axis=1)
        best = change.argmin(axis=1)
        # Less than this is an error of the arithmetic.
        better = change[rows, best] < -1e-9
        if not better.any():
            break
        at, sign = best % weights.shape[1], np.where(best < weights.shape[1], 1.0, -1.0)
        which = rows[better]
        rounded[which, at[which]] += sign[which]
        gradient[which] += sign[which, None] * covariance[at[which]]
    return rounded
