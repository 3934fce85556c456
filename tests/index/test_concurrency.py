"""One index in several threads, and in a forked child: what the Notes of `HiHPQIndex` promise."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.codec.pq import PQCodec
from hyperpq.filters.selectors import IDSelectorRange

RNG = np.random.default_rng(8)
WORDS = RNG.normal(size=(3, 256, 4)).astype(np.float32)
X = RNG.normal(size=(3000, 12)).astype(np.float32)
QUERIES = RNG.normal(size=(5, 12)).astype(np.float32)
STEP = 100


@pytest.fixture(params=["memory", "disk"])
def index(request, tmp_path):
    """An empty index with a codec of drawn codewords."""
    made = HiHPQIndex.from_codec(PQCodec.from_codebooks(WORDS), device="cpu")
    if request.param == "disk":
        made.save(tmp_path / "index")
        return HiHPQIndex.load(tmp_path / "index", device="cpu", durability="fast")
    return made


def in_threads(*functions):
    """Run functions at once, each in a thread of its own; their results, or the first error."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(run, f) for f in functions]]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_searches_in_several_threads_give_the_same_answers(index):
    index.add(X, attributes={"row": np.arange(len(X))})
    calls = [
        lambda: index.search(QUERIES, 20),
        lambda: index.search(QUERIES, 20, where="row >= 700", threads=2),
        lambda: index.range_search(QUERIES, 20.0),
        lambda: index.search_and_reconstruct(QUERIES, 5),
        lambda: (index.encode(X[:50]), index.embed(X[:50])),
    ]
    want = [call() for call in calls]

    def repeat(call):
        return [call() for _ in range(10)]

    found = in_threads(*(lambda call=call: repeat(call) for call in calls * 2))
    for answers, expected in zip(found, want * 2, strict=True):
        assert all(same(answer, expected) for answer in answers)


def test_a_search_sees_the_rows_before_or_after_a_change(index):
    """Changes are additions of 100 rows each, and now and then the first ones are removed."""
    states = [range(0)]
    for n in range(STEP, len(X) + 1, STEP):
        states.append(range(states[-1].start, n))
        if n % (5 * STEP) == 0:
            states.append(range(n - 2 * STEP, n))
    want = []
    for state in states:
        alone = HiHPQIndex.from_codec(index.codec, device="cpu")
        alone.add(X[state.start : state.stop], np.array(state, np.int64))
        want.append(alone.search(QUERIES, 30))
    done = threading.Event()

    def change():
        try:
            for before, after in pairwise(states):
                if after.stop > before.stop:
                    index.add(X[before.stop : after.stop])
                else:
                    index.remove_ids(IDSelectorRange(0, after.start))
                    index.compact()
        finally:
            done.set()

    def read():
        answers = []
        while not done.is_set():
            answers.append(index.search(QUERIES, 30, threads=1))
            D, I, R = index.search_and_reconstruct(QUERIES, 30, threads=1)  # noqa: E741
            assert np.isnan(R).any(-1).tolist() == (I < 0).tolist()
            answers.append((D, I))
        return answers

    _, *readers = in_threads(change, read, read)
    for answers in readers:
        at = 0
        for answer in answers:
            # In the order of the states: what a thread has seen once never goes back.
            while not same(answer, want[at]):
                at += 1
                assert at < len(want), "an answer of no state, or of an earlier one"
    assert same(index.search(QUERIES, 30), want[-1])


def test_changes_in_several_threads_take_place_one_after_another(index):
    def add(part):
        for row in range(part, 400, 4):
            index.add(X[row : row + 1], attributes={"row": [row]})

    in_threads(*(lambda part=part: add(part) for part in range(4)))
    assert index.ids.tolist() == list(range(400))
    rows = index.attributes_of(index.ids)["row"]
    assert sorted(rows.tolist()) == list(range(400))
    np.testing.assert_array_equal(index.reconstruct_n(), index.decode(index.encode(X[rows])))
    removed = in_threads(*(lambda: index.remove_ids(IDSelectorRange(0, 300)) for _ in range(4)))
    assert sorted(removed) == [0, 0, 0, 300]
    assert index.ntotal == 100


def test_a_view_keeps_the_rows(index):
    index.add(X[:50], attributes={"row": np.arange(50)})
    view = index.collection.view()
    index.remove_ids([3, 4])
    index.update(X[60:61], [7])
    index.add(X[50:60], attributes={"row": np.arange(10)})
    index.compact()
    assert view.ntotal == 50
    assert view.ids.tolist() == list(range(50))
    np.testing.assert_array_equal(view.codes_of([7, 3]), index.encode(X[[7, 3]]))
    assert view.attributes_of([3])["row"].tolist() == [3]
    assert index.ntotal == 58


def test_ids_are_given_once_in_eight_threads(index):
    """Half of the threads give ids of their own, below those that are counted on."""
    index.add(X[-1:], [1000], attributes={"row": [-1]})

    def add(part):
        for row in range(part, 240, 8):
            own = [row] if part % 2 else None
            index.add(X[row : row + 1], own, attributes={"row": [row]})
            index.update(X[row : row + 1], index.select(where=f"row == {row}"))

    in_threads(*(lambda part=part: add(part) for part in range(8)))
    assert index.ids.tolist() == [*range(1, 240, 2), *range(1000, 1121)]
    rows = index.attributes_of(index.ids)["row"]
    assert sorted(rows.tolist()) == list(range(-1, 240))
    assert rows[:120].tolist() == list(range(1, 240, 2))
    np.testing.assert_array_equal(index.codes_of(index.ids), index.encode(X[rows]))


