"""Quality of retrieval: mAP@k, precision@k, recall of exact neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_average_precision(relevant: NDArray[np.bool_], k: int | None = None) -> float:
    """mAP@k by the hashing convention: AP divides by the hits inside the top k.

    Parameters
    ----------
    relevant : ndarray, shape (nq, n), bool
        Whether the result at each rank is relevant, best first.
    k : int, optional
        Ranks that count; all unless given.

    Returns
    -------
    float
        A query without a hit counts 0.
    """
    hits = relevant[:, :k].astype(np.float64)
    precision = hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)
    found = hits.sum(1)
    return float(((precision * hits).sum(1) / np.maximum(found, 1)).mean())


def precision_at(relevant: NDArray[np.bool_], k: int) -> float:
    """Share of relevant results among the first k, mean over queries; (nq, n) bool."""
    return float(relevant[:, :k].mean())


def recall_at(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of the true neighbours among those found, mean over queries.

    Parameters
    ----------
    found : ndarray, shape (nq, a), int64
        Ids returned; -1 is no id.
    truth : ndarray, shape (nq, b), int64
        Ids of the exact neighbours.

    Returns
    -------
    float
    """
    shared = [len(np.intersect1d(f[f >= 0], t)) for f, t in zip(found, truth, strict=True)]
    return float(np.mean(shared) / truth.shape[1])
