"""Vectors moved towards what the training set has near them.

A head learned from few images places new ones less surely than those it learned from. The mean of
the nearest training vectors is surer: retrieval knows it as database-side augmentation and query
expansion (Turcot and Lowe 2009; Arandjelovic and Zisserman 2012). Here the neighbours are
centroids of the training vectors, which travel with the codec, so one vector is coded without any
other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from hyperpq.quantizers.kmeans import kmeans
from hyperpq.utils.exact_matmul import exact_matmul

# Centroids of a sample: at most this many, of two vectors each at least.
MAX_CENTROIDS, _OWN = 2048, 2
# A mean may reach over no larger share of the centroids.
_SHARE = 80
# Bits of the longest code whose codewords average enough beside a recipe's weight.
_SHORT = 64


def fit_centroids(v: Tensor, *, seed: int) -> Tensor:
    """k-means centroids (m, F) of vectors (n, F) on the CPU; none of fewer than 160 vectors."""
    m = min(MAX_CENTROIDS, len(v) // _OWN)
    if m < _SHARE:
        return v[:0]
    found, _ = kmeans(np.ascontiguousarray(v.numpy(), np.float32), m, seed=seed)
    return torch.from_numpy(found)


def weight_of(weight: float, bits: int) -> float:
    """Weight of the mean for codes of so many bits, from that for codes of up to 64.

    A codeword is a mean, too, of the fewer vectors the longer the code is. So codes of 128 bits
    are averaged twice by ``weight``, and so on (docs/method.md, section 9).
    """
    return weight if bits <= _SHORT else 1 - (1 - weight) ** (bits / _SHORT)


class Averaging(nn.Module):
    """Mixes vectors with the mean of their nearest centroids.

    Parameters
    ----------
    centroids : Tensor, shape (m, F)
        Without any, vectors stay as they are.
    weight : float
        Share of the mean in the result, 0 to 1.
    neighbours : int
        Centroids in a mean, by cosine; at most one in 80 of all.
    """

    def __init__(self, centroids: Tensor, weight: float, neighbours: int) -> None:
        super().__init__()
        self.weight, self.k = weight, min(neighbours, len(centroids) // _SHARE)
        self.centroids = nn.Buffer(centroids, persistent=False)
        self.directions = nn.Buffer(normalize(centroids, dim=1).T.contiguous(), persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """Vectors (n, F) -> vectors (n, F)."""
        if not (self.k and self.weight):
            return v
        similarity = exact_matmul(v.double(), self.directions.double())
        nearest = similarity.topk(self.k, dim=1, sorted=False).indices.sort(1).values
        mean = embedding_bag(nearest, self.centroids.to(v.dtype), mode="mean")
        return (1 - self.weight) * v + self.weight * mean
