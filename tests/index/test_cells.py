"""Cells: what a search of some of them finds, against brute force, and as an index changes."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from index_tools import D_IN, QUERIES, X, assert_same, brute_force

from hyperpq import HiHPQIndex, HiHPQIVFIndex, index_factory
from hyperpq.errors import (
    CorruptIndexError,
    InvalidInputError,
    NotTrainedError,
    SnapshotChangedError,
)
from hyperpq.index import code_changes
from hyperpq.store.manifest import CELLS_FILE

NLIST = 12


def nearest_cells(index, queries, n):
    """The cells of each query, in float64."""
    centroids = index.collection.held.cells.centroids.astype(np.float64)
    v = index.embed(queries).astype(np.float64)
    far = ((v[:, None] - centroids) ** 2).sum(2)
    if index.metric == "ip":
        far = -(v @ centroids.T)
    return np.argsort(far, 1, kind="stable")[:, :n]


def cell_numbers(index, x):
    centroids = index.collection.held.cells.centroids.astype(np.float64)
    v = index.decode(index.encode(x)).astype(np.float64)
    return ((v[:, None] - centroids) ** 2).sum(2).argmin(1)


def in_cells(index, queries, x, ids, k, nprobe):
    """`brute_force` over the rows of the nearest cells of each query."""
    cells, numbers = nearest_cells(index, queries, nprobe), cell_numbers(index, x)
    each = []
    for q in range(len(queries)):
        some = np.isin(numbers, cells[q])
        each.append(brute_force(index, queries[q : q + 1], x[some], np.asarray(ids)[some], k))
    return np.concatenate([d for d, _ in each]), np.concatenate([i for _, i in each])


@pytest.fixture
def index(trained, kind):
    made = HiHPQIndex.from_codec(trained[kind].codec, device="cpu")
    made.add(X)
    made.make_cells(NLIST)
    return made


KINDS = pytest.mark.parametrize("kind", ["l1", "nibbles", "fidelity", "l2", "ip"])
ONE = pytest.mark.parametrize("kind", ["l2"])


@KINDS
def test_the_rows_of_the_nearest_cells_are_searched(index):
    assert index.nlist == NLIST
    ids = np.arange(len(X))
    for nprobe in (1, 2, 5):
        assert_same(
            index.search(QUERIES, 9, nprobe=nprobe), in_cells(index, QUERIES, X, ids, 9, nprobe)
        )
    index.nprobe = 2
    assert_same(index.search(QUERIES, 9), in_cells(index, QUERIES, X, ids, 9, 2))
    assert_same(index.view().search(QUERIES, 9), index.search(QUERIES, 9))


@KINDS
def test_all_cells_are_the_exhaustive_answer(index, kind, trained):
    plain = HiHPQIndex.from_codec(trained[kind].codec, device="cpu")
    # Each vector several times, for ties.
    for x in (X, X[::2], X):
        plain.add(x)
    for x in (X[::2], X):
        index.add(x)
    for nprobe in (None, NLIST, 10**6):
        assert_same(index.search(QUERIES, 40, nprobe=nprobe), plain.search(QUERIES, 40))
        found = index.range_search(QUERIES, 3.0, nprobe=nprobe)
        for one, other in zip(found, plain.range_search(QUERIES, 3.0), strict=True):
            np.testing.assert_array_equal(one, other)


@ONE
def test_queries_do_not_depend_on_each_other_or_threads(index):
    whole = index.search(QUERIES, 9, nprobe=3)
    for q in range(len(QUERIES)):
        alone = index.search(QUERIES[q], 9, nprobe=3, threads=1)
        assert_same(alone, (whole[0][q : q + 1], whole[1][q : q + 1]))
    many = np.tile(QUERIES, (5, 1))
    assert_same(index.search(many, 9, nprobe=3, threads=3), [np.tile(a, (5, 1)) for a in whole])


@ONE
def test_filters_and_ranges(index):
    index.reset()
    index.add(X, attributes={"width": np.arange(len(X))})
    some = np.arange(50, 250)
    want = in_cells(index, QUERIES, X[some], some, 9, 3)
    assert_same(index.search(QUERIES, 9, where="width >= 50 and width < 250", nprobe=3), want)
    D, I = in_cells(index, QUERIES, X, np.arange(len(X)), len(X), 3)  # noqa: E741
    radius = float(D[0, 5])
    lims, near, ids = index.range_search(QUERIES, radius, nprobe=3)
    for q in range(len(QUERIES)):
        np.testing.assert_array_equal(ids[lims[q] : lims[q + 1]], I[q][D[q] < radius])
        np.testing.assert_array_equal(near[lims[q] : lims[q + 1]], D[q][D[q] < radius])


@pytest.mark.parametrize("kind", ["l1"])
def test_refined_and_similar_results_are_of_the_cells(trained, kind):
    index = HiHPQIndex.from_codec(trained[kind].codec, device="cpu", features="float32")
    index.add(X)
    index.make_cells(NLIST)
    cells, numbers = nearest_cells(index, QUERIES, 3), cell_numbers(index, X)
    whole = index.search(QUERIES, len(X), refine=len(X))[1]
    found = index.search(QUERIES, 9, refine=len(X), nprobe=3)[1]
    for q in range(len(QUERIES)):
        in_order = [i for i in whole[q].tolist() if numbers[i] in cells[q]]
        assert found[q].tolist() == in_order[:9]
    D, I, S = index.search_similar(QUERIES, 9, nprobe=3)  # noqa: E741
    assert_same((D, I), index.search(QUERIES, 9, nprobe=3))
    assert S.shape == I.shape


def test_similarities_do_not_depend_on_other_queries(trained):
    """Also where the cells of some queries have no row any more."""
    index = HiHPQIndex.from_codec(trained["l2"].codec, device="cpu", features="float32")
    index.add(X)
    index.make_cells(NLIST)
    queries = (X[:150] + X[150:]) / 2
    near = nearest_cells(index, queries, 1)[:, 0]
    index.remove_ids(np.flatnonzero(cell_numbers(index, X) == near[0]))
    I, S = index.search_similar(queries, 5, nprobe=1)[1:]  # noqa: E741
    assert (I[near == near[0]] == -1).all()
    for q in range(len(queries)):
        np.testing.assert_array_equal(index.search_similar(queries[q], 5, nprobe=1)[2][0], S[q])


@pytest.mark.parametrize("retrains", ["a thread", "a process"])
def test_cells_of_a_codec_that_is_replaced_meanwhile_are_refused(retrains, tmp_path, monkeypatch):
    index = HiHPQIndex(D_IN, 4, 4, metric="l2", features="float32", device="cpu")
    index.train(X)
    index.add(X)
    index.save(tmp_path / "index")
    index = HiHPQIndex.load(tmp_path / "index", device="cpu")

    def learned(*args):
        monkeypatch.undo()
        cells = code_changes.learned_cells(*args)
        if retrains == "a thread":
            index.retrain(seed=5)
        else:
            HiHPQIndex.load(tmp_path / "index", device="cpu").retrain(seed=5)
            index.add(X[:1])  # shows the new codec
        return cells

    monkeypatch.setattr(code_changes, "learned_cells", learned)
    with pytest.raises(SnapshotChangedError, match="codec or its cells were replaced meanwhile"):
        index.make_cells(NLIST)
    stored = HiHPQIndex.load(tmp_path / "index", device="cpu")
    np.testing.assert_array_equal(stored.view().codes_of(np.arange(len(X))), stored.encode(X))


def test_an_index_that_is_trained_with_cells():
    index = HiHPQIVFIndex(D_IN, 4, NLIST, metric="l2", device="cpu")
    assert (index.nlist, index.is_trained) == (NLIST, False)
    index.train(X)
    index.add(X[:100])
    index.add(X[100:])
    other = HiHPQIVFIndex(D_IN, 4, NLIST, metric="l2", device="cpu")
    other.train(X)
    other.add(X)
    want = in_cells(index, QUERIES, X, np.arange(len(X)), 9, 2)
    for one in (index, other):
        assert one.nlist == NLIST
        assert_same(one.search(QUERIES, 9, nprobe=2), want)
    with pytest.raises(InvalidInputError, match="nlist is 12 for 11 vectors"):
        HiHPQIVFIndex(D_IN, 4, NLIST, device="cpu").train(X[:11])
    with pytest.raises(InvalidInputError, match="nlist is -1"):
        HiHPQIVFIndex(D_IN, 4, -1, device="cpu")
    with pytest.raises(InvalidInputError, match="nlist is 'auto'"):
        HiHPQIVFIndex(D_IN, 4, "auto", device="cpu")


def test_retraining_makes_cells_again():
    index = HiHPQIVFIndex(D_IN, 4, NLIST, 4, metric="l2", features="float32", device="cpu")
    index.train(X[:100])
    index.add(X)
    before = index.collection.held.cells.centroids
    index.retrain(seed=1)
    assert index.nlist == NLIST
    assert not np.array_equal(index.collection.held.cells.centroids, before)
    want = in_cells(index, QUERIES, X, np.arange(len(X)), 9, 2)
    assert_same(index.search(QUERIES, 9, nprobe=2), want)


@ONE
def test_copies_pickles_and_files_have_the_cells(index, tmp_path):
    want = index.search(QUERIES, 9, nprobe=2)
    memory = index.clone()
    index.save(tmp_path / "index")
    loaded = HiHPQIVFIndex.load(tmp_path / "index")
    for one in (memory, index, loaded, pickle.loads(pickle.dumps(loaded)), loaded.view()):
        assert_same(one.search(QUERIES, 9, nprobe=2), want)
    assert type(loaded) is HiHPQIVFIndex
    assert loaded.nlist == NLIST
    # Other cells, which another object sees once it refreshes.
    loaded.make_cells(5)
    assert (loaded.nlist, index.nlist) == (5, NLIST)
    assert_same(index.search(QUERIES, 9, nprobe=2), want)
    index.add(X[:3])
    assert index.nlist == 5
    index.make_cells(0)
    assert index.nlist == 0
    assert loaded.refresh()
    assert loaded.nlist == 0
    assert_same(loaded.search(QUERIES, 9), index.search(QUERIES, 9))
    assert loaded.collection._directory.manifest.version == 4  # it had another codec


@ONE
def test_what_cannot_be_probed_is_refused(index):
    for nprobe in (0, -1, 1.5, "2"):
        with pytest.raises(InvalidInputError, match="nprobe"):
            index.search(QUERIES, 3, nprobe=nprobe)
    with pytest.raises(InvalidInputError, match="nlist is 301 for 300 vectors"):
        index.make_cells(301)
    for nlist in ("many", -1, 1.5):
        with pytest.raises(InvalidInputError, match="nlist"):
            index.make_cells(nlist)
    index.make_cells(0)
    with pytest.raises(InvalidInputError, match="has no cells"):
        index.search(QUERIES, 3, nprobe=3)
    with pytest.raises(NotTrainedError):
        HiHPQIndex(D_IN, device="cpu").make_cells(3)
    index.make_cells("auto")
    assert index.nlist == 1


@ONE
def test_altered_files_of_cells_are_named(index, tmp_path):
    index.save(tmp_path / "index")
    (file,) = (tmp_path / "index").glob(f"*{CELLS_FILE}")
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CorruptIndexError, match="cells"):
        HiHPQIndex.load(tmp_path / "index")


def test_an_index_keeps_its_answers_as_it_changes(trained, tmp_path):
    """Whatever is done to it, its answers are those of brute force over its cells."""
    fresh, count = trained["l2"].codec, itertools.count()

    class Changes(RuleBasedStateMachine):
        @initialize(in_directory=st.booleans(), nlist=st.integers(1, NLIST))
        def begin(self, in_directory, nlist):
            self.index = HiHPQIndex.from_codec(fresh, device="cpu")
            self.index.add(X[:40])
            self.x = dict(enumerate(X[:40]))
            self.index.make_cells(nlist)
            if in_directory:
                self.index.save(tmp_path / str(next(count)))

        @rule(n=st.integers(1, 60), seed=st.integers(0, 99))
        def add(self, n, seed):
            x = X[np.random.default_rng(seed).integers(0, len(X), n)]
            ids = np.arange(self.index.next_id, self.index.next_id + n)
            self.index.add(x)
            self.x |= dict(zip(ids.tolist(), x, strict=True))

        @rule(step=st.integers(2, 5))
        def remove(self, step):
            ids = sorted(self.x)[::step]
            self.index.remove_ids(np.array(ids, np.int64))
            for id in ids:
                del self.x[id]

        @rule(seed=st.integers(0, 99))
        def update(self, seed):
            ids = np.array(sorted(self.x)[::3], np.int64)
            x = X[np.random.default_rng(seed).integers(0, len(X), len(ids))]
            self.index.update(x, ids)
            self.x |= dict(zip(ids.tolist(), x, strict=True))

        @rule(nlist=st.integers(0, 4))
        def merge(self, nlist):
            other = HiHPQIndex.from_codec(fresh, device="cpu")
            other.add(X[7:20])
            other.make_cells(nlist)
            first = self.index.next_id
            self.index.merge_from(other, add_id=first)
            self.x |= {first + i: x for i, x in enumerate(X[7:20])}

        @rule()
        def compact(self):
            self.index.collection.compact()

        @rule(nlist=st.integers(1, 5))
        def make_cells(self, nlist):
            if len(self.x) >= nlist:
                self.index.make_cells(nlist)

        @rule()
        def reload(self):
            if self.index.path:
                assert self.index.collection._directory.verify() == []
                self.index = HiHPQIndex.load(self.index.path, device="cpu")

        @invariant()
        def answers(self):
            ids = sorted(self.x)
            x = np.array([self.x[id] for id in ids], np.float32).reshape(-1, D_IN)
            assert self.index.ntotal == len(ids)
            few = QUERIES[:3]
            for nprobe in (1, 2, None):
                n = self.index.nlist if nprobe is None else nprobe
                want = in_cells(self.index, few, x, ids, 5, n) if ids else None
                found = self.index.search(few, 5, nprobe=nprobe)
                if want is None:
                    assert (found[1] == -1).all()
                else:
                    assert_same(found, want)

    quick = settings(
        max_examples=10,
        stateful_step_count=10,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Changes.TestCase.settings = quick
    Changes.TestCase().runTest()


@pytest.mark.parametrize(
    ("text", "metric", "rotation"),
    [
        ("IVF12,HiHPQ4x8", "l1", None),
        ("OPQ4_8,IVF12,PQ4", "l2", 8),
        ("IDMap,IVF12,PQ4", "l2", None),
    ],
)
def test_the_factory_makes_cells(text, metric, rotation):
    index = index_factory(D_IN, text, device="cpu")
    assert type(index) is HiHPQIVFIndex
    assert (index.nlist, index.M, index.metric) == (12, 4, metric)
    assert index._plain is None or index._plain.rotation == (rotation or 0)
    for wrong in ("IVF0,HiHPQ4", "IVF12HiHPQ4", "IVF,HiHPQ4", "IVF2000000,PQ4", "HiHPQ4,IVF12"):
        with pytest.raises(InvalidInputError, match=r"factory text is|nlist is"):
            index_factory(D_IN, wrong, device="cpu")
