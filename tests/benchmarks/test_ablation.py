"""The ablation, on random features of four classes."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation_page import FIELDS
from benchmarks.ablation_variants import VARIANTS
from benchmarks.runlog import RunLog


@pytest.fixture
def hard(cache):
    """Classes that are hard to distinguish, so that every change shows in mAP."""
    for name in ("database", "query"):
        file = cache / f"groups-lite0/{name}.npy"
        x = np.load(file)
        noise = np.random.default_rng(1).standard_normal(x.shape)
        np.save(file, (x + 3 * noise).astype(np.float32))
    return cache


@pytest.fixture
def short(monkeypatch):
    """Train for two epochs; the list holds the arguments of each training."""
    seen, train = [], ablation.train_codec

    def quick(x, views, **options):
        options["recipe"] = options["recipe"].replace(epochs=2, warmup_epochs=0, width=16)
        seen.append((views is not None, options["metric"], options["recipe"]))
        return train(x, views, **options)

    monkeypatch.setattr(ablation, "train_codec", quick)
    return seen


def read_runs(file):
    return list(RunLog(file, FIELDS).runs.values())


def bench(cache, *options):
    folders = ["--features", str(cache), "--out", str(cache.parent / "out")]
    ablation.main(["--dataset", "folder:groups", *folders, *options])
    return (cache.parent / "out/ablation.md").read_text("utf-8")


@pytest.mark.slow
def test_every_variant_is_measured_once(hard, short):
    page = bench(hard, "--bits", "8,16", "--seeds", "1")
    runs = read_runs(hard / "groups-lite0/ablation.jsonl")
    assert [(run["group"], run["name"]) for run in runs] == [(v.group, v.name) for v in VARIANTS]
    assert len(short) == len(VARIANTS)
    for variant, (has_views, metric, recipe) in zip(VARIANTS, short, strict=True):
        assert (has_views, metric) == (variant.image_views, variant.metric)
        fields = recipe.to_dict()
        for name, value in variant.changes.items():
            assert fields[name] == (list(value) if isinstance(value, tuple) else value)
        assert f"| {variant.name} |" in page
    # Every change changes something.
    assert len({tuple(run["map"].values()) for run in runs}) > 0.8 * len(runs)
    svg = ElementTree.parse(hard.parent / "out/ablation-groups-lite0.svg").getroot()
    assert svg.tag.endswith("svg")
    short.clear()
    assert bench(hard, "--bits", "8,16", "--seeds", "1") == page
    assert not short
    # An empty cache takes up published runs if they are asked for.
    (hard / "groups-lite0/ablation.jsonl").unlink()
    assert bench(hard, "--bits", "8,16", "--seeds", "1", "--published") == page
    assert not short


def test_some_groups_and_an_incomplete_line(cache, short):
    page = bench(cache, "--bits", "8", "--seeds", "2", "--only", "nbits")
    assert "| nbits | 4 |" in page
    assert "Euclidean" not in page
    file = cache / "groups-lite0/ablation.jsonl"
    whole = file.read_text()
    assert whole.count("\n") == 4
    file.write_text(whole[:-20])
    assert len(read_runs(file)) == 3
    file.write_text(whole[:-20])
    short.clear()
    bench(cache, "--bits", "8", "--seeds", "2", "--only", "nbits")
    assert len(short) == 1
    assert file.read_text().count("\n") == len(read_runs(file)) == 4


def test_lengths_and_seeds_of_the_page_stay(cache, short, monkeypatch):
    monkeypatch.setattr(ablation, "VARIANTS", VARIANTS[:1])
    bench(cache, "--bits", "8", "--seeds", "2")
    page = bench(cache, "--bits", "16", "--seeds", "1")
    assert "|  |  | 8 bits | seeds |" in page and "| 2 |" in page
    page = bench(cache, "--bits", "16", "--seeds", "2")
    assert "|  |  | 8 bits | 16 bits | seeds |" in page and "| 2 |" in page
    # Other features under the same name: nothing is measured, and the page stays.
    file = cache / "groups-lite0/database.npy"
    np.save(file, np.random.default_rng(1).standard_normal(np.load(file).shape).astype(np.float32))
    short.clear()
    with pytest.raises(SystemExit, match="publishes figures of other features named groups-lite0"):
        bench(cache, "--bits", "8", "--seeds", "1")
    assert not short
    assert (cache.parent / "out/ablation.md").read_text("utf-8") == page
