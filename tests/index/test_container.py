"""An index as a container of vectors by id, its codes, its sizes, and arrays for results."""

from __future__ import annotations

import numpy as np
import pytest
from index_tools import D_IN, QUERIES, Unchanged, X, assert_same

from hyperpq import HiHPQIndex, HyperPQError
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import InvalidInputError, NotTrainedError, UnknownIdError
from hyperpq.filters.selectors import IDSelectorRange, SearchParameters
from hyperpq.progress import SilentProgress


def test_ids_are_members_and_are_iterated(filled):
    assert 0 in filled
    assert np.int32(299) in filled
    for absent in (300, -1, 2**63 - 1, 2**70, -(2**70)):
        assert absent not in filled
    filled.remove_ids([5])
    assert 5 not in filled
    assert list(filled) == [i for i in range(300) if i != 5]
    assert all(type(id) is int for id in filled)
    assert len(filled) == 299
    view = filled.collection.view()
    assert (len(view), list(view), 5 in view, 6 in view) == (299, list(filled), False, True)


def test_what_cannot_be_an_id_is_not_in_an_index(filled):
    assert 6 in filled
    for wrong in ("6", "a", 6.0, None, [1, 2], (6,), {}, True, np.timedelta64(6), -1, 2**70):
        assert wrong not in filled
        assert wrong not in filled.collection.view()
    # Of several ids the question is which ones.
    with pytest.raises(InvalidInputError, match=r"id is .*expected an integer; .* np.isin"):
        np.array([6, 7]) in filled  # noqa: B015


def test_ids_that_are_none_name_the_selectors_of_hyperpq(filled):
    class Foreign:
        def __repr__(self):
            return "Foreign(0, 3)"

    named = r"ids are Foreign\(0, 3\); expected .* such as hyperpq.IDSelectorRange\(0, 3\)"
    for condition in ({}, {"where": "id > 1"}):
        with Unchanged(filled, InvalidInputError, named):
            filled.remove_ids(Foreign(), **condition)
    assert filled.remove_ids(IDSelectorRange(0, 3)) == 3


def test_a_slice_of_ids_names_the_array_to_give(filled):
    with Unchanged(filled, InvalidInputError, r"give np.arange\(start, stop\)"):
        del filled[30:40]
    with pytest.raises(InvalidInputError, match=r"give np.arange\(start, stop\)"):
        filled[30:40]
    assert filled[np.arange(30, 40)].shape == (10, D_IN)
    del filled[np.arange(30, 40)]
    assert len(filled) == 290


def test_an_id_gives_its_vector(filled):
    np.testing.assert_array_equal(filled[7], filled.reconstruct(7))
    np.testing.assert_array_equal(filled[[9, 7, 9]], filled.reconstruct_batch([9, 7, 9]))
    np.testing.assert_array_equal(filled[np.int64(7)], filled[7])
    assert filled[[]].shape == (0, filled[7].size)
    for unknown in (300, [1, 300]):
        with pytest.raises(KeyError, match=r"^id is 300; the index has no vector with it"):
            filled[unknown]
    for wrong in (slice(3), slice(None), "7", None, 1.5, -1, [[1]], True):
        with pytest.raises(InvalidInputError, match=r"^ids? "):
            filled[wrong]


def test_deleting_an_id(filled):
    del filled[3]
    del filled[[5, 4, 5]]
    assert filled.ntotal == 297
    assert not {3, 4, 5} & set(filled)
    for unknown in (3, [6, 3]):
        with Unchanged(filled, UnknownIdError, "id is 3; the index has no vector with it"):
            del filled[unknown]
    with Unchanged(filled, InvalidInputError, "id is slice"):
        del filled[:2]
    # By its other name an id that is not there is no error, as in FAISS.
    assert filled.remove_ids([3, 6]) == 1


def test_an_unknown_id_is_an_error_of_three_kinds(filled):
    for call in (
        lambda: filled[300],
        lambda: filled.reconstruct(300),
        lambda: filled.codes_of([0, 300]),
        lambda: filled.attributes_of([300]),
        lambda: filled.update(X[:1], [300]),
    ):
        for kind in (KeyError, InvalidInputError, ValueError, UnknownIdError):
            with pytest.raises(kind) as caught:
                call()
            assert isinstance(caught.value, HyperPQError)
            assert str(caught.value).startswith("id is 300; the index")


