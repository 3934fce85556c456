"""A recall as the target of a search: what it finds, and when it is measured and stored."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hyperpq import HiHPQIndex, HiHPQIVFIndex
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.index import recall as recall_module
from hyperpq.index.recall import RecallCurve
from hyperpq.index.recall_queries import mixed_queries

D, NLIST, N = 12, 40, 6000
RNG = np.random.default_rng(3)
CENTRES = RNG.normal(size=(60, D))


def drawn(n, seed):
    rng = np.random.default_rng(seed)
    x = CENTRES[rng.integers(0, len(CENTRES), n)] + 0.4 * rng.normal(size=(n, D))
    return x.astype(np.float32)


X, FRESH = drawn(N, 0), drawn(400, 1)
NO_ROWS = {"ids": [], "codes": []}
RECORD = {"vectors": 5, "nprobe": [1], "recall": [0.5], "sample": NO_ROWS}


def in_memory(features="none", metric="l2"):
    index = HiHPQIndex(D, 4, metric=metric, features=features, device="cpu")
    index.train(X[:2000])
    index.add(X)
    index.make_cells(NLIST)
    return index


@pytest.fixture
def measurements(monkeypatch):
    """The numbers of rows of the indexes that are measured."""
    counts, measured = [], RecallCurve._measured.__func__

    def counting(cls, rows, coder, cells):
        counts.append(rows.ntotal)
        return measured(cls, rows, coder, cells)

    monkeypatch.setattr(RecallCurve, "_measured", classmethod(counting))
    return counts


def curve_of(index):
    rows = index.collection.view()
    return RecallCurve.of(rows, rows.held.coder, rows.held.cells)


def shared(found, exact):
    return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact, strict=True)])


def nprobe_of(index, recall):
    """The number of cells of a recall, by the answer."""
    found = index.search(FRESH, 10, recall=recall)
    for nprobe in range(1, index.nlist + 1):
        if np.array_equal(index.search(FRESH, 10, nprobe=nprobe)[1], found[1]):
            return nprobe
    raise AssertionError("it is the answer of no nprobe")


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("features", ["none", "float16"])
def test_fresh_queries_have_nearly_the_recall(features, metric):
    index = in_memory(features, metric)
    exact = index.search(FRESH, 10)[1]
    before = 0
    for target in (0.5, 0.8, 0.9, 0.95, 0.99):
        nprobe, reached = (
            nprobe_of(index, target),
            shared(index.search(FRESH, 10, recall=target)[1], exact),
        )
        assert nprobe >= before
        before = nprobe
        assert reached > target - 0.03
    assert before < NLIST
    np.testing.assert_array_equal(index.search(FRESH, 10, recall=1)[1], exact)
    np.testing.assert_array_equal(index.search_similar(FRESH, 10, recall=1)[1], exact)


@pytest.mark.parametrize("M", [3, 8])
def test_directions_of_different_weight_have_nearly_the_recall(M):
    """What codes decode to lies in one cell with its results, and asks for one: a recall of .6."""

    def falling(n, seed):
        x = np.random.default_rng(seed).normal(size=(n, 24)) / (1 + np.arange(24)) ** 0.7
        return x.astype(np.float32)

    index = HiHPQIndex(24, M, metric="l2", device="cpu")
    index.train(falling(5000, 0))
    index.add(falling(20_000, 1))
    index.make_cells(64)
    x = falling(400, 2)
    exact = index.search(x, 10)[1]
    # With M = 3 and other samples of k-means, .71 to .86 are reached where .8 is asked for.
    for target in (0.8, 0.95, 0.99):
        assert shared(index.search(x, 10, recall=target)[1], exact) > target - 0.1


@pytest.mark.parametrize("rotation", [0, 8])
def test_mixed_queries_have_the_tables_of_their_vectors(rotation):
    index = HiHPQIndex(D, 4, 4, metric="l2", rotation=rotation, device="cpu")
    index.train(X[:2000])
    coder, codes = index.collection.held.coder, index.encode(X[:50])
    v, tables = mixed_queries(codes, coder)
    # Each row but for a constant.
    ours, exact = (
        t.astype(np.float64) - t.mean(2, keepdims=True) for t in (tables, coder.tables(v))
    )
    np.testing.assert_allclose(ours, exact, atol=1e-4 * np.abs(exact).max())
    assert not np.allclose(v, coder.decode(codes))
    np.testing.assert_array_equal(mixed_queries(codes, coder)[0], v)


@pytest.mark.parametrize("features", ["none", "float32"])
def test_the_curve_is_that_of_searches_of_cells(features):
    """Brute force: each sampled row searched for with every number of cells."""
    index = in_memory(features)
    curve = curve_of(index)
    assert curve.n == N
    assert curve.nprobe[:6] == (1, 2, 3, 4, 5, 6)
    assert curve.nprobe[-1] < NLIST
    rows = index.collection.view()
    ids = recall_module.sample_ids(rows)[::2]
    x = index.features_of(ids) if features == "float32" else None
    if x is None:
        # Plain codebooks decode to vectors, so mixtures of codewords can be searched for.
        x = mixed_queries(rows.codes_of(ids), rows.held.coder)[0]
    exact = [row[row != id][:10] for row, id in zip(index.search(x, 11)[1], ids, strict=True)]
    for nprobe, recall in zip(curve.nprobe, curve.recall, strict=True):
        found = index.search(x, 11, nprobe=nprobe)[1]
        found = [row[row != id][:10] for row, id in zip(found, ids, strict=True)]
        assert abs(shared(found, exact) - recall) <= 1e-4


def test_it_is_stored_with_cells_and_measured_after_growth(measurements, tmp_path):
    index = in_memory()
    index.save(tmp_path / "index")
    assert measurements == [N]
    curve = curve_of(index)

    loaded = HiHPQIndex.load(tmp_path / "index", device="cpu", read_only=True)
    stored = json.loads((tmp_path / "index" / "manifest.json").read_bytes())
    assert stored["settings"]["recall"] == curve.to_json()
    found = loaded.search(FRESH, 10, recall=0.9)[1]
    np.testing.assert_array_equal(found, index.search(FRESH, 10, recall=0.9)[1])
    assert measurements == [N]
    assert curve_of(loaded) == curve

    index.add(X[: N // 2 - 1])
    index.search(FRESH, 10, recall=0.9)
    assert measurements == [N]
    index.add(X[:1])
    for _ in range(2):
        index.search(FRESH, 10, recall=0.9)
    assert measurements == [N, N + N // 2]
    # A process that may not write measures for itself.
    loaded = HiHPQIndex.load(tmp_path / "index", device="cpu", read_only=True)
    assert curve_of(loaded) == curve_of(index) != curve
    assert len(measurements) == 3

    index.make_cells(5)
    assert measurements[3:] == [N + N // 2]
    assert curve_of(HiHPQIndex.load(tmp_path / "index", device="cpu")).nprobe == (1, 2, 3, 4)
    assert len(measurements) == 4
    index.make_cells(0)
    assert "recall" not in index.collection._directory.settings


def test_an_index_trained_with_cells_is_measured_when_it_is_saved(measurements, tmp_path):
    index = HiHPQIVFIndex(D, 4, 8, metric="l2", features="float16", device="cpu")
    index.train(X[:1000])
    assert (index.search(FRESH, 10, recall=0.9)[1] == -1).all()
    index.add(X)
    measurements.clear()
    index.save(tmp_path / "index")
    assert measurements == [N]
    assert index.collection.view().recall_curve == curve_of(index)
    # Other codes have other cells.
    before = curve_of(index)
    index.retrain(seed=1)
    assert index.collection.view().recall_curve == curve_of(index) != before
    assert index.search(FRESH, 10, recall=0.9)[1].shape == (len(FRESH), 10)
    assert measurements == [N, N]


@pytest.mark.parametrize("in_directory", [False, True])
def test_rows_that_are_replaced_are_measured_again(in_directory, measurements, tmp_path):
    """Their number says nothing: as many others can take their place."""
    index = in_memory()
    if in_directory:
        index.save(tmp_path / "index")
    measurements.clear()
    others = drawn(N, 7) * 0.1
    index.update(others[: N // 4], np.arange(N // 4))
    curve_of(index)
    assert measurements == []
    index.update(others[N // 4 : N // 2], np.arange(N // 4, N // 2))
    curve_of(index)
    assert measurements == [N]
    index.remove_ids(np.arange(N // 2))
    index.add(others[: N // 2])
    curve_of(index)
    assert measurements == [N, N]
    if not in_directory:
        assert not index.collection.store_recall()
        return
    # The figures in the directory are still those of the first rows.
    stored = index.collection.view().recall_curve
    assert stored != curve_of(index)
    assert not stored.holds_for(index.collection.view())
    assert index.compact()
    assert not index.compact()
    assert index.collection.view().recall_curve == curve_of(index)
    assert measurements == [N, N]
    HiHPQIndex.load(tmp_path / "index", device="cpu").search(FRESH, 10, recall=0.9)
    assert measurements == [N, N]


def test_recall_is_not_stored_beside_other_cells(monkeypatch, tmp_path):
    index = in_memory()
    index.save(tmp_path / "index")
    index.add(X)
    other = HiHPQIndex.load(tmp_path / "index", device="cpu")
    measured = RecallCurve._measured.__func__

    def meanwhile(cls, rows, coder, cells):
        curve = measured(cls, rows, coder, cells)
        if cells.nlist == NLIST:
            other.make_cells(7)
        return curve

    monkeypatch.setattr(RecallCurve, "_measured", classmethod(meanwhile))
    assert not index.collection.store_recall()
    assert index.nlist == 7
    assert index.collection.view().recall_curve.nprobe == (1, 2, 3, 4, 5, 6)


def test_what_is_no_recall_is_refused(tmp_path):
    index = HiHPQIVFIndex(D, 4, 8, metric="l2", device="cpu")
    index.train(X[:1000])
    for n in (0, 1, 11, 99):
        index.reset()
        index.add(X[:n])
        np.testing.assert_array_equal(
            index.search(FRESH, 3, recall=0.99)[1], index.search(FRESH, 3)[1]
        )
    for wrong in (0, -1, 1.01, float("nan"), "much"):
        with pytest.raises(InvalidInputError, match="recall is"):
            index.search(FRESH, 3, recall=wrong)
    with pytest.raises(InvalidInputError, match=r"nprobe is 2 and recall is 0\.9"):
        index.search(FRESH, 3, nprobe=2, recall=0.9)
    # The number of this object is for searches that ask for nothing.
    index.nprobe = 1
    np.testing.assert_array_equal(
        index.search(FRESH, 3, recall=1)[1], index.search(FRESH, 3, nprobe=8)[1]
    )
    index.save(tmp_path / "index")
    index.make_cells(0)
    for recall in (0.9, 1):
        with pytest.raises(InvalidInputError, match=r"recall is .*, but the index has no cells"):
            index.search(FRESH, 3, recall=recall)


@pytest.mark.parametrize(
    "record",
    [
        7,
        {"vectors": 5, "nprobe": [1]},
        {"vectors": 5, "nprobe": [1], "recall": [0.5]},
        {"vectors": -1, "nprobe": [1], "recall": [1.0], "sample": NO_ROWS},
        {"vectors": 5, "nprobe": [2, 1], "recall": [0.5, 1.0], "sample": NO_ROWS},
        {"vectors": 5, "nprobe": [1, 2], "recall": [0.5], "sample": NO_ROWS},
        {"vectors": 5, "nprobe": [1], "recall": [1.5], "sample": NO_ROWS},
        {"vectors": 5, "nprobe": 1, "recall": [1.0], "sample": NO_ROWS},
        {**RECORD, "sample": {"ids": [1], "codes": []}},
        {**RECORD, "sample": {"ids": [-1], "codes": [1]}},
        {**RECORD, "sample": {"ids": [1], "codes": [2**32]}},
        {**RECORD, "sample": [1]},
    ],
)
def test_another_record_is_named(record):
    with pytest.raises(CorruptIndexError, match=r"recall in manifest\.json"):
        RecallCurve.from_json(record, "i")


def test_what_was_written_is_read_again():
    assert RecallCurve.from_json(RECORD, "i").to_json() == RECORD
    curve = curve_of(in_memory())
    assert RecallCurve.from_json(json.loads(json.dumps(curve.to_json())), "i") == curve
