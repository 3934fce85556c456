"""Indexes to explore."""

from __future__ import annotations

import numpy as np
import pytest
from explore_tools import points

from hyperpq import HiHPQIndex, Recipe

QUICK = Recipe().replace(epochs=0)


@pytest.fixture(scope="session")
def kinds():
    """A filled index of each kind of codec, with the group of each vector as an attribute."""
    x, group = points(600)
    made = {
        "product": HiHPQIndex(24, 4, device="cpu"),
        "nibbles": HiHPQIndex(24, 4, 4, metric="chord", device="cpu"),
        "sphere": HiHPQIndex(24, 4, device="cpu"),
        "flat": HiHPQIndex(24, 4, device="cpu"),
        "fidelity": HiHPQIndex(24, 4, device="cpu"),
        "balanced": HiHPQIndex(24, 8, device="cpu"),
        "pq": HiHPQIndex(24, 4, metric="l2", device="cpu"),
    }
    spaces = {"sphere": {"geometry": "sphere"}, "flat": {"geometry": "euclidean"}}
    for name, index in made.items():
        if name in ("fidelity", "balanced"):
            index.train(x, objective=name, epochs=0)
        elif name == "pq":
            index.train(x)
        else:
            index.train(x, recipe=QUICK.replace(**spaces.get(name, {})))
        index.add(x, np.arange(600) * 3 + 5, attributes={"kind": [f"k{g}" for g in group]})
    return made
