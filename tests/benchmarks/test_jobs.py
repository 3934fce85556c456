"""Measurements in processes of their own."""

from __future__ import annotations

import operator
import os
import pickle
from functools import partial

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation import FIELDS
from benchmarks.featuresets import open_set
from benchmarks.jobs import measured
from benchmarks.results import RunLog


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_has_its_answer(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = dict(measured(partial(operator.mul, 5), [1, 2, 3, 4], jobs))
    assert found == {1: 5, 2: 10, 3: 15, 4: 20}
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_ends_it(jobs):
    with pytest.raises(ZeroDivisionError):
        list(measured(partial(operator.floordiv, 5), [1, 0, 2], jobs))


def test_another_process_opens_the_same_set(cache):
    features = open_set("folder:groups", None, cache, more=7)
    sent = pickle.dumps(features)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert (again.folder, again.source, again.viewed) == (features.folder, features.source, 270)
    np.testing.assert_array_equal(again.train, features.train)
    np.testing.assert_array_equal(again.query, features.query)


def test_processes_measure_what_one_process_does(cache):
    def bench(*options):
        file = cache / "groups-lite0/ablation.jsonl"
        file.unlink(missing_ok=True)
        # Another page each time: runs are taken up from those beside it.
        folders = ["--features", str(cache), "--out", str(cache.parent / options[-1])]
        asked = ["--bits", "8", "--seeds", "1", "--only", "nbits"]
        ablation.main(["--dataset", "folder:groups", *folders, *asked, *options])
        return {key: run["map"] for key, run in RunLog(file, FIELDS).runs.items()}

    alone = bench("--jobs", "1")
    assert len(alone) == 2
    assert bench("--jobs", "2") == alone
