"""One index in several processes: pickles, workers of every kind, and writers that take turns."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import (
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.store import verify_directory
from hyperpq.store.lock import writer_lock

RNG = np.random.default_rng(8)
WORDS = RNG.normal(size=(3, 256, 4)).astype(np.float32)
X = RNG.normal(size=(2000, 12)).astype(np.float32)
QUERIES = RNG.normal(size=(5, 12)).astype(np.float32)


def new_index() -> HiHPQIndex:
    return HiHPQIndex.from_codec(PQCodec.from_codebooks(WORDS), device="cpu")


@pytest.fixture
def stored(tmp_path) -> HiHPQIndex:
    """An index in a directory, in one file that is mapped."""
    index = new_index()
    # Above 256 KiB a shard is mapped and not read, and joblib maps what has more than 1 MB.
    index.collection.add(RNG.integers(0, 256, (200_000, 3), np.uint8), np.arange(200_000))
    index.save(tmp_path / "index")
    return HiHPQIndex.load(tmp_path / "index", device="cpu", durability="fast")


def answers(index):
    return index.search(QUERIES, 20)


def assert_same(found, want):
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other)


# --- pickles and copies -----------------------------------------------------------------------


def test_an_index_in_a_directory_is_pickled_by_its_path(stored):
    data = pickle.dumps(stored)
    assert len(data) < 4000
    again = pickle.loads(data)
    assert (again.path, again.ntotal, again.device) == (stored.path, 200_000, "cpu")
    assert_same(answers(again), answers(stored))
    assert repr(again) == repr(stored)
    # As pickled again before it was used, and what was set when it was loaded.
    store = pickle.loads(pickle.dumps(pickle.loads(data))).collection._store
    assert (store.durability, store.lock_timeout, store.read_only) == ("fast", 10, False)
    assert_same(
        pickle.loads(pickle.dumps(stored.collection.view())).codes_of([5, 3]),
        stored.codes_of([5, 3]),
    )
    assert pickle.loads(pickle.dumps(stored.collection)).ntotal == 200_000


def test_an_index_in_memory_is_pickled_with_its_rows():
    index = new_index()
    index.add(X, attributes={"row": np.arange(len(X))})
    index.metadata = {"made": "here"}
    size = len(pickle.dumps(index.collection))
    answers(index)
    assert len(pickle.dumps(index.collection)) == size, "rows travel twice once searched"
    again = pickle.loads(pickle.dumps(index))
    assert_same(answers(again), answers(index))
    assert (again.path, again.metadata) == (None, {"made": "here"})
    again.add(X[:1], attributes={"row": [0]})
    assert (again.ntotal, index.ntotal) == (2001, 2000)
    untrained = pickle.loads(pickle.dumps(HiHPQIndex(12, 3, device="cpu")))
    assert not untrained.is_trained


def test_a_pickle_shows_the_snapshot_that_was_pickled(stored):
    data, want = pickle.dumps(stored), answers(stored)
    other = HiHPQIndex.load(stored.path, device="cpu", durability="fast")
    other.add(X)
    again = pickle.loads(data)
    assert again.ntotal == 200_000
    assert_same(answers(again), want)
    assert again.refresh()
    assert again.ntotal == 202_000
    # Once a file of that snapshot is gone, it is the newest one.
    other.remove_ids([0])
    other.compact()
    assert pickle.loads(data).ntotal == 201_999


def test_a_pickle_of_a_reader_stays_one(stored):
    reader = HiHPQIndex.load(stored.path, device="cpu", read_only=True)
    again = pickle.loads(pickle.dumps(reader))
    assert again.read_only
    with pytest.raises(StoreError, match="opened read-only"):
        again.add(X[:1])


def test_a_pickle_whose_directory_is_gone_or_another(stored, tmp_path):
    again = pickle.loads(pickle.dumps(stored))
    moved = tmp_path / "moved"
    os.rename(stored.path, moved)
    with pytest.raises(IndexNotFoundError, match="index"):
        again.search(QUERIES, 3)
    other = HiHPQIndex.from_codec(PQCodec.from_codebooks(WORDS + 1), device="cpu")
    other.save(stored.path)
    with pytest.raises(StoreError, match="another index is in this place now"):
        _ = again.ntotal
    # It is opened once it is there.
    shutil.rmtree(stored.path)
    os.rename(moved, stored.path)
    assert again.ntotal == 200_000


def test_a_pickle_shows_the_newest_snapshot_once_files_of_its_own_are_gone(stored):
    """A compaction removes the files of earlier snapshots, and other readers do without them."""
    data = pickle.dumps(stored)
    other = HiHPQIndex.load(stored.path, device="cpu", durability="fast")
    other.add(X[:3])
    assert pickle.loads(data).ntotal == 200_000
    other.remove_ids([0])
    other.compact()
    assert pickle.loads(data).ntotal == 200_002


def test_a_change_of_an_index_that_is_gone_says_so(two, tmp_path):
    """Of a lock that cannot be made nobody learns that the index was moved."""
    one, _ = two
    moved = tmp_path / "moved"
    one.path.rename(moved)
    for folder in (False, True):
        if folder:
            one.path.mkdir()
        for change in (
            lambda: one.add(X[:1], attributes={"row": [1]}),
            lambda: setattr(one, "metadata", {"a": 1}),
            lambda: one.update(X[:1], [3], attributes={"row": [1]}),
            lambda: one.remove_ids([3]),
            one.compact,
            one.reset,
        ):
            with pytest.raises(IndexNotFoundError, match="there is no index here"):
                change()
    # Nothing is left in a folder that may be somebody else's.
    assert list(one.path.iterdir()) == []
    one.path.rmdir()
    moved.rename(one.path)
    one.metadata = {"a": 1}
    assert one.ntotal == 10


def test_an_unopened_index_has_no_other_attributes(stored):
    again = pickle.loads(pickle.dumps(stored))
    assert not hasattr(again, "__array__")
    assert not hasattr(again, "quantizer")
    with pytest.raises(AttributeError, match="'HiHPQIndex' object has no attribute 'quantizer'"):
        _ = stored.quantizer


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("on_disk", [False, True])
def test_copies_change_apart(copied, on_disk, tmp_path):
    index = new_index()
    index.add(X[:100])
    if on_disk:
        index.save(tmp_path / "i")
    other = copied(index)
    assert_same(answers(other), answers(index))
    assert (other.codec is index.codec) == (copied is copy.copy)
    assert other.path == index.path
    other.add(X[100:110])
    assert (other.ntotal, index.ntotal) == (110, 100)
    assert index.refresh() == on_disk
    assert index.ntotal == (110 if on_disk else 100)
    assert index.clone().path is None


def test_a_copy_of_an_unopened_index(stored):
    again = copy.copy(pickle.loads(pickle.dumps(stored)))
    assert again.ntotal == 200_000
    assert copy.deepcopy(again).path == stored.path


# --- workers ----------------------------------------------------------------------------------


def ids_in_worker(index, queries):
    return os.getpid(), index.search(queries, 3)[1], index.path


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_workers_of_multiprocessing(method, on_disk, stored):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the platform has no {method}")
    index = stored
    if not on_disk:
        index = new_index()
        index.add(X)
    want = index.search(QUERIES, 3)[1]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pid, found, path = pool.submit(ids_in_worker, index, QUERIES).result(timeout=300)
    assert pid != os.getpid()
    assert path == index.path
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_workers_of_joblib(backend, stored):
    """`np.memmap` of a descriptor has no file name, which joblib asked for."""
    joblib = pytest.importorskip("joblib")
    want = stored.search(QUERIES, 3)[1]
    tasks = (joblib.delayed(ids_in_worker)(stored, query[None]) for query in QUERIES)
    found = joblib.Parallel(2, backend=backend)(tasks)
    np.testing.assert_array_equal(np.concatenate([ids for _, ids, _ in found]), want)


def test_a_worker_says_that_the_directory_is_gone(stored):
    """An error while a pickle is read would end the worker, and the pool would wait for ever."""
    shutil.rmtree(stored.path)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        task = pool.apply_async(ids_in_worker, (stored, QUERIES))
        with pytest.raises(IndexNotFoundError, match=str(stored.path)):
            task.get(timeout=120)


# --- several writers --------------------------------------------------------------------------


WRITER = """
import sys
import numpy as np
from hyperpq import HiHPQIndex