def test_objects_of_one_directory_in_several_threads(tmp_path):
    """Each shows what it has opened; their changes wait for each other."""
    HiHPQIndex.from_codec(PQCodec.from_codebooks(WORDS), device="cpu").save(tmp_path / "i")
    several = [
        HiHPQIndex.load(tmp_path / "i", device="cpu", durability="fast", lock_timeout=60)
        for _ in range(4)
    ]

    def add(one):
        for row in range(20):
            one.add(X[row : row + 1])

    in_threads(*(lambda one=one: add(one) for one in several))
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ids.tolist() == list(range(80))


PREPARED = """
import multiprocessing, os, signal, sys, threading, time, traceback
import numpy as np
import torch
from hyperpq import HiHPQIndex

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
rng = np.random.default_rng(0)
x = rng.normal(size=(4000, 64)).astype("float32")
index = HiHPQIndex(64, 8, device="cpu")
index.train(x[:500], epochs=0)
index.add(x)
on_disk = len(sys.argv) > 1
if on_disk:
    index.save(sys.argv[1])
    index = HiHPQIndex.load(sys.argv[1], device="cpu", durability="fast", lock_timeout=120)
"""
FORKED = """
# More than one thread of PyTorch and of the scan, in the parent and in the child.
want = index.search(x, 10, threads=2), index.encode(x), index.decode(index.encode(x))
child = os.fork()
if child == 0:
    signal.alarm(60)
    found = index.search(x, 10, threads=2), index.encode(x), index.decode(index.encode(x))
    np.testing.assert_array_equal(found[0][0], want[0][0])
    np.testing.assert_array_equal(found[0][1], want[0][1])
    np.testing.assert_array_equal(found[1], want[1])
    np.testing.assert_array_equal(found[2], want[2])
    index.add(x[:5])
    assert index.ntotal == 4005
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert index.ntotal == 4000
if on_disk:
    assert index.refresh() and index.ntotal == 4005
again = index.search(x, 10, threads=2)
assert index.path or (again[1] == want[0][1]).all()
print("all right")
"""


# Workers that multiprocessing and joblib fork, of an index that they inherit or that is pickled.
POOLS = """
import joblib

def ids(rows):
    return index.search(x[rows], 10, threads=2)[1]

def ids_of(given, rows):
    return given.search(x[rows], 10, threads=2)[1]

want, parts = index.search(x[:40], 10, threads=2)[1], [slice(i, i + 10) for i in range(0, 40, 10)]
signal.alarm(200)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert (np.concatenate(pool.map(ids, parts)) == want).all()
    assert (np.concatenate(pool.starmap(ids_of, [(index, p) for p in parts])) == want).all()
tasks = [joblib.delayed(ids_of)(index, p) for p in parts]
found = joblib.Parallel(2, backend="multiprocessing")(tasks)
assert (np.concatenate(found) == want).all()
print("all right")
"""

# A child is forked at every moment of what two other threads do, and can search and add.
FORKED_IN_BETWEEN = """
x = x[:200]
index.remove_ids(np.arange(200, 4000))
done = threading.Event()

def repeat(work):
    while not done.is_set():
        work()

def change():
    index.add(x[:5], np.arange(10_000, 10_005))
    index.remove_ids(np.arange(10_000, 10_005))

threads = [
    threading.Thread(target=repeat, args=(work,), daemon=True)
    for work in (lambda: index.search(x, 10, threads=2), change)
]
for thread in threads:
    thread.start()
for turn in range(20):
    time.sleep(0.003 * turn)
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)
            # Without what earlier children have added to the directory.
            assert (index.ids < 20_000).sum() in (200, 205)
            D, I = index.search(x[:5], 3, threads=2)
            assert (I >= 0).all()
            index.add(x[:1], [20_000 + turn])
            assert 20_000 + turn in index
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, turn
done.set()
for thread in threads:
    thread.join(60)
    assert not thread.is_alive()
# Children have added to the directory, and to nothing in the parent's memory.
index.add(x[:1], [30_000])
assert index.ntotal == 201 + 20 * on_disk
print("all right")
"""


# A child is forked while another thread stays on its snapshot; the child follows other writers.
FORKED_BESIDE_A_SNAPSHOT = """
inside, leave = threading.Event(), threading.Event()

def stay():
    with index.collection.on_this_snapshot():
        inside.set()
        leave.wait()

thread = threading.Thread(target=stay)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)
    if on_disk:
        HiHPQIndex.load(index.path, device="cpu").add(x[:3])
    index.add(x[:5])
    os._exit(index.ntotal != 4005 + 3 * on_disk)
leave.set()
thread.join()
assert os.waitpid(child, 0)[1] == 0
print("all right")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    "script",
    [FORKED, POOLS, FORKED_IN_BETWEEN, FORKED_BESIDE_A_SNAPSHOT],
    ids=["fork", "pools", "in between", "beside a snapshot"],
)
def test_a_forked_child_searches_and_adds(script, on_disk, tmp_path):
    """After the parent has used several threads of PyTorch, none of which the child has."""
    if script == POOLS:
        pytest.importorskip("joblib")
    arguments = [str(tmp_path / "index")] * on_disk
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout == "all right\n", done.stderr
