"""Measurements in processes of their own."""

from __future__ import annotations

import operator
import os
from functools import partial

import pytest

from benchmarks import ablation
from benchmarks.ablation import FIELDS
from benchmarks.jobs import measured
from benchmarks.results import RunLog


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_has_its_answer(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = dict(measured(operator.mul, [1, 2, 3, 4], partial(int, 5), jobs))
    assert found == {1: 5, 2: 10, 3: 15, 4: 20}
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_ends_it(jobs):
    with pytest.raises(ZeroDivisionError):
        list(measured(operator.floordiv, [1, 0, 2], partial(int, 5), jobs))


def test_processes_measure_what_one_process_does(cache):
    def bench(*options):
        file = cache / "groups-lite0/ablation.jsonl"
        file.unlink(missing_ok=True)
        folders = ["--features", str(cache), "--out", str(cache.parent / options[-1])]
        asked = ["--bits", "8", "--seeds", "1", "--only", "nbits"]
        ablation.main(["--dataset", "folder:groups", *folders, *asked, *options])
        return {key: run["map"] for key, run in RunLog(file, FIELDS).runs.items()}

    alone = bench("--jobs", "1")
    assert len(alone) == 2
    assert bench("--jobs", "2") == alone
