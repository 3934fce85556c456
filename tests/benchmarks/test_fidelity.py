"""The benchmark of exact neighbours: its references, and what it does not measure twice."""

from __future__ import annotations

import json
import sys

import numpy as np

from benchmarks import fidelity
from benchmarks.baselines import Vectors


def test_neighbours_are_the_nearest_rows():
    rng = np.random.default_rng(0)
    query, database = (rng.normal(size=(n, 8)).astype(np.float32) for n in (7, 300))
    want = np.square(query[:, None].astype(np.float64) - database).sum(2).argsort(1)[:, :100]
    found = fidelity.neighbours(Vectors(database, query, database))
    np.testing.assert_array_equal(found, want)


def test_figures_are_added_once(cache, tmp_path, monkeypatch, capsys):
    out = tmp_path / "recall.jsonl"
    arguments = ["--dataset", "folder:groups", "--features", str(cache), "--out", str(out)]
    arguments += ["--bits", "16", "--methods", "fidelity", "pq", "plsq"]
    monkeypatch.setattr(sys, "argv", ["fidelity", *arguments])
    fidelity.main()
    first = out.read_text()
    found = {(line["metric"], line["method"]): line for line in map(json.loads, first.splitlines())}
    names = ("fidelity", "fidelity+", "pq")  # plsq has no codes of 16 bits
    assert set(found) == {(metric, name) for metric in ("cosine", "l2") for name in names}
    assert all(0 < line["recall10"] <= 1 for line in found.values())
    assert capsys.readouterr().out == first
    fidelity.main()
    assert out.read_text() == first
