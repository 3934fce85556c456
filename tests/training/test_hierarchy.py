"""Prototypes of the hierarchy; `tests/quantizers/test_ward.py` tests how it is made."""

from __future__ import annotations

import torch

from hyperpq.training.features import tangent_vectors
from hyperpq.training.hierarchy import Hierarchy


def test_prototypes_are_the_mean_tangents_of_their_clusters(x, small, train):
    codec = train(x, small.replace(epochs=0))
    v = tangent_vectors(codec, x)
    hierarchy = Hierarchy.from_tangents(v, (12, 4), seed=0, device=codec.device)
    for labels, prototypes, level in zip(
        hierarchy.labels, hierarchy.prototypes, (12, 4), strict=True
    ):
        assert prototypes.shape == (level, 2, 4)
        for j in range(level):
            torch.testing.assert_close(prototypes[j], v[labels == j].mean(0), rtol=1e-4, atol=1e-5)
