"""Cached sets of features that several tests use."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import class_tree, featuresets
from hyperpq.datasets.protocols import Protocol, Split

D = 64
NAMES = [f"{k}/{k}{f}/{k}{f}{s}" for k in "ab" for f in "12" for s in "xyz"]


@pytest.fixture
def cache(tmp_path):
    """300 random features and 20 queries in four classes; 270 of the features train."""
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


@pytest.fixture
def tree_cache(tmp_path):
    """300 + 24 features: kingdoms far apart, families nearer, species nearest."""
    rng = np.random.default_rng(0)
    labels = np.arange(324) % 12
    where = class_tree.tree_labels(NAMES, np.arange(12))
    centres = sum(
        scale * rng.normal(size=(12, 24))[where[:, level]]
        for level, scale in enumerate((1.0, 1.5, 3.0))
    )
    x = (centres[labels] + 0.5 * rng.normal(size=(324, 24))).astype(np.float32)
    folder = tmp_path / "cache/drawn-lite0"
    database = Split([b"%d" % i for i in range(300)], labels[:300])
    query = Split([b"q"] * 24, labels[300:])
    featuresets.save_protocol(folder, Protocol("Drawn", NAMES, database, query, database, 100))
    for name, rows in {"database": x[:300], "query": x[300:], "views-mild": x[None, :300]}.items():
        np.save(folder / f"{name}.npy", rows)
    return tmp_path / "cache"
