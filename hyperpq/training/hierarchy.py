"""The hierarchy of the training features, with its prototypes; `quantizers.ward` clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperpq.quantizers.ward import cluster_levels


@dataclass(frozen=True)
class Hierarchy:
    """Clusters of the training features at each level, with their prototypes.

    Attributes
    ----------
    labels : tuple of Tensor, each (n,), int64
        Cluster of each feature, one tensor a level.
    prototypes : tuple of Tensor, each (L, M, D)
        Mean tangent vectors of the L clusters of a level.
    """

    labels: tuple[Tensor, ...] = ()
    prototypes: tuple[Tensor, ...] = ()

    @classmethod
    def from_tangents(
        cls, v: Tensor, levels: Sequence[int], *, seed: int, device: torch.device
    ) -> Hierarchy:
        """Cluster tangent vectors.

        Parameters
        ----------
        v : Tensor, shape (n, M, D)
            Tangent vectors on the CPU.
        levels : sequence of int
            Clusters of each level.
        seed : int
            Of the micro-clusters.
        device : device
            Where the prototypes go, and where micro-clusters are made, see `kmeans`.
        """
        flat = v.flatten(1)
        clustered = cluster_levels(flat.numpy(), levels, seed=seed, device=str(device))
        labels = tuple(map(torch.from_numpy, clustered))
        prototypes = []
        for own, level in zip(labels, levels, strict=True):
            sums = torch.zeros(level, flat.shape[1]).index_add_(0, own, flat)
            means = sums / torch.bincount(own, minlength=level).clamp_min(1)[:, None]
            prototypes.append(means.view(level, *v.shape[1:]).to(device))
        return cls(labels, tuple(prototypes))
