"""Similarity: the scale that an index gives, and copies, which are 100 and come first."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from index_tools import D_IN, SMALL, make_x

from hyperpq import HiHPQIndex, IDSelectorRange, SearchParameters
from hyperpq.codec import FeatureCodec
from hyperpq.errors import InvalidInputError, NotTrainedError

RNG = np.random.default_rng(0)
X, QUERIES = make_x(300), make_x(40, seed=1)
CODECS = ["l1", "nibbles", "fidelity", "l2", "ip"]
KINDS = ["int8", "float16", "float32"]


@pytest.fixture
def make(trained):
    """Make an index with a trained codec and some rows."""

    def build(codec="l1", features="int8", x=X, **columns):
        source = trained[codec].codec
        index = HiHPQIndex.from_codec(source, device="cpu", features=features)
        index.add(x, **columns)
        return index

    return build


def check_answers(index, queries, k, **where):
    """Check what every search must fulfil; return its answers."""
    D, I, S = index.search_similar(queries, k, **where)  # noqa: E741
    near, ids = index.search(queries, index.ntotal or 1, **where)
    assert D.shape == I.shape == S.shape == (len(queries), k)
    assert (D.dtype, I.dtype, S.dtype) == (np.float32, np.int64, np.float64)
    found = I >= 0
    np.testing.assert_array_equal(np.isinf(D), ~found)
    assert np.isnan(S[~found]).all()
    for q in range(len(queries)):
        n = found[q].sum()
        assert n == min(k, (ids[q] >= 0).sum())
        copies = S[q] == 100 if index.has_features else np.zeros(k, bool)
        assert copies[: copies.sum()].all()
        # The distances are those of a search; rows that are no copies come in its order.
        distance = dict(zip(ids[q].tolist(), near[q].tolist(), strict=True))
        assert [distance[id] for id in I[q, :n].tolist()] == D[q, :n].tolist()
        others = ids[q][~np.isin(ids[q], I[q, copies])]
        np.testing.assert_array_equal(I[q, copies.sum() : n], others[: n - copies.sum()])
        if index.calibration is not None:
            assert ((S[q, :n] >= 0) & (S[q, :n] <= 100)).all()
            assert (np.diff(S[q, :n]) <= 0).all()
    return D, I, S


@pytest.mark.parametrize("codec", ["l1", "fidelity"])
def test_queries_of_another_kind_are_like_nothing(make, codec):
    index = make(codec)
    assert 0 < index.calibration.like < index.calibration.unlike
    S = index.search_similar(make_x(100, seed=8), 1)[2]
    other = np.random.default_rng(3).normal(size=(100, D_IN)).astype(np.float32)
    other -= other @ np.linalg.pinv(X[:4]) @ X[:4]
    D, _, far = index.search_similar(other, 1)
    assert (far < np.median(S)).mean() > 0.9
    np.testing.assert_array_equal(index.similarity(other, D), far)
    # One row that is like the query is enough, whether or not a filter selects it.
    index.add(other[:1])
    near = other[:1] * np.float32(1.001)
    S = index.search_similar(near, 2)[2]
    assert S[0, 0] >= 95
    only = SearchParameters(IDSelectorRange(0, 300))
    D, _, S = index.search_similar(near, 2, params=only)
    np.testing.assert_array_equal(index.similarity(near, D), S)
    without = make(codec, "none")
    assert without.calibration.like is None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("features", ["none", "int8", "float32"])
def test_answers_are_those_of_a_search(make, codec, features):
    index = make(codec, features, attributes={"row": np.arange(300)})
    for k in (1, 10, 320):
        check_answers(index, QUERIES[:6], k)
    check_answers(index, QUERIES[:6], 10, where="row < 15")
    check_answers(index, QUERIES[:6], 10, params=SearchParameters(IDSelectorRange(200, 210)))


@pytest.mark.parametrize("codec", CODECS)
def test_a_row_is_its_own_copy(make, codec):
    index = make(codec)
    _, I, S = check_answers(index, X, 3)  # noqa: E741
    np.testing.assert_array_equal(I[:, 0], np.arange(300))
    assert (S[:, 0] == 100).all()
    assert (S[:, 1:] <= 99).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", CODECS)
def test_a_copy_is_found_among_many_rows_of_one_code(make, codec, kind):
    # Rows with the code of a query whose features differ by more than the error of int8.
    query = X[7:8]
    index = make(codec, kind, x=X[20:])
    encoded = index.encoded(query)
    crowd = query + np.random.default_rng(0).normal(size=(200, D_IN)).astype(np.float32) * 0.05
    index.collection.add(
        encoded.codes.repeat(200, 0), features=FeatureCodec(kind, D_IN).encode(crowd)
    )
    index.add(np.concatenate([query, X[:5], query]))
    copies = [480, 486]
    _, I, S = check_answers(index, query, 10)  # noqa: E741
    assert I[0, :2].tolist() == copies
    assert S[0, :2].tolist() == [100, 100]
    assert S[0, 2] <= 99
    _, I, S = index.search_similar(query, 1)  # noqa: E741
    assert (I[0, 0], S[0, 0]) == (copies[0], 100)
    # A filter holds for copies, too.
    only = SearchParameters(IDSelectorRange(0, copies[0]))
    assert (index.search_similar(query, 10, params=only)[2] <= 99).all()


def test_many_copies_fill_the_results_in_the_order_of_their_ids(make):
    index = make(x=np.concatenate([X[:50], np.repeat(X[3:4], 3000, 0)]))
    _, I, S = index.search_similar(X[3:4], 5)  # noqa: E741
    assert I.tolist() == [[3, 50, 51, 52, 53]]
    assert (S == 100).all()


def test_copies_survive_learning_anew(trained):
    index = HiHPQIndex(D_IN, 4, features="int8", device="cpu")
    index.train(X[:150], recipe=SMALL)
    index.add(X)
    before = index.calibration
    index.retrain(seed=1)
    assert index.calibration != before
    _, I, S = check_answers(index, X, 2)  # noqa: E741
    np.testing.assert_array_equal(I[:, 0], np.arange(300))
    assert (S[:, 0] == 100).all()


@pytest.mark.parametrize("codec", ["l1", "fidelity", "l2"])
def test_an_altered_vector_is_more_similar_than_a_random_one(make, codec):
    index = make(codec)
    altered = X[:50] + np.random.default_rng(2).normal(size=(50, D_IN)).astype(np.float32) * 0.05
    _, I, S = index.search_similar(altered, 300)  # noqa: E741
    own = S[np.arange(50)[:, None] == I]
    assert np.median(own) >= 95
    assert np.median(S) <= 40
    assert (own > np.median(S, axis=1)).all()


@pytest.mark.parametrize("codec", CODECS)
def test_answers_do_not_depend_on_batch_and_threads(make, codec):
    index = make(codec)
    queries = np.concatenate([QUERIES, X[:20]])
    want = index.search_similar(queries, 12, threads=1)
    one_by_one = [index.search_similar(query, 12) for query in queries]
    for found in (
        index.search_similar(queries, 12, threads=3),
        map(np.concatenate, zip(*one_by_one, strict=True)),
        index.view().search_similar(queries, 12),
        pickle.loads(pickle.dumps(index)).search_similar(queries, 12),
    ):
        for one, other in zip(found, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_narrower_search_is_the_beginning_of_a_wider_one(make):
    index = make("nibbles", x=np.concatenate([X, X[:30], X[:30]]))
    wide = index.search_similar(X[:40], 100)
    for k in (1, 2, 7):
        for narrow, whole in zip(index.search_similar(X[:40], k), wide, strict=True):
            np.testing.assert_array_equal(narrow, whole[:, :k])


@pytest.mark.parametrize("features", ["none", "int8"])
def test_distances_have_similarities(make, features):
    index = make(features=features)
    D, _, S = index.search_similar(QUERIES, 8)
    np.testing.assert_array_equal(index.similarity(QUERIES, D), S)
    D[:, 5:] = np.inf
    assert np.isnan(index.similarity(QUERIES, D)[:, 5:]).all()
    # A distance alone does not show a copy.
    D = index.search(X[:3], 1)[0]
    np.testing.assert_array_equal(
        index.similarity(X[:3], D), np.full((3, 1), 99 if features == "int8" else 100)
    )
    with pytest.raises(InvalidInputError, match=r"shape \(3, 1\); expected .* \(40, k\)"):
        index.similarity(QUERIES, D)
    with pytest.raises(InvalidInputError, match="D has dtype <U1"):
        index.similarity(X[0], [["a"]])


@pytest.mark.parametrize("codec", CODECS)
def test_without_features_its_own_code_is_100(make, codec, tmp_path):
    index = make(codec, "none")
    index.save(tmp_path / "old")
    index = HiHPQIndex.load(tmp_path / "old", device="cpu", read_only=True)
    assert index.calibration is not None
    assert index.calibration.like is None
    _, I, S = check_answers(index, X, 300)  # noqa: E741
    assert (S[np.arange(300)[:, None] == I] == 100).all()
    if codec != "ip":
        assert 30 <= np.median(S[:, 1]) <= 100
        assert np.median(S) <= 20


@pytest.mark.parametrize("features", ["none", "int8"])
def test_few_or_equal_rows_have_no_scale(make, features):
    few, equal = make(features=features, x=X[:19]), make(features=features, x=X[[3] * 40])
    for index in (few, equal):
        assert index.calibration is None
        _, I, S = check_answers(index, X[3:4], 4)  # noqa: E741
        assert I[0, 0] == (3 if index is few else 0)
        copies = 0 if features == "none" else 1 if index is few else 4
        assert (S[0, :copies] == 100).all()
        assert np.isnan(S[0, copies:]).all()
        assert np.isnan(index.similarity(X[3], [[1.0]])).all()
    few.add(X[19:20])
    assert few.calibration.n == 20


def test_empty_searches(make, trained):
    index = make(x=X[:0])
    assert index.calibration is None
    check_answers(index, QUERIES[:2], 3)
    index = make(attributes={"row": np.arange(300)})
    check_answers(index, QUERIES[:0], 3)
    assert (check_answers(index, QUERIES[:2], 3, where="row > 999")[1] == -1).all()
    index.remove_ids(np.arange(300))
    assert index.calibration is None
    assert (index.search_similar(X[:2], 3)[1] == -1).all()
    with pytest.raises(NotTrainedError):
        HiHPQIndex(D_IN, device="cpu").search_similar(X[:1], 3)


def test_an_index_of_format_3_has_similarities(tmp_path):
    source = Path(__file__).parents[1] / "data/format-3"
    shutil.copytree(source, tmp_path / "index")
    index = HiHPQIndex.load(tmp_path / "index", device="cpu")
    queries = RNG.normal(size=(30, index.d)).astype(np.float32)
    check_answers(index, queries, 5)
    like = index.attributes_of(RNG.choice(index.ids, 30))
    index.collection.add(index.encode(queries), attributes=like)
    assert index.calibration.like is None
    _, _, S = check_answers(index, queries, 5)
    assert (S[:, 0] == 100).all()
