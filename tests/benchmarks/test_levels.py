"""The benchmark of the levels of a hierarchy, and the measures that use the tree of classes."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import class_tree, levels, levels_page
from benchmarks.class_tree import TreeLabels
from benchmarks.levels_page import BASE, VARIANTS
from benchmarks.runlog import RunLog


def test_labels_of_the_tree():
    labels = class_tree.tree_labels(["a/p/1", "a/p/2", "a/q/3", "b/r/4"], np.array([3, 0, 1, 2]))
    assert labels.tolist() == [[3, 2, 1], [0, 0, 0], [1, 0, 0], [2, 1, 0]]


def test_a_class_that_lies_less_deep_is_its_own_parent():
    names = ["Fruit/Apple/Gala", "Fruit/Kiwi", "Vegetables/Garlic"]
    labels = class_tree.tree_labels(names, np.arange(3))
    assert labels.tolist() == [[0, 0, 0], [1, 1, 0], [2, 2, 1]]


def test_hierarchical_precision_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    names = [f"{k}/{k}{f}/{k}{f}{s}" for k in "ab" for f in "12" for s in "xyz"]
    query, database = (class_tree.tree_labels(names, rng.integers(0, 12, n)) for n in (7, 40))
    found = np.argsort(rng.random((7, 40)), axis=1)
    values = []
    for q in range(7):
        similar = [sum(a == b for a, b in zip(query[q], row, strict=True)) / 3 for row in database]
        got = sum(similar[row] for row in found[q, :5])
        values.append(got / sum(sorted(similar, reverse=True)[:5]))
    labels = TreeLabels(query, database)
    assert class_tree.hierarchical_precision(labels, found, 5) == pytest.approx(np.mean(values))
    best = np.stack([np.argsort(-(database == row).sum(1), kind="stable") for row in query])
    assert class_tree.hierarchical_precision(labels, best, 5) == pytest.approx(1)


def test_a_run_and_its_page(tree_cache, monkeypatch):
    seen, train = [], levels.train_codec

    def short(x, views, **options):
        recipe = options.pop("recipe")
        seen.append(recipe)
        return train(x, views, recipe=recipe.replace(epochs=1, hidden=32), **options)

    monkeypatch.setattr(levels, "train_codec", short)
    # rq needs more rows than these.
    shown = [v for v in VARIANTS if v.baseline not in ("rq", "pq") and "25" not in v.name]
    for module in (levels, levels_page):
        monkeypatch.setattr(module, "VARIANTS", shown)
        monkeypatch.setattr(module, "BITS", 8)
    out = tree_cache.parent / "out"

    def bench():
        data = ["--dataset", "drawn", "--features", str(tree_cache)]
        levels.main([*data, "--seeds", "2", "--out", str(out)])
        return (out / "levels.md").read_text("utf-8")

    page = bench()
    assert {one.hierarchy.levels for one in seen if one.hierarchy.prototype_weight} == {(12, 4, 2)}
    runs = list(RunLog(tree_cache / "drawn-lite0/levels.jsonl", levels_page.FIELDS).runs.values())
    assert len(runs) == 2 * sum(not v.is_exact for v in shown) + 2
    for run in runs:
        # Whatever is of the query's class is of its parent, and of its root.
        assert sorted(run["precision"]) == run["precision"]
        assert run["precision"][0] <= run["hierarchical"]
    exact = next(run for run in runs if run["variant"] == "exact raw")
    assert exact["map"][2] > 0.9
    assert ElementTree.parse(out / "levels-drawn-lite0.svg").getroot().tag.endswith("svg")
    assert page.startswith("# Levels of a hierarchy\n\nOn Drawn, the default recipe has an mAP@100")
    assert "hyperbolic geometry in place of flat: " in page
    assert f"| {BASE} | " in page
    monkeypatch.setattr(levels, "train_codec", None)
    assert bench() == page


def test_classes_that_form_no_tree_are_refused(cache):
    with pytest.raises(SystemExit, match=r"a, b, c; expected folders in folders"):
        levels.main(["--dataset", "folder:groups", "--features", str(cache), "--seeds", "1"])
