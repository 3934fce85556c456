"""Merging of answers: the answers for parts of the rows are the answer for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import scan
from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.scan import merge_range_results, merge_results, prepare

LEVELS = [name for name in scan.levels() if not name.startswith("HYPERPQ")]


def assert_same(found, want):
    for one, other in zip(found, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data())
def test_answers_of_parts_are_the_answer_of_the_whole(level, data):
    """Bit for bit, with sums that differ in float64 and are equal in float32."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, nq, k = data.draw(st.integers(0, 500)), data.draw(st.integers(0, 3)), 1 + rng.integers(40)
    tables = rng.normal(size=(nq, 3, 16)).astype(np.float32)
    if data.draw(st.booleans()):
        tables *= np.float32(0.02)
        tables[:, 0] += np.float32(1e6)
    rows = rng.integers(0, 16, (n, 2)).astype(np.uint8)
    ids, part = rng.permutation(n) * 5, rng.integers(0, data.draw(st.integers(1, 4)), n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(scan.LEVEL_VARIABLE, level)
        whole = scan.search(tables, rows, k, ids=ids)
        parts = [
            CodeSegment(prepare(rows[part == i]), np.ascontiguousarray(ids[part == i]))
            for i in range(4)
        ]
        found = [scan.search_segments(tables, [p], k + rng.integers(3)) for p in parts]
        assert_same(merge_results(found, k), whole)
        radius = whole[0][0, 0] if nq and n else 1.0
        radius += np.float32(data.draw(st.sampled_from([0, 0.3, np.inf])))
        near = [scan.range_search_segments(tables, [p], radius) for p in parts]
        assert_same(merge_range_results(near), scan.range_search(tables, rows, radius, ids=ids))
        # Merged step by step, in any order.
        steps = merge_results([merge_results(found[2:], k), *found[:2]], k)
        assert_same(steps, whole)


def pair(D, I):  # noqa: E741
    return np.array(D, np.float32), np.array(I, np.int64)


def test_padding_is_recognized_by_its_id():
    largest = np.finfo(np.float32).max
    first = pair([[1, largest, np.inf, np.inf]], [[5, 9, 7, -1]])
    # FAISS has the largest float32 where there is no result.
    second = pair([[largest, largest, largest, 0]], [[8, -1, -1, -1]])
    D, I = merge_results([first, second], 4)  # noqa: E741
    assert_same((D, I), pair([[1, largest, largest, np.inf]], [[5, 8, 9, 7]]))
    none = pair(np.full((1, 4), np.inf), np.full((1, 4), -1))
    assert_same(merge_results([none, first], 4), first)
    assert_same(merge_results([none, none], 4), none)


def test_inputs_are_left_alone_and_one_answer_is_itself():
    D, I = pair([[1, 7]], [[5, -1]])  # noqa: E741
    for array in (D, I):
        array.setflags(write=False)
    assert_same(merge_results([(D, I)], 2), pair([[1, np.inf]], [[5, -1]]))
    assert_same(merge_results(((D, I),), 1), pair([[1]], [[5]]))
    assert D[0, 1] == 7
    lims = np.array([0, 1, 2])
    assert_same(merge_range_results([(lims, D[0], I[0])]), (lims, D[0], I[0]))


A = pair([[1, 2]], [[1, 2]])
R = (np.array([0, 2]), *pair([1, 2], [1, 2]))


@pytest.mark.parametrize(
    ("results", "k", "message"),
    [
        ([], 2, "results is empty; expected the results of one index or more"),
        ([A], 0, "k is 0"),
        ([A, pair([[1, 2]] * 2, [[3, 4]] * 2)], 2, r"results\[1\] has 2 queries and .* has 1;"),
        ([A, pair([[1]], [[3]])], 2, r"results\[1\] has 1 results for each query; .* k = 2"),
        ([pair([1, 2], [1, 2])], 2, r"results\[0\] has D of shape \(2,\) .*expected \(nq, k\)"),
        ([pair([[1, 2]], [[1]])], 1, r"shape \(1, 2\) and I of shape \(1, 1\)"),
        ([A[::-1]], 2, "D of dtype int64 and I of dtype float32; expected float32 and int64"),
        ([A, pair([[np.nan, 2]], [[3, 4]])], 2, r"D of results\[1\] has NaN"),
        ([A, pair([[5, 9]], [[3, 1]])], 2, "results have the id 1 twice for query 0; .* no id"),
    ],
)
def test_wrong_results(results, k, message):
    with pytest.raises(InvalidInputError, match=message):
        merge_results(results, k)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "results is empty"),
        ([R, (np.array([0, 1, 2]), *pair([1, 2], [3, 4]))], r"results\[1\] has 2 queries"),
        ([(np.array([0, 1]), *R[1:])], r"lims of results\[0\] are int64 \(2,\); .* from 0 to 2"),
        ([(np.array([0, 3, 2]), *R[1:])], "ascend from 0 to 2"),
        ([(np.array([0.0, 2.0]), *R[1:])], "lims of .* are float64"),
        ([(np.empty(0, int), *pair([], []))], r"\(nq \+ 1,\)"),
        ([(R[0], *pair([[1, 2]], [[1, 2]]))], r"expected \(n,\) for both"),
        ([R, R], "results have the id 1 twice for query 0"),
    ],
)
def test_wrong_range_results(results, message):
    with pytest.raises(InvalidInputError, match=message):
        merge_range_results(results)


def test_an_id_may_be_in_the_results_of_several_queries():
    both = pair([[1, 2], [1, 2]], [[1, 2], [2, 1]])
    assert_same(merge_results([both], 2), both)
    lims = np.array([0, 1, 2])
    assert_same(merge_range_results([(lims, *pair([1, 2], [7, 7]))])[1:], pair([1, 2], [7, 7]))