def test_codes_in_and_out(filled):
    codes = filled.sa_encode(X)
    np.testing.assert_array_equal(codes, filled.encode(X))
    np.testing.assert_array_equal(filled.sa_decode(codes), filled.decode(codes))
    assert filled.sa_code_size() == filled.code_size == codes.shape[1]
    np.testing.assert_array_equal(filled.codes_of([4, 299, 4]), codes[[4, 299, 4]])
    filled.add_sa_codes(codes[:10], np.arange(1000, 1010))
    filled.add_sa_codes(codes[10:12])
    assert filled.ids.tolist() == [*range(300), *range(1000, 1012)]
    np.testing.assert_array_equal(filled.codes_of(np.arange(1000, 1012)), codes[:12])
    np.testing.assert_array_equal(filled.reconstruct(1003), filled.reconstruct(3))
    codes[:] = 0
    np.testing.assert_array_equal(filled.codes_of([1000]), filled.encode(X[:1]))
    for wrong, ids, match in (
        (codes[:2], [0, 2000], "ids contain 0, which the index has already"),
        (codes[:2], [2000], "ids have shape"),
        (codes[:2].astype(int), None, "codes have dtype int64"),
        (codes[:2, :-1], None, "codes have dtype uint8 and shape"),
        (X[:2], None, "codes have dtype float32"),
    ):
        with Unchanged(filled, InvalidInputError, match):
            filled.add_sa_codes(wrong, ids)
    with Unchanged(filled, InvalidInputError, "attributes are number; expected none"):
        filled.add_sa_codes(codes[:2], attributes={"number": [1, 2]})
    with pytest.raises(NotTrainedError):
        HiHPQIndex(D_IN, device="cpu").add_sa_codes(codes)


def test_a_search_returns_the_codes(filled):
    params = SearchParameters(IDSelectorRange(0, 4))
    for options in ({}, {"params": params}):
        D, I, codes = filled.search_and_return_codes(QUERIES, 6, **options)  # noqa: E741
        assert_same((D, I), filled.search(QUERIES, 6, **options))
        assert (codes.dtype, codes.shape) == (np.uint8, (7, 6, filled.code_size))
        there = I >= 0
        np.testing.assert_array_equal(codes[there], filled.codes_of(I[there]))
        assert (codes[~there] == 255).all()


def test_results_are_written_to_given_arrays(filled):
    k = 310
    want = filled.search_and_reconstruct(QUERIES, k)
    codes = filled.search_and_return_codes(QUERIES, k)[2]
    D, I = np.zeros((7, k), np.float32), np.zeros((7, k), np.int64)  # noqa: E741
    found = filled.search(QUERIES, k, D=D, I=I)
    assert found[0] is D
    assert found[1] is I
    assert_same(found, want[:2])
    # Not in one piece, and only one of them.
    wide = np.zeros((7, 2 * k), np.float32)
    found = filled.search(QUERIES, k, D=wide[:, ::2])
    assert_same(found, want[:2])
    assert not wide[:, 1::2].any()
    R, C = np.zeros_like(want[2]), np.zeros_like(codes)
    assert filled.search_and_reconstruct(QUERIES, k, D=D, I=I, R=R)[2] is R
    assert filled.search_and_return_codes(QUERIES, k, D=D, I=I, codes=C)[2] is C
    np.testing.assert_array_equal(R, want[2])
    np.testing.assert_array_equal(C, codes)


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("D", np.zeros((7, 4), np.float32), r"D is float32 of shape \(7, 4\).*float32.*\(7, 5\)"),
        ("D", np.zeros((7, 5)), "D is float64"),
        ("D", [[0.0] * 5] * 7, "D is of .*list"),
        ("I", np.zeros((7, 5), np.int32), "I is int32.*expected int64"),
        ("I", np.broadcast_to(np.int64(0), (7, 5)), "I is read-only"),
    ],
)
def test_arrays_that_do_not_fit_the_results(filled, name, array, match):
    with Unchanged(filled, InvalidInputError, match):
        filled.search(QUERIES, 5, **{name: array})


def test_queries_may_lie_in_the_array_of_the_distances(make):
    """Later batches of queries are still there when the first results are written."""
    index, queries = make(X), np.repeat(QUERIES, 100, 0)
    want = index.search(queries, D_IN)
    memory = queries.copy()
    assert_same(index.search(memory, D_IN, D=memory), want)


