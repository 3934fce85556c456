"""The benchmark of growing indexes, on random features of two kinds."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import growth, growth_page
from benchmarks.growth import Curve, Part, built_anew, measure, precision
from benchmarks.growth_page import ANEW, KINDS, METHODS, RELEARNED, STAYED
from benchmarks.runlog import RunLog

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
    curve = Curve("", lambda _: [part(0, 100), part(1, 60, 10)], [(60, 0), (62, 0), (62, 60)])
    first, second, third = measure(None, curve)
    assert len(set(first["precision"].values())) == 1
    assert "there are 62 now" in second["reason"]
    assert second["learned from"] == 62
    assert second["unlike"] < 0.5
    assert "there are 122 now" in third["reason"]
    assert third["learned from"] == 122
    assert third["unlike"] > 0.9
    values = third["precision"]
    assert values[STAYED] < values[ANEW] - 0.05
    assert values[RELEARNED] == pytest.approx(values[ANEW], abs=0.05)


def run(values, reason=None, numbers=(100, 20)):
    return {
        "numbers": list(numbers),
        "precision": dict(zip(METHODS, values, strict=True)),
        "unlike": 0.07,
        "reason": reason,
        "learned from": 100,
        "seconds": [1.0, 2.0],
    }


def test_the_page(tmp_path):
    log = RunLog(tmp_path / growth.RUNS, growth.FIELDS)
    steps = [
        run([0.8, 0.8, 0.8], numbers=(100, 0)),
        run([0.5, 0.79, 0.8], "5% of the images are unlike those that the codec was learned from"),
    ]
    log.append({"curve": "growing", "steps": steps, "machine": "a machine"})
    shares = {"more of the same": 0.02, "drawings": 1.0}
    kinds = [{"learned": "photographs", "n": 100, "shares": shares}]
    log.append({"curve": KINDS, "steps": kinds, "machine": "a machine"})
    text = growth_page.write_growth_page(log, ["growing"], tmp_path).read_text("utf-8")
    assert "loses up to .300" in text
    assert "never more than .010 below" in text
    assert "| 100 + 0 | .800 | .800 | .800 |  | 100 |  |" in text
    assert "| 100 + 20 | .500 | .790 | .800 | 7% | 100 | another kind |" in text
    assert "| 100: photographs | 2% |  |  |  | 100% |" in text
    assert text.count("a machine") == 1
    assert ElementTree.parse(tmp_path / "growth.svg").getroot().tag.endswith("svg")
