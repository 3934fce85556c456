"""The recall of fidelity codes: its tables, and a run on small data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.fidelity import BITS, METHODS, NAMES, table

ROOT = Path(__file__).parents[2]
PUBLISHED = [
    json.loads(line)
    for line in (ROOT / "docs/results/runs/fidelity.jsonl").read_text().splitlines()
]
PAGE = (ROOT / "docs/method/fidelity.md").read_text()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dataset", ["cifar10-ii", "folder:scenes15"])
def test_the_page_has_the_published_runs(dataset, metric):
    assert table(PUBLISHED, dataset, metric) in PAGE


def test_what_the_page_says_of_them():
    """Codes that are ranked twice, or once where that is better, are ahead of all others."""
    for dataset in ("cifar10-ii", "folder:scenes15"):
        for metric in ("cosine", "l2"):
            for bits in BITS:
                of_method = {
                    run["method"]: run
                    for run in PUBLISHED
                    if (run["dataset"], run["metric"], run["bits"]) == (dataset, metric, bits)
                }
                assert len(of_method) >= 7
                twice = of_method.pop("fidelity+")
                del of_method["fidelity"]
                for run in of_method.values():
                    assert twice["recall10"] > run["recall10"]
                    assert twice["recall100"] > run["recall100"]


def test_a_table_shows_the_largest_figure_of_a_length_and_what_is_missing():
    run = {"dataset": "a", "metric": "l2", "bits": 16, "method": "pq", "recall10": 0.25}
    runs = [run | {"recall100": 0.5}, run | {"method": "rq", "recall100": 0.75, "recall10": 0.125}]
    runs.append(run | {"dataset": "b", "recall100": 1})
    lines = table(runs, "a", "l2").splitlines()
    assert lines[0] == "| bits | 16 | 32 | 64 | 128 |"
    assert "| PQ | **.250** / .500 | - | - | - |" in lines
    assert "| RQ | .125 / **.750** | - | - | - |" in lines
    assert len(lines) == 2 + len(NAMES)
    assert set(METHODS) < set(NAMES)
