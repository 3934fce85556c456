"""The folder of `benchmarks`, which isn't installed, and a set of features that several use."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hyperpq.datasets.protocols import Protocol, Split

sys.path.insert(0, str(Path(__file__).parents[2]))

D = 64


@pytest.fixture
def cache(tmp_path):
    """A kept set of 300 + 20 random features in four groups, 270 of them for training."""
    from benchmarks import featuresets

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 320)
    x = (rng.standard_normal((4, D))[labels] + rng.standard_normal((320, D))).astype(np.float32)
    folder = tmp_path / "cache/groups-lite0"
    paths = [b"%d" % i for i in range(300)]
    database, query = Split(paths, labels[:300]), Split([b"q"] * 20, labels[300:])
    train = database.take(np.arange(30, 300))
    featuresets.save_protocol(
        folder, Protocol("Groups", ["a", "b", "c", "d"], train, query, database, top=50)
    )
    np.save(folder / "database.npy", x[:300])
    np.save(folder / "query.npy", x[300:])
    views = x[30:300] + 0.3 * rng.standard_normal((2, 270, D)).astype(np.float32)
    for strength in ("mild", "paper"):
        np.save(folder / f"views-{strength}.npy", views)
    return tmp_path / "cache"
