"""The benchmark of the true tree, on random features whose classes form a tree."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import featuresets, trees, trees_page
from benchmarks.runlog import RunLog
from hyperpq.datasets.protocols import Protocol, Split

NAMES = [f"{k}/{k}{f}/{k}{f}{s}" for k in "ab" for f in "12" for s in "xyz"]


def test_labels_of_the_tree():
    labels = trees.tree_labels(["a/p/1", "a/p/2", "a/q/3", "b/r/4"], np.array([3, 0, 1, 2]))
    assert labels.tolist() == [[3, 2, 1], [0, 0, 0], [1, 0, 0], [2, 1, 0]]


@pytest.fixture
def cache(tmp_path):
    """300 + 24 features: kingdoms far apart, families nearer, species nearest."""
    rng = np.random.default_rng(0)
    labels = np.arange(324) % 12
    where = trees.tree_labels(NAMES, np.arange(12))
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


def test_a_run_and_its_page(cache, monkeypatch):
    seen, train = [], trees.train_codec

    def short(x, views, **options):
        recipe = options.pop("recipe")
        seen.append(recipe)
        return train(x, views, recipe=recipe.replace(epochs=6, hidden=32), **options)

    monkeypatch.setattr(trees, "train_codec", short)
    for module in (trees, trees_page):
        monkeypatch.setattr(module, "DIMENSIONS", (2, 8))
    out = cache.parent / "out"

    def bench():
        trees.main(["--features", str(cache), "--seeds", "1", "--out", str(out)])
        return (out / "trees.md").read_text("utf-8")

    page = bench()
    assert {recipe.hierarchy.levels for recipe in seen} == {(12, 4, 2)}
    runs = list(RunLog(cache / "drawn-lite0/trees.jsonl", trees_page.FIELDS).runs.values())
    assert len(runs) == len(seen) == 2 * len(trees.SPACES)
    for run in runs:
        # Easy features: families and kingdoms are found, and the tree shows in the distances.
        assert run["map"][2] > 0.9
        near, middle, far = run["ancestor"]
        assert 0 < near < middle < far < 1
        if not run["space"].endswith("learned"):
            assert run["c"] == pytest.approx(
                {"c = 1": 1.0, "c = 0.1": 0.1}.get(run["space"].partition(", ")[2], 1.0)
            )
    assert ElementTree.parse(out / "trees.svg").getroot().tag.endswith("svg")
    assert page.count("| 2 | ") == 3 * len(trees.SPACES)
    monkeypatch.setattr(trees, "train_codec", None)
    assert bench() == page
    assert page.startswith(
        "# A true tree\n\nIn 2 and 8 dimensions, hyperbolic space with a learned"
    )
