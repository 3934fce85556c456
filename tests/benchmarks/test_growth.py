"""The benchmark of growing indexes, on random features of two kinds."""

from __future__ import annotations

import math
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import growth, growth_page
from benchmarks.featuresets import open_set
from benchmarks.growth import built_anew, measure, precision
from benchmarks.growth_page import (
    ANEW,
    FIELDS,
    KINDS,
    METHODS,
    PUBLISHED,
    RELEARNED,
    STAYED,
    TIMES,
)
from benchmarks.growth_sets import Curve, Kind, Part, Sets, part_of
from benchmarks.runlog import RunLog
from hyperpq.images.relearning import Limits, RelearnPolicy

D = 32


def part(kind, n, first=0):
    """Features of four classes around directions of their kind, with two views of each."""
    rng = np.random.default_rng(kind)
    centres = 3 * kind + rng.normal(size=(4, D))
    labels = rng.integers(0, 4, n + 40)
    x = (centres[labels] + 0.3 * rng.normal(size=(n + 40, D))).astype(np.float32)
    views = x[None, :n] + 0.1 * rng.normal(size=(2, n, D)).astype(np.float32)
    return Part(x[:n], views, labels[:n] + first, x[n:], labels[n:] + first)


def test_precision_counts_as_many_results_as_a_class_has_images():
    parts = [part(0, 60)]
    index = built_anew(parts, [12])
    labels = parts[0].labels[:12]
    # Every class has one to five images, most of which come first.
    assert precision(index, parts, labels) > 0.85
    shuffled = np.random.default_rng(0).permutation(labels)
    assert precision(index, parts, shuffled) < 0.7


def test_kinds_weigh_as_much_as_they_have_images():
    one, other = part(0, 60), part(1, 60, first=10)
    index = built_anew([one, other], [40, 20])
    labels = np.concatenate([one.labels[:40], other.labels[:20]])
    both = precision(index, [one, other], labels)
    alone = [precision(index, [some], labels) for some in (one, other)]
    assert both == pytest.approx((40 * alone[0] + 20 * alone[1]) / 60)


def test_a_curve():
    parts, steps = [part(0, 100), part(1, 60, 10)], [(60, 0), (62, 0), (62, 60)]
    first, second, third = measure(parts, steps)
    assert len(set(first["precision"].values())) == 1
    assert second["reason"] == "the index learned from 60 images and has 62 now"
    assert second["learned from"] == 62
    assert second["unlike"] < 0.5
    assert third["reason"] == "the index learned from 62 images and has 122 now"
    assert third["learned from"] == 122
    assert third["unlike"] > 0.9
    values = third["precision"]
    assert values[STAYED] < values[ANEW] - 0.05
    assert values[RELEARNED] == pytest.approx(values[ANEW], abs=0.05)


def test_other_seeds_take_other_images_of_the_same_kind(cache):
    features = open_set("folder:groups", None, cache)
    parts = [part_of(features, Kind("", (1, 2), first=10), seed) for seed in (0, 0, 1)]
    a, again, b = parts
    np.testing.assert_array_equal(a.x, again.x)
    np.testing.assert_array_equal(a.query, again.query)
    assert not np.array_equal(a.x, b.x) and not np.array_equal(a.query, b.query)
    for one in parts:
        assert set(one.labels) == set(one.query_labels) == {11, 12}
        labels = features.protocol.database.labels[features.train_rows]
        assert len(one.x) == one.views.shape[1] == np.isin(labels, (1, 2)).sum()
        order = np.lexsort(one.x.T)
        want = features.train[np.isin(labels, (1, 2))]
        np.testing.assert_array_equal(one.x[order], want[np.lexsort(want.T)])
    assert part_of(features, Kind("", views=False)).views is None


def test_curves_can_be_measured_in_other_processes():
    task = pickle.dumps((growth.CURVES[-1], 1))
    assert pickle.loads(task) == (growth.CURVES[-1], 1)


class OneSet(Sets):
    """The set of the fixture by any name."""

    def open(self, name):
        return open_set("folder:groups", None, self.cache)


