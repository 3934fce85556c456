"""The benchmark of the true tree, on random features whose classes form a tree."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks import trees, trees_page
from benchmarks.runlog import RunLog


def test_a_run_and_its_page(tree_cache, monkeypatch):
    seen, train = [], trees.train_codec

    def short(x, views, **options):
        recipe = options.pop("recipe")
        seen.append(recipe)
        return train(x, views, recipe=recipe.replace(epochs=6, hidden=32), **options)

    monkeypatch.setattr(trees, "train_codec", short)
    for module in (trees, trees_page):
        monkeypatch.setattr(module, "DIMENSIONS", (2, 8))
    out = tree_cache.parent / "out"

    def bench():
        trees.main(["--features", str(tree_cache), "--seeds", "1", "--out", str(out)])
        return (out / "trees.md").read_text("utf-8")

    page = bench()
    assert {recipe.hierarchy.levels for recipe in seen} == {(12, 4, 2)}
    runs = list(RunLog(tree_cache / "drawn-lite0/trees.jsonl", trees_page.FIELDS).runs.values())
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
