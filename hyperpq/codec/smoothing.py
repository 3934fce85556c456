"""Smoothing: vectors are moved towards the training vectors near them.

A head that learned from few images places new ones less surely than those it learned from, and the
mean of the nearest training vectors is surer. Retrieval knows this as database-side augmentation
and query expansion (Turcot and Lowe 2009; Arandjelovic and Zisserman 2012). Here the neighbours are
centroids of the training vectors. They travel with the codec, so one vector is coded without any
other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from hyperpq.inference.smoothing import MIN_CENTROIDS
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.utils.exact_matmul import RoundedFactor
from hyperpq.utils.kept import Kept

MAX_CENTROIDS = 2048
"""Centroids of a sample at most."""
# Vectors of the sample for each centroid at least.
_MIN_VECTORS = 2


def fit_centroids(v: Tensor, *, seed: int) -> Tensor:
    """k-means centroids of vectors.

    Parameters
    ----------
    v : Tensor, shape (n, F)
        Vectors on the CPU.
    seed : int
        Same seed, same centroids.

    Returns
    -------
    Tensor, shape (m, F)
        One centroid for two vectors, `MAX_CENTROIDS` at most; m is 0 below 160 vectors.
    """
    m = min(MAX_CENTROIDS, len(v) // _MIN_VECTORS)
    if m < MIN_CENTROIDS:
        return v[:0]
    centroids, _ = kmeans(np.ascontiguousarray(v.numpy(), np.float32), m, seed=seed)
    return torch.from_numpy(centroids)


class Smoothing(nn.Module):
    """Mixes vectors with the mean of their nearest centroids.

    Parameters
    ----------
    centroids : Tensor, shape (m, F)
        Centroids; without any, vectors stay as they are.
    weight : float
        Share of the mean in the result, 0 to 1.
    neighbours : int
        Centroids in a mean, nearest by cosine; at most one in 80 of all is taken.

    Attributes
    ----------
    neighbours : int
        Centroids that are taken.
    """

    def __init__(self, centroids: Tensor, weight: float, neighbours: int) -> None:
        super().__init__()
        self.weight, self.neighbours = weight, min(neighbours, len(centroids) // MIN_CENTROIDS)
        self.centroids = nn.Buffer(centroids, persistent=False)
        self._directions: Kept[RoundedFactor] = Kept()
        # By float64, as on a CPU: the two then agree to the last bit.
        directions = normalize(centroids.double(), dim=1).T.to(centroids.dtype).contiguous()
        self.directions = nn.Buffer(directions, persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """Smooth vectors (n, F) to vectors (n, F); each row has the same bits in any batch."""
        if not (self.neighbours and self.weight):
            return v
        directions = self._directions.get(
            (self.directions,), lambda: RoundedFactor(self.directions.double())
        )
        similarity = directions.left_product(v.double())
        nearest = similarity.topk(self.neighbours, dim=1, sorted=False).indices.sort(1).values
        mean = embedding_bag(nearest, self.centroids.to(v.dtype), mode="mean")
        return (1 - self.weight) * v + self.weight * mean
