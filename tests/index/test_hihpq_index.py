"""`HiHPQIndex` from training to a reopened directory, against a float64 brute force."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperpq
from hyperpq import HiHPQIndex, HyperPQError
from hyperpq.codec.serialization import to_files
from hyperpq.codes import unpack
from hyperpq.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    InvalidInputError,
    NotTrainedError,
    StoreError,
    TrainingError,
)
from hyperpq.store import IndexStore, Rows
from hyperpq.training.recipe import Recipe
from hyperpq.utils.files import checksum

D_IN = 12
SMALL = Recipe().replace(width=12, subspaces=4, epochs=2, warmup_epochs=1, batch=64, levels=(20, 5))


def make_x(n=300, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(25, D_IN)) * 2
    return (centers[rng.integers(0, 25, n)] + rng.normal(size=(n, D_IN))).astype(np.float32)


X, QUERIES = make_x(), make_x(7, seed=1)
KINDS = [
    (3, 8, "l1"),
    (3, 8, "geodesic"),
    (3, 8, "chord"),
    (3, 4, "l1"),
    (4, 4, "chord"),
    (1, 8, "l1"),
]


@pytest.fixture(scope="module")
def codecs():
    """One trained codec of each kind."""
    out = {}
    for M, nbits, metric in KINDS:
        index = HiHPQIndex(D_IN, M, nbits, metric=metric, device="cpu")
        index.train(X, recipe=SMALL)
        out[M, nbits, metric] = index.codec
    return out


@pytest.fixture
def make(codecs):
    """Make an index with a trained codec, empty or filled."""

    def build(x=None, ids=None, kind=KINDS[0]):
        index = HiHPQIndex(D_IN, kind[0], kind[1], metric=kind[2], device="cpu")
        index.codec = codecs[kind]
        if x is not None:
            index.add(x, ids)
        return index

    return build


def brute_force(index, queries, x, ids, k):
    """Sum of table entries of each row in float64, by (metric, id)."""
    tables = index.codec.tables(queries).astype(np.float64)
    codes = unpack(index.encode(x), index.M, index.nbits)
    D = np.full((len(queries), k), np.inf, np.float32)
    I = np.full((len(queries), k), -1, np.int64)  # noqa: E741
    for q in range(len(queries)):
        rows = []
        for row, label in zip(codes, np.asarray(ids).tolist(), strict=True):
            total = 0.0
            for m in range(index.M):
                total += tables[q, m, row[m]]
            rows.append((total, label))
        for rank, (total, label) in enumerate(sorted(rows)[:k]):
            D[q, rank], I[q, rank] = total, label
    return D, I


def assert_same(found, want):
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], want[1])
    np.testing.assert_array_equal(found[0], want[0])


def test_from_training_to_a_reopened_directory(tmp_path):
    index = HiHPQIndex(D_IN, M=3, device="cpu")
    assert not index.is_trained
    assert "not trained" in repr(index)
    index.train(X, recipe=SMALL)
    assert index.is_trained
    assert index.ntotal == len(index) == 0
    index.add(X)
    assert index.ntotal == len(index) == 300
    assert repr(index) == "HiHPQIndex(d=12, M=3, nbits=8, metric='l1', ntotal=300)"
    found = index.search(QUERIES, 10)
    assert_same(found, brute_force(index, QUERIES, X, range(300), 10))
    index.metadata = {"made": "here"}
    index.save(tmp_path / "i")
    assert index.path == tmp_path / "i"
    assert f"path='{tmp_path / 'i'}'" in repr(index)
    assert_same(index.search(QUERIES, 10), found)
    again = HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True)
    assert (again.d, again.M, again.nbits, again.metric, again.ntotal) == (D_IN, 3, 8, "l1", 300)
    assert again.metadata == {"made": "here"}
    assert_same(again.search(QUERIES, 10), found)
    np.testing.assert_array_equal(again.encode(X), index.encode(X))
    np.testing.assert_array_equal(again.reconstruct(7), index.reconstruct(7))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("k", [1, 13, 300, 340])
def test_search_is_the_brute_force(make, kind, k):
    index = make(X, kind=kind)
    assert index.code_size == index.encode(X).shape[1] == -(-kind[0] * kind[1] // 8)
    D, I = index.search(QUERIES, k)  # noqa: E741
    assert_same((D, I), brute_force(index, QUERIES, X, range(300), k))
    assert (np.diff(D[:, :300], axis=1) >= 0).all()
    if k > 300:
        assert (I[:, 300:] == -1).all()
        assert np.isposinf(D[:, 300:]).all()


@given(
    n=st.integers(0, 60),
    pieces=st.lists(st.integers(0, 60), max_size=3),
    k=st.integers(1, 70),
    nq=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    own_ids=st.booleans(),
)
@settings(max_examples=30)
def test_pieces_ids_and_ties(make, n, pieces, k, nq, seed, own_ids):
    rng = np.random.default_rng(seed)
    # Few different rows: many exact ties, which the ids decide.
    x = X[rng.integers(0, 6, n)] if seed % 2 else make_x(n, seed)
    ids = rng.choice(2**62, n, replace=False) if own_ids else np.arange(n)
    whole, parts = make(x, ids if own_ids else None), make()
    cuts = sorted(min(p, n) for p in pieces)
    for some, labels in zip(np.split(x, cuts), np.split(ids, cuts), strict=True):
        parts.add(some, labels if own_ids else None)
    queries = make_x(nq, seed + 1)
    found = whole.search(queries, k)
    assert_same(found, brute_force(whole, queries, x, ids, k))
    assert_same(parts.search(queries, k), found)
    assert parts.ntotal == n


def test_ties_are_ordered_by_id(make):
    index = make(np.repeat(X[:1], 6, 0), [50, 3, 2**62, 7, 0, 11])
    D, I = index.search(QUERIES[:2], 4)  # noqa: E741
    np.testing.assert_array_equal(I, [[0, 3, 7, 11]] * 2)
    assert (D[:, :1] == D).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_answer(make, threads):
    index = make(X)
    assert_same(index.search(QUERIES, 20, threads=threads), index.search(QUERIES, 20))


def test_more_queries_than_a_block(make, monkeypatch):
    index = make(X)
    want = index.search(QUERIES, 5)
    monkeypatch.setattr("hyperpq.index.search._QUERY_BATCH", 3)
    D, I = index.search(QUERIES, 5)  # noqa: E741
    np.testing.assert_array_equal(I, want[1])
    np.testing.assert_allclose(D, want[0], rtol=1e-5, atol=1e-6)


def test_empty_index_and_no_queries(make, tmp_path):
    index = make()
    for _ in range(2):
        D, I = index.search(QUERIES, 3)  # noqa: E741
        assert (I == -1).all()
        assert np.isposinf(D).all()
        assert index.search(np.empty((0, D_IN)), 3)[0].shape == (0, 3)
        index.add(np.empty((0, D_IN)))
        assert index.ntotal == 0
        index.save(tmp_path / "empty")
    again = HiHPQIndex.load(tmp_path / "empty", device="cpu")
    assert again.ntotal == 0
    assert again.search(QUERIES, 2)[1].shape == (7, 2)
    again.add(X)
    assert HiHPQIndex.load(tmp_path / "empty", device="cpu").ntotal == 300


def variants(x):
    wide = np.repeat(x, 2, 1)
    locked = x.copy()
    locked.setflags(write=False)
    return {
        "float64": x.astype(np.float64),
        "big endian": x.astype(">f4"),
        "Fortran order": np.asfortranarray(x),
        "strided": wide[:, ::2],
        "reversed": x[::-1].copy()[::-1],
        "read-only": locked,
        "list": x.tolist(),
        "torch": torch.tensor(x),
        "torch float64": torch.tensor(x, dtype=torch.float64),
        "torch transposed": torch.tensor(x.T.copy()).T,
        "memmap": np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    }


def test_every_kind_of_array_gives_the_same_index(make):
    index = make(X)
    found = index.search(QUERIES, 10)
    for name, other in variants(X).items():
        again = make(other)
        np.testing.assert_array_equal(again.encode(other), index.encode(X), err_msg=name)
        assert_same(again.search(variants(QUERIES)[name], 10), found)


@pytest.mark.parametrize("dtype", ["f2", "i2", ">i8", "u1", "?"])
def test_other_dtypes_are_their_float32(make, dtype):
    x = np.abs(X * 20).astype(dtype)
    index, exact = make(x), make(x.astype(np.float32))
    assert_same(index.search(x[:5], 9), exact.search(x[:5].astype(np.float32), 9))
    trained = HiHPQIndex(D_IN, 2, device="cpu")
    trained.train(x, recipe=SMALL.replace(epochs=0))
    assert trained.encode(x).shape == (300, 2)


def test_training_takes_the_same_kinds(tmp_path):
    files = []
    for x in (X, X.astype(np.float64), np.asfortranarray(X), torch.tensor(X), X.astype(">f4")):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(x, recipe=SMALL)
        files.append(to_files(index.codec))
    assert all(other == files[0] for other in files)


def test_another_length_fitted_to_other_features():
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    index = HiHPQIndex(16, M=2, device="cpu")
    index.train(x, epochs=1, holdout_check=False)
    for bits, fitted_to, sample in ((32, x[:200] + 1, 200), (8, None, 400)):
        other = index.with_bits(bits, x=fitted_to)
        assert (other.ntotal, other.code_size, len(other.codec.sample)) == (0, bits // 8, sample)
        other.add(x)
        assert other.search(x[:5], 3)[1].shape == (5, 3)


def test_own_views_are_used(tmp_path):
    def trained(views):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(X, views, recipe=SMALL, holdout_check=False)
        return to_files(index.codec)

    noise = np.random.default_rng(0).normal(size=(3, *X.shape)) * 0.2
    assert trained(X + noise) == trained((X + noise).astype(np.float32).tolist())
    assert trained(X + noise) != trained(None)
    assert trained((X + noise)[:1]) != trained((X + noise)[1:2])


def test_views_of_some_rows():
    def trained(views, view_rows, **changes):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(X, views, view_rows=view_rows, recipe=SMALL, holdout_check=False, **changes)
        return to_files(index.codec)

    views = X + np.random.default_rng(0).normal(size=(3, *X.shape)) * 0.2
    everything, some = trained(views, None), np.arange(100, 200)
    assert trained(views, np.arange(len(X))) == everything
    # Which rows they belong to counts, their order doesn't.
    parts = trained(views[:, some], some)
    assert parts != everything
    assert parts != trained(views[:, some], some + 1)
    # Without a graph nothing but views is drawn: whose they are doesn't count.
    alone = trained(views[:, some], some, graph_neighbours=0, walk_steps=0)
    assert alone == trained(views[:, some], some + 1, graph_neighbours=0, walk_steps=0)
    assert alone != parts


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"view_rows": [0, 1]}, "view_rows are given without views"),
        ({"views": X[None, :2], "view_rows": [0, 300]}, "view_rows contains 300"),
        ({"views": X[None, :2], "view_rows": [-1, 0]}, "view_rows contains -1"),
        ({"views": X[None, :2], "view_rows": [1, 1]}, "view_rows contains a row twice"),
        ({"views": X[None, :2], "view_rows": [1, 2, 3]}, r"expected \(V, 3, 12\)"),
        ({"views": X[None, :2], "view_rows": [0.5, 1]}, "view_rows has .* dtype float64"),
        ({"views": X[None, :0], "view_rows": []}, "view_rows has shape"),
    ],
)
def test_view_rows_that_do_not_fit(options, match):
    with pytest.raises(InvalidInputError, match=match):
        HiHPQIndex(D_IN, 2, device="cpu").train(X, recipe=SMALL, **options)


@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("n", [1, 2, 10, 255])
def test_few_images_give_a_working_index(n, nbits, tmp_path):
    x = make_x(n, seed=n)
    index = HiHPQIndex(D_IN, 4, nbits, device="cpu")
    index.train(x, epochs=2)
    index.add(x)
    D, I = index.search(x, 3)  # noqa: E741
    assert np.isfinite(D[:, : min(n, 3)]).all()
    assert (I[:, min(n, 3) :] == -1).all()
    # Each image is the nearest to itself: always with as many codewords, mostly with 16.
    itself = (I[:, 0] == np.arange(n)).mean()
    assert itself == 1 if n <= 10 else itself > 0.8
    index.save(tmp_path / "i")
    assert_same(HiHPQIndex.load(tmp_path / "i", device="cpu").search(x, 3), (D, I))


def test_encode_decode_reconstruct(make):
    for kind in KINDS:
        index = make(X, np.arange(300) * 5, kind=kind)
        codes = index.encode(X)
        decoded = index.decode(codes)
        q = index.codec.quantizer
        assert decoded.shape == index.embed(X).shape == (300, q.M * q.D)
        words = q.decode(torch.tensor(unpack(codes, q.M, q.nbits).copy())).flatten(1)
        np.testing.assert_array_equal(decoded, words)
        for row in (0, 17, 299):
            np.testing.assert_array_equal(index.reconstruct(row * 5), decoded[row])
        np.testing.assert_array_equal(index.reconstruct(np.int64(5)), decoded[1])


def test_a_removed_row_is_gone(make, tmp_path):
    index = make(X, np.arange(300) + 10)
    index.save(tmp_path / "i")
    nearest = int(index.search(X[:1], 1)[1][0, 0])
    assert index.remove_ids([nearest, nearest, 5]) == 1
    assert index.ntotal == 299
    left = np.delete(np.arange(300), nearest - 10)
    want = brute_force(index, QUERIES, X[left], left + 10, 300)
    again = HiHPQIndex.load(tmp_path / "i", device="cpu")
    for one in (index, again):
        assert_same(one.search(QUERIES, 300), want)
        with pytest.raises(InvalidInputError, match="no vector"):
            one.reconstruct(nearest)
    # Its id is free again.
    again.add(X[:1], [nearest])
    assert again.ntotal == 300
    np.testing.assert_array_equal(again.reconstruct(nearest), again.decode(again.encode(X[:1]))[0])


def test_ids_count_on_from_the_highest(make):
    index = make(X[:3])
    index.add(X[3:4], [100])
    index.add(X[4:6])
    index.add(X[6:7], [50])
    index.add(X[7:8])
    found = index.search(X[:1], 8)[1][0]
    assert sorted(found.tolist()) == [0, 1, 2, 50, 100, 101, 102, 103]


def test_ids_at_the_end_of_int64(make, tmp_path):
    index = make(X[:2], [2**63 - 1, 2**63 - 2])
    for _ in range(2):
        assert set(index.search(X[:1], 2)[1][0].tolist()) == {2**63 - 1, 2**63 - 2}
        with pytest.raises(InvalidInputError, match="pass ids of your own"):
            index.add(X[:1])
        index.save(tmp_path / "i")
    index.add(X[:1], [0])
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 3


# Wrong input.

HUGE = X.astype(np.float64)
HUGE[4, 2] = 1e300


def with_value(value):
    x = X.copy()
    x[3, 1] = value
    return x


BAD_X = {
    "nan": (with_value(np.nan), "x has NaN.*row 3"),
    "inf": (with_value(-np.inf), "x has NaN.*row 3"),
    "too large": (HUGE, "x has NaN, infinite or too large values, first in row 4"),
    "wide": (np.zeros((2, 13)), "x has width 13; expected 12"),
    "no width": (np.zeros((2, 0)), "x has width 0"),
    "one vector": (X[0], r"x has shape \(12,\).*x\[None\]"),
    "three dimensions": (X[None], r"x has shape \(1, 300, 12\)"),
    "strings": (X.astype(str), "x has dtype <U"),
    "objects": (X.astype(object), "x has dtype object"),
    "complex": (X.astype(complex), "x has dtype complex128"),
    "ragged": ([[1.0] * 12, [1.0] * 11], "x cannot be read as an array"),
    "none": (None, "x has dtype object"),
}
BAD_K = [0, -1, 1.0, 2.5, "3", None, True, np.nan, [1]]
BAD_IDS = {
    "twice": ([1000, 1001, 1000], "contain 1000 twice"),
    "in the index": ([1000, 299, 1001], "contain 299, which the index has already"),
    "negative": ([1000, -1, 1001], "contain -1"),
    "too few": ([1000, 1001], r"shape \(2,\); expected \(3,\)"),
    "nested": ([[1000], [1001], [1002]], r"shape \(3, 1\)"),
    "floats": ([1000.0, 1001.0, 1002.0], "dtype float64"),
    "strings": (["a", "b", "c"], "dtype <U1"),
    "ragged": ([[1], [2, 3], []], "cannot be read as an array"),
    "too large": (np.array([1, 2, 2**63], np.uint64), "9223372036854775808"),
}


class Unchanged:
    """Checks that a block raised one clear error and left an index as it was."""

    def __init__(self, index, kind=InvalidInputError, match=""):
        self.index, self.raises = index, pytest.raises(kind, match=match)

    def state(self):
        return self.index.ntotal, self.index.next_id, *self.index.search(QUERIES, 12)

    def __enter__(self):
        self.before = self.state()
        self.caught = self.raises.__enter__()
        return self.caught

    def __exit__(self, *error):
        swallowed = self.raises.__exit__(*error)
        assert isinstance(self.caught.value, HyperPQError)
        assert "\n" not in str(self.caught.value)
        for old, new in zip(self.before, self.state(), strict=True):
            np.testing.assert_array_equal(old, new)
        return swallowed


@pytest.fixture(params=["memory", "disk"])
def filled(request, make, tmp_path):
    index = make(X)
    if request.param == "disk":
        index.save(tmp_path / "filled")
    return index


@pytest.mark.parametrize(("x", "match"), BAD_X.values(), ids=BAD_X)
def test_bad_vectors(filled, x, match):
    for call in (filled.add, lambda x: filled.search(x, 3), filled.encode, filled.embed):
        with Unchanged(filled, match=match):
            call(x)


@pytest.mark.parametrize(("x", "match"), BAD_X.values(), ids=BAD_X)
def test_bad_training_vectors(x, match):
    index = HiHPQIndex(D_IN, 2, device="cpu")
    with pytest.raises(InvalidInputError, match=match):
        index.train(x, recipe=SMALL)
    assert not index.is_trained


@pytest.mark.parametrize("k", BAD_K, ids=str)
def test_bad_k_and_threads(filled, k):
    with Unchanged(filled, match="k is .*at least 1"):
        filled.search(QUERIES, k)
    if k is not None:
        with Unchanged(filled, match="threads is .*at least 1"):
            filled.search(QUERIES, 3, threads=k)


@pytest.mark.parametrize(("ids", "match"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_ids(filled, ids, match):
    with Unchanged(filled, match="^ids .*" + match):
        filled.add(X[:3], ids)


@pytest.mark.parametrize("id", [300, -1, 2**70, 1.0, "7", None, [1, 2], True], ids=str)
def test_bad_id_to_reconstruct(filled, id):
    with Unchanged(filled, match="^id is "):
        filled.reconstruct(id)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((2, 3), np.int64),
        np.zeros((2, 2), np.uint8),
        np.zeros(3, np.uint8),
        [[0, 0, 0]],
        "codes",
    ],
    ids=["int64", "narrow", "one", "list", "text"],
)
def test_bad_codes(filled, codes):
    with Unchanged(filled, match="codes have dtype"):
        filled.decode(codes)


def test_trained_once_filled(filled):
    with Unchanged(filled, TrainingError, "train a new index"):
        filled.train(X, recipe=SMALL)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"views": np.zeros((2, 299, 12))}, r"views have shape \(2, 299, 12\)"),
        ({"views": np.zeros((300, 12))}, "views have shape"),
        ({"views": np.zeros((0, 300, 12))}, "views have shape"),
        ({"views": np.stack([X, with_value(np.nan)])}, r"views\[1\] has NaN.*row 3"),
        ({"views": np.stack([X]).astype(str)}, r"views\[0\] has dtype <U"),
        ({"views": [[1], [1, 2]]}, "views cannot be read"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": 2**70}, "seed is 11"),
        ({"recipe": "best"}, "recipe is 'best'"),
        ({"epoch": 3}, "no epoch"),
        ({"epochs": "3"}, "epochs is '3'"),
    ],
    ids=str,
)
def test_bad_training_options(options, match):
    index = HiHPQIndex(D_IN, 2, device="cpu")
    with pytest.raises(InvalidInputError, match=match) as caught:
        index.train(X, **{"recipe": SMALL, **options})
    assert "\n" not in str(caught.value)
    assert not index.is_trained


def test_nothing_to_train_on():
    index = HiHPQIndex(D_IN, 2, device="cpu")
    with pytest.raises(InvalidInputError, match="rows of x is 0"):
        index.train(X[:0])


def test_a_failed_training_keeps_the_codec(make):
    index = make()
    before = index.codec
    with pytest.raises(TrainingError):
        index.train(X, recipe=SMALL, lr=1e6)
    assert index.codec is before


def test_untrained(tmp_path):
    index = HiHPQIndex(D_IN, device="cpu")
    for call in (
        lambda: index.add(X),
        lambda: index.search(X, 3),
        lambda: index.encode(X),
        lambda: index.embed(X),
        lambda: index.decode(np.zeros((1, 4), np.uint8)),
        lambda: index.reconstruct(0),
        lambda: index.save(tmp_path / "i"),
    ):
        with pytest.raises(NotTrainedError, match="call train"):
            call()
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"d": 0}, "d is 0"),
        ({"d": 1.5}, "d is 1.5"),
        ({"d": "8"}, "d is '8'"),
        ({"M": 0}, "M is 0"),
        ({"M": 2.0}, "M is 2.0"),
        ({"nbits": 6}, "nbits is 6; expected 8"),
        ({"nbits": 16}, "nbits is 16"),
        ({"nbits": 8.0}, "nbits is 8.0"),
        ({"metric": "cosine"}, "metric is 'cosine'; expected 'l1', 'geodesic', 'chord' or 'inner'"),
        ({"metric": None}, "metric is None"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
    ids=str,
)
def test_bad_construction(options, match):
    with pytest.raises(InvalidInputError, match=match):
        HiHPQIndex(**{"d": 8, "device": "cpu", **options})


def test_numpy_integers_are_taken(tmp_path):
    index = HiHPQIndex(np.int64(D_IN), np.int32(2), np.uint8(8), device="cpu")
    index.train(X, recipe=SMALL, seed=np.int64(3), epochs=np.int64(1))
    index.add(X)
    index.save(tmp_path / "i")
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 300


# On disk.


def test_add_after_load_is_durable_and_rewrites_nothing(make, tmp_path):
    make(X[:200]).save(tmp_path / "i")
    first = (tmp_path / "i/shards/000000.h5").read_bytes()
    index = HiHPQIndex.load(tmp_path / "i", device="cpu")
    index.add(X[200:260])
    index.add(X[260:], np.arange(1000, 1040))
    again = HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True)
    ids = [*range(260), *range(1000, 1040)]
    want = brute_force(index, QUERIES, X, ids, 300)
    assert_same(again.search(QUERIES, 300), want)
    assert_same(index.search(QUERIES, 300), want)
    assert again.next_id == 1040
    # A large shard stays, small ones behind it are joined.
    assert (tmp_path / "i/shards/000000.h5").read_bytes() == first
    assert [s.codes.n for s in again.collection.view().code_segments()] == [200, 60, 40]


def test_add_is_stored_when_the_process_is_killed(make, tmp_path):
    make(X[:10]).save(tmp_path / "i")
    script = (
        "import os, sys, numpy as np\n"
        "from hyperpq import HiHPQIndex\n"
        "index = HiHPQIndex.load(sys.argv[1], device='cpu')\n"
        "index.add(np.ones((5, 12)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "i")], check=False)
    assert done.returncode == -9
    assert HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True).ntotal == 15


def test_saving_where_it_lies_writes_nothing(make, tmp_path):
    index = make(X)
    index.save(tmp_path / "i")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")}
    index.save(tmp_path / "i")
    index.save(str(tmp_path / "j/../i"), overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")} == before


def test_saving_elsewhere_leaves_the_first_place(make, tmp_path):
    index = make(X[:100])
    index.save(tmp_path / "a")
    index.save(tmp_path / "b")
    index.add(X[100:])
    # The index stays where it was: the second save wrote a copy.
    assert index.path == tmp_path / "a"
    assert HiHPQIndex.load(tmp_path / "a", device="cpu").ntotal == 300
    assert HiHPQIndex.load(tmp_path / "b", device="cpu").ntotal == 100


def test_overwrite_replaces_an_index_and_nothing_else(make, tmp_path):
    make(X[:50]).save(tmp_path / "i")
    index = make(X)
    with Unchanged(index, StoreError, "already an index"):
        index.save(tmp_path / "i")
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 50
    index.save(tmp_path / "i", overwrite=True)
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 300
    assert os.listdir(tmp_path) == ["i"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_or_file_stays(make, tmp_path, overwrite):
    folder, file = tmp_path / "photos", tmp_path / "file"
    folder.mkdir()
    (folder / "cat.jpg").write_text("a cat")
    file.write_text("a file")
    for place in (folder, file):
        index = make(X)
        with Unchanged(index, StoreError, place.name):
            index.save(place, overwrite=overwrite)
        assert index.path is None
    assert (folder / "cat.jpg").read_text() == "a cat"
    assert file.read_text() == "a file"
    assert sorted(os.listdir(tmp_path)) == ["file", "photos"]


def test_overwrite_keeps_an_index_with_a_foreign_file_in_it(make, tmp_path):
    make(X[:50]).save(tmp_path / "i")
    (tmp_path / "i/cat.jpg").write_text("a cat")
    index = make(X)
    with Unchanged(index, StoreError, "cat.jpg"):
        index.save(tmp_path / "i", overwrite=True)
    assert index.path is None
    assert os.listdir(tmp_path) == ["i"]
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 50


@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_are_free(make, tmp_path, monkeypatch, overwrite):
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (tmp_path / "empty", tmp_path / "a/b/c", ".", "relative"):
        make(X).save(place, overwrite=overwrite)
        assert HiHPQIndex.load(place, device="cpu").ntotal == 300
        if place == ".":
            for name in ("manifest.json", "codec.json", "codec.safetensors"):
                assert (tmp_path / "here" / name).is_file()
            monkeypatch.chdir(tmp_path)


def test_overwrite_through_a_link(make, tmp_path):
    (tmp_path / "far").mkdir()
    make(X[:9]).save(tmp_path / "far/i")
    (tmp_path / "link").symlink_to(tmp_path / "far/i")
    make(X).save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert HiHPQIndex.load(tmp_path / "far/i", device="cpu").ntotal == 300
    assert os.listdir(tmp_path / "far") == ["i"]


def test_a_full_disk_leaves_the_index_and_the_place(make, tmp_path, monkeypatch):
    index = make(X)

    def full(*args, **options):
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(IndexStore, "commit", full)
        with Unchanged(index, StoreError, "no space"):
            index.save(tmp_path / "i")
        assert index.path is None
        # What has no rows must not look like an index.
        assert not (tmp_path / "i").exists()
    index.save(tmp_path / "i")
    with monkeypatch.context() as patch:
        patch.setattr(IndexStore, "commit", full)
        with Unchanged(index, StoreError, "no space"):
            index.add(X)
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 300


def test_loading_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in ("gone", "folder"):
        with pytest.raises(IndexNotFoundError, match=place):
            HiHPQIndex.load(tmp_path / place)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("codec.safetensors", lambda data: data[:-1]),
        ("codec.safetensors", lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
        ("codec.json", lambda data: data.replace(b'"score": "l1"', b'"score": "l2"')),
        ("codec.json", lambda data: b""),
        ("manifest.json", lambda data: data.replace(b'"M":3', b'"M":2')),
        ("manifest.json", lambda data: data[: len(data) // 2]),
        ("manifest.json", lambda data: b"{}"),
        ("shards/000000.h5", lambda data: data[:-1]),
    ],
)
def test_a_damaged_file_is_named(make, tmp_path, file, damage):
    make(X).save(tmp_path / "i")
    path = tmp_path / "i" / file
    data = path.read_bytes()
    assert damage(data) != data
    path.write_bytes(damage(data))
    with pytest.raises(StoreError, match=path.name) as caught:
        HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["codec.safetensors", "codec.json", "shards/000000.h5"])
def test_a_missing_file_is_named(make, tmp_path, file):
    make(X).save(tmp_path / "i")
    (tmp_path / "i" / file).unlink()
    with pytest.raises(CorruptIndexError, match=os.path.basename(file)):
        HiHPQIndex.load(tmp_path / "i", device="cpu")


def test_altered_codes_are_found_by_verify(make, tmp_path):
    make(X).save(tmp_path / "i")
    path = tmp_path / "i/shards/000000.h5"
    data = bytearray(path.read_bytes())
    data[data.index(make().encode(X)[:9, 0].tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="checksum"):
        HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True)


def forge(path, edit):
    """Change a manifest as somebody would who knows the format."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    edit(manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    manifest["checksum"] = checksum(text)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    (path / "manifest.json").write_bytes(text + b"\n")