@pytest.fixture
def bench(cache, monkeypatch):
    """Measure two curves of the fixture's set, without kinds and times; returns what ran."""
    curves = [Curve("a", [Kind("x")], [(5,), (8,)]), Curve("b", [Kind("x", (0, 1))], [(5,)])]
    monkeypatch.setattr(growth, "CURVES", curves)
    monkeypatch.setattr(growth, "measure_kinds", lambda _: [])
    monkeypatch.setattr(growth, "measure_times", lambda _: [])
    sets, log = OneSet(None, None, None, cache), RunLog(cache / growth.RUNS, FIELDS)
    ran = []
    original = growth.measure_curve

    def spy(sets, task):
        ran.append((task[0].name, task[1]))
        return original(sets, task)

    monkeypatch.setattr(growth, "measure_curve", spy)

    def run(seeds=1, fresh=False):
        ran.clear()
        growth.run_missing(sets, log, seeds, 1, fresh)
        return list(ran)

    return run, log


def test_a_curve_is_measured_again_if_features_policy_or_code_are_others(bench, monkeypatch):
    run, log = bench
    assert run() == [("a", 0), ("b", 0)]
    assert run() == []
    assert run(2) == [("a", 1), ("b", 1)]
    assert set(log.runs) == {(c, s) for c in "ab" for s in (0, 1)} | {(KINDS, 0), (TIMES, 0)}
    assert log.runs["a", 0]["steps"] != log.runs["a", 1]["steps"]
    assert run(1, fresh=True) == [("a", 0), ("b", 0)]
    monkeypatch.setattr(growth, "POLICY", RelearnPolicy((Limits(math.inf, 1.5, 0.02),)))
    assert run() == [("a", 0), ("b", 0)]
    monkeypatch.setattr(growth, "code_digest", lambda _: "other")
    assert run() == [("a", 0), ("b", 0)]


def step(values, reason=None, numbers=(100, 20)):
    return {
        "numbers": list(numbers),
        "precision": dict(zip(METHODS, values, strict=True)),
        "unlike": 0.07,
        "reason": reason,
        "learned from": 100,
        "seconds": [1.0, 2.0],
    }


def published(out, name, steps, seed=0):
    run = {"curve": name, "seed": seed, "steps": steps, "machine": "2026-01-01, a machine"}
    RunLog(out / PUBLISHED, FIELDS).append(run | {"threads": 1, "commit": "abc"})


OTHER_KIND = "5% of the images are of another kind than those that the index learned from"


def test_the_page(tmp_path):
    steps = [
        step([0.8, 0.8, 0.8], numbers=(100, 0)),
        step([0.5, 0.79, 0.8], OTHER_KIND),
    ]
    published(tmp_path, "growing", steps)
    shares = {"more of the same": 0.02, "drawings": 1.0}
    published(tmp_path, KINDS, [{"learned": "photographs", "n": 100, "shares": shares}])
    published(tmp_path, TIMES, [{"n": 1000, "wall": 20.0, "processor": 7.1}])
    text = growth_page.write_growth_page(tmp_path, ["growing"]).read_text("utf-8")
    assert "loses up to .300" in text
    assert "never more than .010 below" in text
    assert "| 100 + 0 | .800 | .800 | .800 |  | 100 |  |" in text
    assert "| 100 + 20 | .500 | .790 | .800 | 7% | 100 | another kind |" in text
    assert "| 100: photographs | 2% |  |  |  | 100% |" in text
    assert "On 1 thread, learning again took 7.1 s with 1,000 images (" in text
    assert "run once, with seed 0" in text
    assert text.count("2026-01-01, a machine, 1 thread, commit abc") == 1
    assert ElementTree.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")


def test_the_page_of_several_seeds(tmp_path):
    for seed, kept in enumerate((0.79, 0.75)):
        last = step([0.5, kept, 0.8], OTHER_KIND if seed else None)
        published(tmp_path, "growing", [step([0.8] * 3), last], seed)
    published(tmp_path, "once", [step([0.8] * 3)])
    text = growth_page.write_growth_page(tmp_path, ["growing", "once"]).read_text("utf-8")
    assert "never more than .050 below" in text
    line = "| 100 + 20 | .500 ± .000 | .770 ± .028 | .800 ± .000 | 7% | 100 | no or another kind |"
    assert line in text
    assert "Curves were run once: once; with 2 seeds: growing." in text