root, number, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
index = HiHPQIndex.load(root, device="cpu", durability="fast", lock_timeout=60)
x = np.random.default_rng(number).normal(size=(count, 12)).astype("float32")
sys.stdin.readline()
for row in range(count):
    index.add(x[row : row + 1], attributes={"writer": [number], "row": [row]})
"""


@pytest.mark.parametrize("writers", [2, 4])
def test_writers_take_turns(writers, tmp_path):
    """Each would have failed with "refresh and try again" as soon as another one had committed."""
    root, count = tmp_path / "index", 200
    new_index().save(root)
    arguments = [sys.executable, "-c", WRITER, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*arguments, str(n), str(count)], **pipes) for n in range(writers)]
    try:
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        errors = [process.communicate(timeout=500)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert errors == [""] * writers
    index = HiHPQIndex.load(root, device="cpu", verify=True)
    assert verify_directory(root) == []
    assert index.ids.tolist() == list(range(writers * count))
    rows = index.attributes_of(index.ids)
    for number in range(writers):
        mine = rows["writer"] == number
        # Its rows are there once, in the order in which it added them.
        assert rows["row"][mine].tolist() == list(range(count))
        x = np.random.default_rng(number).normal(size=(count, 12)).astype("float32")
        np.testing.assert_array_equal(index.codes_of(index.ids[mine]), index.encode(x))


@pytest.fixture
def two(tmp_path) -> tuple[HiHPQIndex, HiHPQIndex]:
    """Two objects of one directory with ten rows, as two processes have them."""
    index = new_index()
    index.add(X[:10], attributes={"row": np.arange(10)})
    index.save(tmp_path / "i")
    return index, HiHPQIndex.load(tmp_path / "i", device="cpu", durability="fast")


def test_changes_are_made_to_what_others_have_stored(two):
    one, other = two
    for step, (change, ids) in enumerate(
        [
            (lambda i: i.add(X[:2], attributes={"row": [10, 11]}), [*range(12)]),
            (lambda i: i.update(X[5:6], [11], attributes={"row": [-1]}), [*range(12)]),
            (lambda i: i.remove_ids([0, 11]), [*range(1, 11)]),
            (lambda i: i.remove_ids(where="row == 10"), [*range(1, 10)]),
            (lambda i: i.__delitem__(9), [*range(1, 9)]),
            (lambda i: i.merge_from(i.clone(), add_id=100), [*range(1, 9), *range(101, 109)]),
            (lambda i: i.compact(), [*range(1, 9), *range(101, 109)]),
        ]
    ):
        other.refresh()
        other.update(X[step : step + 1], [5], attributes={"row": [5]})
        other.update(X[step : step + 1], [6], attributes={"row": [6]})
        assert one.collection.snapshot == other.collection.snapshot - 2
        change(one)
        assert one.ids.tolist() == ids
        assert one.collection.snapshot == other.collection.snapshot + 1
        np.testing.assert_array_equal(one.codes_of([5]), one.encode(X[step : step + 1]))
    other.refresh()
    assert other.ids.tolist() == one.ids.tolist()


def test_rows_that_only_others_have_seen_are_changed(two):
    """None of the rows concerned is in the snapshot that the object shows."""
    for change, ids in [
        (lambda i: i.remove_ids([10, 99]), [*range(10), 11]),
        (lambda i: i.remove_ids(where="row >= 10"), [*range(10)]),
        (lambda i: i.__delitem__(11), [*range(11)]),
        (lambda i: i.update(X[:1], [10], attributes={"row": [-1]}), [*range(12)]),
        (lambda i: i.compact(), [*range(12)]),
    ]:
        one, other = (HiHPQIndex.load(two[0].path, device="cpu") for _ in range(2))
        other.add(X[10:12], [10, 11], attributes={"row": [10, 11]})
        change(one)
        assert one.ids.tolist() == ids
        assert HiHPQIndex.load(one.path, device="cpu").ids.tolist() == ids
        one.remove_ids([10, 11])
        one.compact()


def test_ids_that_others_have_removed_are_free(two):
    one, other = two
    other.remove_ids([3, 4])
    one.add(X[20:21], [3], attributes={"row": [-3]})
    other.refresh()
    other.remove_ids([5])
    one.add_sa_codes(one.encode(X[21:22]), [5], attributes={"row": [-5]})
    assert one.ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert one.attributes_of([3, 5])["row"].tolist() == [-3, -5]


def test_nothing_to_compact_but_what_others_have_removed(two):
    one, other = two
    other.remove_ids([3])
    assert one.collection.n_deleted == 0
    assert one.compact()
    assert one.collection.stats().deleted_rows == 0
    assert one.ids.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_copy_does_not_hold_the_lock_of_its_original(two):
    one, other = two
    with one.collection.exclusive():
        again = copy.copy(one)
    with writer_lock(one.path):
        again.collection._store.lock_timeout = 0
        with pytest.raises(IndexLockedError):
            again.add(X[:1], attributes={"row": [0]})
    assert copy.copy(other).collection._store.durability == "fast"


def test_given_ids_and_columns_are_checked_again(two):
    one, other = two
    other.add(X[:1], [50], attributes={"row": [50]})
    with pytest.raises(InvalidInputError, match="ids contain 50, which the index has already"):
        one.add(X[:2], [49, 50], attributes={"row": [0, 0]})
    # What is refused shows the rows that are the reason.
    assert one.ids.tolist() == [*range(10), 50]
    other.reset()
    other.add(X[:3], attributes={"other": [1, 2, 3]})
    with pytest.raises(InvalidInputError, match="attributes are row; expected other"):
        one.add(X[:1], attributes={"row": [1]})
    assert one.ids.tolist() == other.ids.tolist() == [0, 1, 2]


def test_what_would_undo_unseen_changes_is_refused(two):
    one, other = two
    other.add(X[:1], attributes={"row": [10]})
    with pytest.raises(SnapshotChangedError, match="refresh the index"):
        one.reset()
    with pytest.raises(SnapshotChangedError, match="refresh the index"):
        one.metadata = {"made": "here"}
    with pytest.raises(SnapshotChangedError), one.collection.on_this_snapshot():
        one.add(X[:1], attributes={"row": [10]})
    assert one.ntotal == 10
    one.add(X[:1], attributes={"row": [11]})
    assert one.ntotal == 12


def test_what_is_read_is_what_is_changed(two):
    """The rows with the highest value, of those that others have stored meanwhile, too."""
    one, other = two
    other.add(X[:1], attributes={"row": [99]})
    with one.collection.exclusive() as changed, one.collection.exclusive() as again:
        assert (changed, again) == (True, False)
        rows = one.attributes_of(one.ids)["row"]
        impatient = HiHPQIndex.load(one.path, device="cpu", lock_timeout=0)
        with pytest.raises(IndexLockedError):
            impatient.add(X[:1], attributes={"row": [100]})
        one.remove_ids(one.ids[rows == rows.max()])
        one.add(X[:1], attributes={"row": [5]})
    assert one.ids.tolist() == [*range(10), 11]
    other.add(X[:1], attributes={"row": [6]})
    assert other.ids.tolist() == [*range(10), 11, 12]
    alone = new_index()
    with alone.collection.exclusive() as changed:
        alone.add(X[:1])
    assert (changed, alone.ntotal) == (False, 1)


def test_another_index_in_the_place_is_not_changed(two):
    one, _ = two
    root = one.path
    shutil.rmtree(root)
    HiHPQIndex.from_codec(PQCodec.from_codebooks(WORDS + 1), device="cpu").save(root)
    with pytest.raises(StoreError, match="another index is in this place now"):
        one.add(X[:1], attributes={"row": [1]})
    assert HiHPQIndex.load(root, device="cpu").ntotal == 0


def test_a_change_waits_for_another_writer(two, tmp_path):
    one, _ = two
    assert one.collection._store.lock_timeout == 10
    impatient = HiHPQIndex.load(one.path, device="cpu", lock_timeout=0)
    with writer_lock(one.path), pytest.raises(IndexLockedError, match="another process"):
        impatient.add(X[:1], attributes={"row": [1]})
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from hyperpq.store.lock import writer_lock\n"
            "with writer_lock(Path(sys.argv[1])): print(flush=True); time.sleep(0.5)",
            str(one.path),
        ],
        stdout=subprocess.PIPE,
    )
    with held:
        held.stdout.readline()
        one.add(X[:1], attributes={"row": [1]})
    assert one.ntotal == 11
    for wrong in (-1, "10", None, np.nan):
        with pytest.raises(InvalidInputError, match="lock_timeout is"):
            HiHPQIndex.load(one.path, device="cpu", lock_timeout=wrong)


# --- readers ----------------------------------------------------------------------------------


def listing(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(root)): (p.stat().st_mtime_ns, p.stat().st_size) for p in root.rglob("*")
    }


CHANGES = {
    "add": lambda i: i.add(X[:1]),
    "add nothing": lambda i: i.add(X[:0]),
    "add_with_ids": lambda i: i.add_with_ids(X[:1], [5_000_000]),
    "add_sa_codes": lambda i: i.add_sa_codes(i.encode(X[:1])),
    "update": lambda i: i.update(X[:1], [5]),
    "remove_ids": lambda i: i.remove_ids([5]),
    "remove_ids of none": lambda i: i.remove_ids([-0 + 10**9]),
    "del": lambda i: i.__delitem__(5),
    "merge_from": lambda i: i.merge_from(new_index()),
    "reset": lambda i: i.reset(),
    "compact": lambda i: i.compact(),
    "metadata": lambda i: setattr(i, "metadata", {}),
    "write_report": lambda i: i.collection.write_report("notes.txt", b""),
    "remove_leftovers": lambda i: i.collection.remove_leftovers(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_reader_refuses_changes_and_writes_nothing(change, stored, monkeypatch):
    root = stored.path
    (root / ".lock").unlink(missing_ok=True)
    before = listing(root.parent)
    reader = HiHPQIndex.load(root, device="cpu", read_only=True, verify=True)
    assert reader.read_only
    assert not stored.read_only
    # Refused before the work of encoding.
    monkeypatch.setattr(type(reader.codec), "encode", lambda *_: np.empty((1, 3), np.uint8))
    with pytest.raises(StoreError, match="was opened read-only and cannot be changed; load it"):
        CHANGES[change](reader)
    assert listing(root.parent) == before


def test_a_reader_reads_copies_and_follows(stored, tmp_path):
    reader = HiHPQIndex.load(stored.path, device="cpu", read_only=True)
    assert_same(answers(reader), answers(stored))
    stored.add(X)
    assert reader.refresh()
    assert reader.ntotal == 202_000
    clone = reader.clone()
    clone.add(X[:1])
    assert (clone.read_only, clone.ntotal) == (False, 202_001)
    reader.save(tmp_path / "copy")
    assert HiHPQIndex.load(tmp_path / "copy", device="cpu").ntotal == 202_000
