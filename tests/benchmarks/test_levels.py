"""The benchmark of the levels of a hierarchy, and the measures that use the tree of classes."""

from __future__ import annotations

import dataclasses
import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmarks import class_tree, levels, levels_page
from benchmarks.class_tree import TreeLabels
from benchmarks.levels_variants import GEOMETRIES, HIERARCHIES, VARIANTS, name_of
from benchmarks.published import SetRecord, write_text
from benchmarks.runlog import RunLog
from hyperpq.datasets.protocols import folder_protocol
from hyperpq.training.presets import get_recipe


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


def test_labels_of_a_folder_of_folders(tmp_path):
    for name in ("Fruit/Apple/Gala", "Fruit/Apple/Golden", "Fruit/Kiwi", "Vegetables/Garlic"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(4):
            shade = np.full((8, 8, 3), 40 * i, np.uint8)
            Image.fromarray(shade).save(tmp_path / name / f"{i}.png")
    protocol = folder_protocol(tmp_path, 4)
    labels = class_tree.tree_labels(protocol.names, protocol.database.labels)
    for path, row in zip(protocol.database.paths, labels, strict=True):
        inside = os.fsdecode(path).removeprefix(f"{tmp_path}/").split("/")[:-1]
        assert row[2] == ["Fruit", "Vegetables"].index(inside[0])
        assert row[1] == ["Apple", "Kiwi", "Garlic"].index(inside[1])
    assert class_tree.level_sizes(TreeLabels(labels, labels)) == (4, 3, 2)


def test_measures_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    names = [f"{k}/{k}{f}/{k}{f}{s}" for k in "ab" for f in "12" for s in "xyz"]
    leaves = rng.integers(0, 12, 5), rng.integers(0, 12, 120)
    labels = TreeLabels(*(class_tree.tree_labels(names, one) for one in leaves))
    found = np.stack([rng.permutation(120)[:100] for _ in range(5)])
    described = levels.describe(labels, found)
    paths = [[names[leaf].split("/") for leaf in one] for one in leaves]
    for level, depth in enumerate((3, 2, 1)):
        precisions, averages = [], []
        for q, rows in enumerate(found):
            hits = [paths[1][row][:depth] == paths[0][q][:depth] for row in rows]
            precisions.append(sum(hits[:10]) / 10)
            at_hits = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
            averages.append(sum(at_hits) / len(at_hits) if at_hits else 0)
        assert described["precision"][level] == pytest.approx(np.mean(precisions))
        assert described["map"][level] == pytest.approx(np.mean(averages))


def test_recipes_differ_in_geometry_and_hierarchy_alone():
    names = ["a/p/1", "a/p/2", "a/q/3", "b/r/4"]
    labels = TreeLabels(*[class_tree.tree_labels(names, np.arange(4))] * 2)
    same = {"prototype_weight": 0.0, "neighbour_weight": 0.0, "levels": (2,)}
    for recipe, own_levels in (("default", (4, 3, 2)), ("paper", (100, 50, 25))):
        own = get_recipe(recipe, 32, holdout_check=False, augmentation="mild")
        found = {v.title: levels.recipe_of(v, 32, labels) for v in VARIANTS if v.group == recipe}
        assert set(found) == {f"{g}, {h}" for g in GEOMETRIES for h in HIERARCHIES}
        for title, one in found.items():
            geometry, hierarchy = title.split(", ")
            assert one.representation.geometry == {"flat": "euclidean"}.get(geometry, "lorentz")
            assert bool(one.hierarchy.prototype_weight) == (hierarchy == "hierarchy")
            if hierarchy == "hierarchy":
                assert one.hierarchy.levels == own_levels
            alike = one.replace(geometry="lorentz", train_curvature=True, **same)
            assert alike == own.replace(**same)


def test_a_run_and_its_page(tree_cache, monkeypatch):
    seen, train = [], levels.train_codec

    def short(x, views, **options):
        recipe = options.pop("recipe")
        seen.append((recipe.name, options["M"]))
        return train(x, views, recipe=recipe.replace(epochs=1, hidden=32), **options)

    monkeypatch.setattr(levels, "train_codec", short)
    # rq needs more rows than these.
    shown = [v for v in VARIANTS if v.baseline != "rq" and not v.title.startswith("flat")]
    for module in (levels, levels_page):
        monkeypatch.setattr(module, "VARIANTS", shown)
    monkeypatch.setattr(levels_page, "SHOWN_BITS", 8)
    out = tree_cache.parent / "out"

    def bench():
        data = ["--dataset", "drawn", "--features", str(tree_cache), "--bits", "8,16"]
        levels.main([*data, "--seeds", "1", "--out", str(out)])
        return (out / "levels.md").read_text("utf-8")

    page = bench()
    # The default is learned once for all lengths, the paper's codes for each length.
    assert sorted(seen) == [("default", 1)] * 2 + [("paper", 1)] * 2 + [("paper", 2)] * 2
    runs = list(RunLog(tree_cache / "drawn-lite0/levels.jsonl", levels_page.FIELDS).runs.values())
    assert len(runs) == 2 * 4 + 2 * 2 + 2
    for run in runs:
        # Whatever is of the query's fine class is of its coarse class, and of its kind.
        assert sorted(run["precision"]) == run["precision"]
        assert run["precision"][0] <= run["hierarchical"]
    exact = next(run for run in runs if run["variant"] == "exact, raw")
    assert exact["map"][2] > 0.9
    assert ElementTree.parse(out / "levels.svg").getroot().tag.endswith("svg")
    monkeypatch.setattr(levels, "train_codec", None)
    assert bench() == page


def run_of(recipe, geometry, hierarchy, seed, figures, bits=32):
    name = name_of(recipe, geometry, hierarchy)
    digits = {"map": figures, "precision": figures, "hierarchical": figures[0]}
    return {"variant": name, "bits": bits, "seed": seed, **digits}


def test_the_page_says_what_each_part_adds(tmp_path):
    runs = []
    for seed, shift in enumerate((0.0, 0.1)):
        base = np.array([0.5, 0.6, 0.7]) + shift
        for geometry, of_space in (("hyperbolic", 0.02), ("flat", 0.0)):
            for hierarchy, of_tree in (("no hierarchy", 0.0), ("hierarchy", -0.01 * (1 + seed))):
                figures = (base + of_space + of_tree).tolist()
                runs.append(run_of("default", geometry, hierarchy, seed, figures))
    # A seed that only one of the two has does not count.
    runs.append(run_of("default", "hyperbolic", "no hierarchy", 2, [1.0, 1.0, 1.0]))
    folder = tmp_path / "runs"
    record = SetRecord("Shop", "shop-lite0", 100, 12, 10, 90, 90, 0, 0, {})
    write_text(folder / "shop-lite0.json", json.dumps(dataclasses.asdict(record)))
    RunLog(folder / "shop-lite0-levels.jsonl", levels_page.FIELDS).update(runs)
    page = levels_page.write_levels_page(tmp_path).read_text("utf-8")
    gained = "+.020 ± .000, +.020 ± .000 and +.020 ± .000"
    lost = "-.015 ± .007, -.015 ± .007 and -.015 ± .007"
    assert page.startswith(
        "# Levels of a hierarchy\n\nAt no level do hierarchical prototypes in hyperbolic space "
        "change the mAP@100 of the default recipe by more than .015, nor hyperbolic instead of "
        "flat space without hierarchy by more than .020, at 32 bits. On Shop, codes of 32 bits of "
        "the recipe `default` have an mAP@100 of "
        ".713, .780 and .847 by fine class, by coarse class and by kind (3 seeds); added by "
        "hierarchical prototypes (in hyperbolic space): "
        f"{lost}; hyperbolic instead of flat space (without hierarchy): {gained}.\n\n## What"
    )
    assert "| Shop | default | hierarchy, in flat space | -.015 ± .007 |" in page
    assert "| Shop | default | hyperbolic space, with hierarchy | +.020 ± .000 |" in page
    assert "| default, hyperbolic, no hierarchy | **.713** ± .253 |" in page
    assert "| paper |" not in page


def test_classes_that_form_no_tree_are_refused(cache):
    with pytest.raises(SystemExit, match=r"a, b, c; expected folders in folders"):
        levels.main(["--dataset", "folder:groups", "--features", str(cache), "--seeds", "1"])
