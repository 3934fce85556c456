"""Measurements that run side by side in several processes."""

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
from benchmarks.runlog import RunLog
from benchmarks.tasks import run_tasks


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_has_its_outcome(jobs, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = dict(run_tasks(partial(operator.mul, 5), [1, 2, 3, 4], jobs))
    assert found == {1: 5, 2: 10, 3: 15, 4: 20}
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_ends_it(jobs):
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(partial(operator.floordiv, 5), [1, 0, 2], jobs))


def test_another_process_opens_the_same_set(cache):
    features = open_set("folder:groups", None, cache, more=7)
    sent = pickle.dumps(features)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert (again.folder, again.source, again.n_viewed) == (features.folder, features.source, 270)
    np.testing.assert_array_equal(again.train, features.train)
    np.testing.assert_array_equal(again.query, features.query)


def test_processes_measure_what_one_process_does(cache):
    def bench(*options):
        file = cache / "groups-lite0/ablation.jsonl"
        file.unlink(missing_ok=True)
        # A folder of its own, since the published runs beside a page would be restored.
        folders = ["--features", str(cache), "--out", str(cache.parent / options[-1])]
        asked = ["--bits", "8", "--seeds", "1", "--only", "nbits"]
        ablation.main(["--dataset", "folder:groups", *folders, *asked, *options])
        return {key: run["map"] for key, run in RunLog(file, FIELDS).runs.items()}

    alone = bench("--jobs", "1")
    assert len(alone) == 2
    assert bench("--jobs", "2") == alone