def test_a_single_vector_is_one_query(filled):
    """As in hnswlib and usearch; FAISS has an assertion against it."""
    one, batch = QUERIES[2], QUERIES[2:3]
    for other in (one, one.tolist(), one.astype(np.float64)):
        assert_same(filled.search(other, 4), filled.search(batch, 4))
    assert filled.search(one, 4)[0].shape == (1, 4)
    for call in (
        lambda x: filled.range_search(x, 1e9),
        lambda x: filled.search_and_reconstruct(x, 3),
        lambda x: filled.search_and_return_codes(x, 3),
        lambda x: (filled.encode(x), filled.embed(x), filled.sa_encode(x)),
    ):
        for found, want in zip(call(one), call(batch), strict=True):
            np.testing.assert_array_equal(found, want)
    for wrong in (one[:-1], np.append(one, 1)):
        with Unchanged(filled, InvalidInputError, "x has shape .*expected one vector"):
            filled.search(wrong, 3)


class Steps(SilentProgress):
    """What is reported."""

    def __init__(self):
        super().__init__()
        self.steps, self.phases = [], []

    def _open(self, name, total, unit):
        self.phases.append((name, total, unit))
        return self

    def advance(self, n=1, **facts):
        self.steps.append(n)


def test_progress_of_add_and_search(make, monkeypatch):
    monkeypatch.setattr("hyperpq.index.encoded._BATCH", 128)
    monkeypatch.setattr("hyperpq.index.search._QUERY_BATCH", 3)
    index, plain, adding = make(), make(X), Steps()
    index.add(X, progress=adding)
    assert (adding.phases, adding.steps) == ([("add", 300, "vectors")], [128, 128, 44])
    np.testing.assert_array_equal(index.codes_of(index.ids), plain.codes_of(plain.ids))
    # Still one transaction.
    assert index.collection.n_segments == 1
    for call in (
        lambda p: index.search(QUERIES, 5, progress=p),
        lambda p: index.range_search(QUERIES, 3.0, progress=p),
        lambda p: index.search_and_reconstruct(QUERIES, 5, progress=p),
        lambda p: index.search_and_return_codes(QUERIES, 5, progress=p),
    ):
        steps = Steps()
        for found, want in zip(call(steps), call(None), strict=True):
            np.testing.assert_array_equal(found, want)
        assert (steps.phases, steps.steps) == ([("search", 7, "queries")], [3, 3, 1])


def test_sizes_of_an_index(filled):
    stats = filled.stats()
    assert (stats.rows, stats.deleted_rows, stats.segments) == (300, 0, 1)
    assert (stats.code_size, stats.next_id, stats.attributes) == (filled.code_size, 300, ())
    assert (stats.id_bytes, stats.attribute_bytes, stats.path_bytes) == (2400, 0, 0)
    # On disk the last block of 64 rows is padded.
    assert stats.code_bytes == filled.code_size * (320 if filled.path else 300)
    assert filled.nbytes == stats.nbytes == stats.code_bytes + 2400
    assert (stats.path, stats.snapshot) == (filled.path, filled.collection.snapshot)
    with pytest.raises(AttributeError):
        stats.rows = 5
    filled.remove_ids([1, 2])
    stats = filled.stats()
    assert (stats.rows, stats.deleted_rows) == (298, 2 if filled.path else 0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_sizes_of_columns_and_paths(make, tmp_path, on_disk):
    index = make()
    if on_disk:
        index.save(tmp_path / "i")
    assert (index.nbytes, index.stats().segments) == (0, 0)
    index.collection.add(
        index.encode(X[:64]),
        attributes={"number": np.arange(64, dtype=np.int32), "word": ["a"] * 32 + ["bc"] * 32},
        paths=[b"/abc"] * 64,
    )
    stats = index.stats()
    # int32 of two columns, and offsets and bytes of two labels.
    assert stats.attribute_bytes == 64 * 4 * 2 + 3 * 8 + 3
    assert stats.path_bytes == 65 * 8 + 64 * 4
    assert stats.attributes == ("number", "word")
    assert index.nbytes == 64 * index.code_size + 64 * 8 + stats.attribute_bytes + stats.path_bytes


def test_the_number_of_a_metric_is_that_of_faiss(make):
    faiss = pytest.importorskip("faiss")
    words = np.random.default_rng(0).normal(size=(3, 256, 4)).astype(np.float32)
    for metric, number in (("l2", faiss.METRIC_L2), ("ip", faiss.METRIC_INNER_PRODUCT)):
        codec = PQCodec.from_codebooks(words, metric=metric)
        assert HiHPQIndex.from_codec(codec, device="cpu").metric_type == number
    for metric in ("l1", "geodesic", "chord"):
        assert HiHPQIndex(D_IN, 3, metric=metric, device="cpu").metric_type is None