def test_forging_works(make, tmp_path):
    make(X).save(tmp_path / "i")
    before = (tmp_path / "i/manifest.json").read_bytes()
    forge(tmp_path / "i", lambda manifest: None)
    assert (tmp_path / "i/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"M": 4}, "disagree"),
        ({"d": 13}, "disagree"),
        ({"nbits": 4}, "disagree"),
        ({"score": "chord"}, "disagree"),
        ({"score": None}, "disagree"),
        ({"metadata": [1, 2]}, "metadata"),
        ({"metadata": "text"}, "metadata"),
    ],
    ids=str,
)
def test_settings_that_disagree_with_the_codec(make, tmp_path, settings, match):
    make(X).save(tmp_path / "i")
    forge(tmp_path / "i", lambda manifest: manifest["settings"].update(settings))
    with pytest.raises(CorruptIndexError, match=match):
        HiHPQIndex.load(tmp_path / "i", device="cpu")


def test_a_codec_of_another_size_is_refused(make, tmp_path):
    """The codec files of one index with the shards of another."""
    three, four = tmp_path / "three", tmp_path / "four"
    make(X).save(three)
    other = make(X, kind=(4, 4, "chord"))
    settings = {"d": D_IN, "M": 4, "nbits": 4, "score": "chord"}
    store = IndexStore.create(four, settings=settings, files=to_files(other.codec))
    store.commit(append=[Rows(np.zeros((5, 3), np.uint8), np.arange(5))])
    with pytest.raises(CorruptIndexError, match="codes of another size than 2"):
        HiHPQIndex.load(four, device="cpu")


def test_metadata_that_json_cannot_hold(make, tmp_path):
    index = make(X)
    index.metadata = {"made": "here"}
    for value in ({"a": {1, 2}}, {"a": float("nan")}, {"a": b"bytes"}, [1], "text", None):
        with Unchanged(index, InvalidInputError, "metadata"):
            index.metadata = value
        assert index.metadata == {"made": "here"}


def test_importing_hyperpq_does_not_import_torch():
    script = (
        "import sys, hyperpq\n"
        "heavy = {'torch', 'faiss', 'onnxruntime', 'h5py', 'PIL', 'geoopt'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert hyperpq.__version__ and set(dir(hyperpq)) >= set(hyperpq.__all__)\n"
        "hyperpq.HiHPQIndex\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    for name in hyperpq.__all__:
        assert getattr(hyperpq, name) is not None
    with pytest.raises(AttributeError, match="HiHPQindex"):
        _ = hyperpq.HiHPQindex
