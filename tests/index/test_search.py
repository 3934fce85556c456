"""Search against a brute force: distances, ids and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_tools import (
    D_IN,
    KINDS,
    QUERIES,
    X,
    assert_same,
    brute_force,
    make_x,
)

from hyperpq import HiHPQIndex
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import InvalidInputError


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


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_query_whose_distances_overflow_is_named_too_large(metric):
    words = np.random.default_rng(0).normal(size=(4, 16, 2)).astype(np.float32)
    index = HiHPQIndex.from_codec(PQCodec.from_codebooks(words, metric=metric), device="cpu")
    index.add(words[:, :9].transpose(1, 0, 2).reshape(9, 8))
    queries = np.ones((3, 8), np.float32)
    queries[1] = 3e38
    named = r"^a query is too large, with values of up to 3e\+38: .* expected smaller values\.$"
    with pytest.raises(InvalidInputError, match=named):
        index.search(queries, 1)
    with pytest.raises(InvalidInputError, match=named):
        index.range_search(queries, 1.0)
    assert (index.search(queries[::2], 1)[1] >= 0).all()
