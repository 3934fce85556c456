"""`HiHPQIndex` from training to a reopened directory; arguments of every kind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from index_tools import (
    D_IN,
    KINDS,
    QUERIES,
    SMALL,
    Unchanged,
    X,
    assert_same,
    brute_force,
    with_value,
)

import hyperpq
from hyperpq import HiHPQIndex
from hyperpq.codes import unpack
from hyperpq.errors import (
    InvalidInputError,
    NotTrainedError,
)


def test_from_training_to_a_reopened_directory(tmp_path):
    index = HiHPQIndex(D_IN, M=3, device="cpu")
    assert not index.is_trained
    assert "not trained" in repr(index)
    index.train(X, recipe=SMALL)
    assert index.is_trained
    assert index.ntotal == len(index) == 0
    index.add(X)
    assert index.ntotal == len(index) == 300
    assert repr(index) == (
        "HiHPQIndex(d=12, M=3, nbits=8, metric='l1', objective='semantic', ntotal=300)"
    )
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


HUGE = X.astype(np.float64)
HUGE[4, 2] = 1e300


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


@pytest.mark.parametrize(("x", "match"), BAD_X.values(), ids=BAD_X)
def test_bad_vectors(filled, x, match):
    for call in (filled.add, lambda x: filled.search(x, 3), filled.encode, filled.embed):
        # A single vector is a query, see test_a_single_vector_is_one_query.
        if x is not BAD_X["one vector"][0] or call == filled.add:
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
        ({"metric": "L2"}, "metric is 'L2'; expected 'l1', 'geodesic', 'chord', 'cosine', 'l2'"),
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
