"""`add` of an iterator: vectors that need not be in memory together."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from index_tools import D_IN, QUERIES, SMALL, X

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, NotTrainedError


def trained(features="none"):
    index = HiHPQIndex(D_IN, 4, device="cpu", features=features)
    index.train(X, recipe=SMALL)
    return index


def batches(x, *sizes):
    start = 0
    for size in sizes:
        yield x[start : start + size].tolist() if size % 2 else x[start : start + size]
        start += size


@pytest.mark.parametrize("features", ["none", "int8"])
@pytest.mark.parametrize("is_on_disk", [False, True])
def test_a_stream_adds_what_one_call_adds(features, is_on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperpq.index.streamed.SEGMENT_SIZE", 128)
    index = trained(features)
    if is_on_disk:
        index.save(tmp_path / "index")
        index = HiHPQIndex.load(tmp_path / "index", device="cpu")
    index.add(batches(X, 7, 0, 100, 41, 120, 32))
    assert index.ntotal == 300
    other = trained(features)
    other.add(X)
    for found, want in zip(index.search(QUERIES, 10), other.search(QUERIES, 10), strict=True):
        np.testing.assert_array_equal(found, want)
    if is_on_disk:
        again = HiHPQIndex.load(tmp_path / "index", device="cpu")
        np.testing.assert_array_equal(again.search(QUERIES, 10)[1], other.search(QUERIES, 10)[1])


def test_an_error_keeps_the_transactions_before_it(monkeypatch):
    monkeypatch.setattr("hyperpq.index.streamed.SEGMENT_SIZE", 100)
    index = trained()

    def stops():
        yield from batches(X, 60, 60, 60)
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        index.add(stops())
    assert index.ntotal == 120
    bad = X.copy()
    bad[150, 3] = np.nan
    with pytest.raises(InvalidInputError, match=r"\b150\b"):
        index.add(batches(bad, 100, 100))
    assert index.ntotal == 220


def test_what_is_refused():
    index = trained()
    with pytest.raises(InvalidInputError, match="x is an iterator of batches and ids are given"):
        index.add(iter([X]), np.arange(300))
    with pytest.raises(
        InvalidInputError, match="x is an iterator of batches and attributes are given"
    ):
        index.add(iter([X]), attributes={"year": np.arange(300)})
    with pytest.raises(InvalidInputError, match="width"):
        index.add(iter([X[:, :5]]))
    with pytest.raises(NotTrainedError):
        HiHPQIndex(D_IN, 4, device="cpu").add(iter([X]))
    assert index.ntotal == 0
    index.add(iter([]))
    assert index.ntotal == 0


PROGRAM = """
import resource, sys
import numpy as np
from hyperpq import HiHPQIndex
index = HiHPQIndex.load(sys.argv[1], device="cpu")
rng = np.random.default_rng(0)
n = int(sys.argv[2])
index.add(rng.normal(size=(20_000, index.d)).astype(np.float32) for _ in range(n))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_stream(tmp_path):
    """As arrays of float32 the longer one has 38 MB more, and their codes .8 MB each time."""
    peak = []
    for n in (4, 44):
        place = tmp_path / str(n)
        trained().save(place)
        command = [sys.executable, "-c", PROGRAM, str(place), str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak.append(int(done.stdout))
    assert peak[1] - peak[0] < 20 << 10
