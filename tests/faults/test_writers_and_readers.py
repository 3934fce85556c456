"""Two writers and eight readers of one index at once, each a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from fault_tools import (
    CODEC,
    KEPT,
    QUERIES,
    RELEARNED,
    X,
    add,
    columns_of,
    is_relearned,
    load,
    new_index,
    start_child,
    store_of,
    vector_numbers,
)
from index_operations import relearn, rows_of

from hyperpq.codes import unpack
from hyperpq.errors import SnapshotChangedError
from hyperpq.store import verify_directory

WRITERS, READERS = 2, 8
# In every snapshot the live ids are a window of this many, one after another, and each commit
# moves it on: an answer from two snapshots would have a gap or another length.
WINDOW = 200
TABLES = {codec: codec.tables(QUERIES).astype(np.float64) for codec in (CODEC, RELEARNED)}


def codec_of(index):
    return RELEARNED if is_relearned(store_of(index)) else CODEC


def move_on(index, rng: random.Random) -> None:
    """Add some rows and remove as many of the oldest, in one commit, or raise if others did."""
    count = rng.choice((1, 3, 30, WINDOW))
    ids = index.ids
    new = range(int(ids[-1]) + 1, int(ids[-1]) + 1 + count)
    rows = rows_of(new)
    with index.collection.on_this_snapshot():
        index.collection.add(
            codec_of(index).encode(X[vector_numbers(new, 0)]),
            rows.ids,
            attributes=rows.attributes,
            features=rows.features,
            remove=ids[:count],
        )


def write(root, report, seed: int, seconds: float) -> None:
    rng, index, end = random.Random(seed), load(root), time.monotonic() + seconds
    found = {"commits": 0, "compactions": 0, "relearned": 0, "refreshed": 0}
    while time.monotonic() < end:
        try:
            what = rng.random()
            if what < 0.2:
                found["compactions"] += index.compact()
            elif what < 0.3:
                other = load(root)
                relearn(other)
                found["relearned"] += 1
                assert index.refresh()
            else:
                move_on(index, rng)
                found["commits"] += 1
        except SnapshotChangedError as error:
            assert "changed by another writer; refresh the index, then try again." in str(error)
            found["refreshed"] += 1
            assert index.refresh()
    report.write_text(json.dumps(found))


def check_answers(index, rng: random.Random) -> int:
    """Check that all answers are those of one snapshot; the first id of it."""
    D, I = index.search(QUERIES, WINDOW + 50, threads=1)  # noqa: E741
    assert (I[:, WINDOW:] == -1).all()
    first = int(I[0, :WINDOW].min())
    ids = np.arange(first, first + WINDOW)
    codec = codec_of(index)
    codes = unpack(codec.encode(X[vector_numbers(ids, 0)]), codec.M, 8)
    distances = TABLES[codec][:, np.arange(codec.M), codes].sum(-1).astype(np.float32)
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances))
    np.testing.assert_array_equal(I[:, :WINDOW], ids[order])
    np.testing.assert_array_equal(D[:, :WINDOW], np.take_along_axis(distances, order, 1))
    # The same object still shows the same snapshot.
    assert index.ntotal == WINDOW
    np.testing.assert_array_equal(index.ids, ids)
    some = rng.sample(ids.tolist(), 9)
    np.testing.assert_array_equal(
        index.reconstruct_batch(some), codec.decode(codec.encode(X[vector_numbers(some, 0)]))
    )
    np.testing.assert_array_equal(index.features_of(some), X[vector_numbers(some, 0)])
    assert index.attributes_of(some)["kind"].tolist() == columns_of(some, 0)["kind"]
    half = index.range_search(QUERIES[:1], np.inf, where=f"half < {(first + 60) / 2}", threads=1)
    assert sorted(half[2].tolist()) == ids[:60].tolist()
    return first


def read(root, report, seed: int, seconds: float) -> None:
    rng, index, end = random.Random(seed), load(root), time.monotonic() + seconds
    found, first = {"answers": 0, "refreshed": 0, "opened": 0, "verified": 0}, 0
    while time.monotonic() < end:
        now = check_answers(index, rng)
        # What was committed once never goes back.
        assert now >= first
        first = now
        found["answers"] += 1
        if rng.random() < 0.5:
            found["refreshed"] += index.refresh()
        else:
            verify = rng.random() < 0.3
            index = load(root, verify=verify)
            found["verified" if verify else "opened"] += 1
    report.write_text(json.dumps(found))


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(6, marks=pytest.mark.sample), pytest.param(30, marks=pytest.mark.slow)],
)
def test_two_writers_and_eight_readers(tmp_path, capsys, seconds):
    root = tmp_path / "index"
    index = new_index(features=KEPT.kind)
    add(index, range(WINDOW))
    index.save(root)
    work = {f"writer {i}": write for i in range(WRITERS)}
    work |= {f"reader {i}": read for i in range(READERS)}
    pids, reports = {}, {name: tmp_path / name for name in work}
    try:
        for seed, (name, task) in enumerate(work.items()):
            args = root, reports[name], seed, seconds
            pids[name] = start_child(lambda: task(*args))  # noqa: B023
        statuses = {name: os.waitpid(pids.pop(name), 0)[1] for name in work}
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert statuses == dict.fromkeys(work, 0)
    found = {name: json.loads(path.read_text()) for name, path in reports.items()}
    totals = {}
    for counts in found.values():
        for what, count in counts.items():
            totals[what] = totals.get(what, 0) + count
    index = load(root, verify=True)
    assert verify_directory(index.path) == []
    check_answers(index, random.Random(0))
    # `save` and `add` made the first two snapshots.
    made = sum(totals[what] for what in ("commits", "compactions", "relearned"))
    assert store_of(index).snapshot_number == 2 + made
    assert totals["relearned"]
    assert all(found[f"writer {i}"]["commits"] for i in range(WRITERS))
    assert all(found[f"reader {i}"]["answers"] for i in range(READERS))
    with capsys.disabled():
        print(f"\nindex: {WRITERS} writers and {READERS} readers for {seconds} s: {totals}")
