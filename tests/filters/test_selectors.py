"""Selectors of ids against FAISS's own, asked id by id."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.errors import InvalidInputError
from hyperpq.filters import selectors
from hyperpq.filters.where import Where

INT64 = np.iinfo(np.int64)
small = st.integers(-20, 140)
ids = small | st.integers(-(2**63), 2**63 - 1)
arrays = st.lists(ids, max_size=30)
bitmaps = st.binary(max_size=16).map(lambda data: np.frombuffer(data, np.uint8))


def leaves():
    """Pairs (hyperpq's selector, FAISS's); the latter with what it doesn't keep alive itself."""
    return st.one_of(
        st.builds(
            lambda a, b: (selectors.IDSelectorRange(a, b), faiss.IDSelectorRange(a, b)), ids, ids
        ),
        arrays.map(
            lambda v: (
                selectors.IDSelectorArray(v),
                faiss.IDSelectorArray(np.array(v, np.int64)),
            )
        ),
        arrays.map(
            lambda v: (
                selectors.IDSelectorBatch(np.array(v, np.int64)),
                faiss.IDSelectorBatch(np.array(v, np.int64)),
            )
        ),
        bitmaps.map(lambda b: (selectors.IDSelectorBitmap(b), faiss.IDSelectorBitmap(b))),
        st.lists(st.booleans(), max_size=99).map(
            lambda v: (
                selectors.IDSelectorBitmap(np.array(v, bool)),
                faiss.IDSelectorBitmap(np.packbits(np.array(v, bool), bitorder="little")),
            )
        ),
        st.builds(lambda: (selectors.IDSelectorAll(), faiss.IDSelectorAll())),
    )


def joined(pairs):
    def two(name):
        return st.builds(
            lambda a, b: (
                getattr(selectors, name)(a[0], b[0]),
                getattr(faiss, name)(a[1], b[1]),
                a,
                b,
            ),
            pairs,
            pairs,
        )

    return st.one_of(
        pairs.map(lambda a: (selectors.IDSelectorNot(a[0]), faiss.IDSelectorNot(a[1]), a)),
        two("IDSelectorAnd"),
        two("IDSelectorOr"),
        two("IDSelectorXOr"),
    )


@given(st.recursive(leaves(), joined, max_leaves=4), st.lists(ids, max_size=60, unique=True))
def test_members_are_those_of_faiss(pair, asked):
    ours, theirs, *_ = pair
    asked = np.array(sorted(asked), np.int64)
    want = [bool(theirs.is_member(int(id))) for id in asked]
    got = ours.mask(asked)
    assert got.dtype == bool
    assert got.tolist() == want
    assert [ours.is_member(int(id)) for id in asked[:5]] == want[:5]


@pytest.mark.parametrize("wanted", [0, 7, 300, 5000])
def test_many_ids_in_a_large_segment(wanted):
    """Whichever is the longer, the ids that are asked for or those of the segment."""
    rng = np.random.default_rng(wanted)
    held = np.unique(rng.integers(0, 4000, 1500))
    given_ids = rng.integers(-50, 5000, wanted)
    want = np.isin(held, given_ids)
    np.testing.assert_array_equal(selectors.IDSelectorBatch(given_ids).mask(held), want)
    bits = np.zeros(5000, bool)
    bits[given_ids[given_ids >= 0]] = True
    np.testing.assert_array_equal(selectors.IDSelectorBitmap(bits).mask(held), want)


def test_what_is_given_is_copied():
    given_ids, bits = np.array([3, 1]), np.array([1], np.uint8)
    batch, bitmap = selectors.IDSelectorBatch(given_ids), selectors.IDSelectorBitmap(bits)
    given_ids[:], bits[:] = 9, 0
    assert batch.is_member(3)
    assert bitmap.is_member(0)


def test_ids_outside_of_a_bitmap():
    asked = np.array([-9, -1, 0, 7, 8, 2**63 - 1])
    want = [False, False, True, True, False, False]
    assert selectors.IDSelectorBitmap(np.array([255], np.uint8)).mask(asked).tolist() == want
    assert not selectors.IDSelectorBitmap(np.empty(0, np.uint8)).mask(asked).any()


def test_repeats_and_unsigned_ids():
    batch = selectors.IDSelectorBatch(np.array([5, 5, 2**63 - 1], np.uint64))
    asked = np.array([4, 5, 2**63 - 1])
    assert batch.mask(asked).tolist() == [False, True, True]


ALL = selectors.IDSelectorAll()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: selectors.IDSelectorRange(0.5, 3), "imin is 0.5; expected an integer"),
        (lambda: selectors.IDSelectorRange(0, 2**63), "imax is 9223372036854775808; .* at most"),
        (lambda: selectors.IDSelectorRange(True, 3), "imin is True"),
        (lambda: selectors.IDSelectorArray([[1]]), r"ids have shape \(1, 1\) and dtype int64"),
        (lambda: selectors.IDSelectorArray([1.0]), "dtype float64; expected integers"),
        (lambda: selectors.IDSelectorBatch(["a"]), "expected integers"),
        (lambda: selectors.IDSelectorBatch([[1], [2, 3]]), "ids cannot be read as an array"),
        (lambda: selectors.IDSelectorBatch(5), r"ids have shape \(\)"),
        (lambda: selectors.IDSelectorBatch(np.array([2**63], np.uint64)), "largest id is 2"),
        (lambda: selectors.IDSelectorBitmap([1, 0]), "dtype int64; expected uint8"),
        (lambda: selectors.IDSelectorBitmap(np.zeros((2, 2), bool)), r"shape \(2, 2\)"),
        (lambda: selectors.IDSelectorNot(5), "sel is 5; expected an IDSelector of hyperpq"),
        (lambda: selectors.IDSelectorAnd(None, ALL), "lhs is None"),
        (lambda: selectors.IDSelectorXOr(ALL, faiss.IDSelectorAll()), "rhs is .*IDSelectorAll"),
        (lambda: ALL.is_member("x"), "id is 'x'"),
        (lambda: ALL.is_member(2**63), "id is 9223372036854775808"),
        (lambda: selectors.SearchParameters([1, 2]), r"sel is \[1, 2\]"),
        (lambda: selectors.SearchParameters(where="width >"), "where: character 7"),
        (lambda: selectors.SearchParameters(where=5), "where is 5; expected a condition"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_search_parameters():
    told = selectors.SearchParameters(sel=ALL, where="width > 5")
    assert told.where == Where("width > 5")
    assert told == selectors.SearchParameters(ALL, Where("width > 5"))
    assert told != selectors.SearchParameters(ALL)
    assert selectors.SearchParameters().where is None
    assert repr(selectors.SearchParameters(ALL)) == (
        "SearchParameters(sel=IDSelectorAll(), where=None)"
    )


def test_search_parameters_are_assigned_as_in_faiss():
    """FAISS's own tests make them without arguments and set ``sel``."""
    for names in (selectors, faiss):
        params = names.SearchParameters()
        params.sel = names.IDSelectorRange(2, 5)
        assert params.sel.is_member(4)
    told = selectors.SearchParameters()
    told.where = "width > 5"
    assert told.where == Where("width > 5")
    assert told == selectors.SearchParameters(where="width > 5")
    told.sel = told.where = None
    assert told == selectors.SearchParameters()
    for name, value, message in (
        ("sel", [1, 2], r"sel is \[1, 2\]"),
        ("sel", faiss.IDSelectorAll(), "sel is .*expected an IDSelector of hyperpq"),
        ("where", 5, "where is 5; expected a condition"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            setattr(told, name, value)
    assert told == selectors.SearchParameters()
    with pytest.raises(AttributeError):
        told.nprobe = 3
    with pytest.raises(TypeError):
        hash(told)


def test_parameters_that_are_assigned_during_a_search_do_not_reach_it():
    told = selectors.SearchParameters(ALL)
    used = selectors.as_parameters(told, None)
    told.sel = selectors.IDSelectorArray([3])
    assert used.sel == ALL


def test_ranges_take_the_third_argument_of_faiss():
    for flag in (True, False, np.True_):
        ours = selectors.IDSelectorRange(3, 7, flag)
        theirs = faiss.IDSelectorRange(3, 7, bool(flag))
        asked = np.arange(10)
        assert ours.mask(asked).tolist() == [theirs.is_member(int(id)) for id in asked]
        assert ours == selectors.IDSelectorRange(imin=3, imax=7, assume_sorted=False)
    with pytest.raises(InvalidInputError, match="assume_sorted is 5; expected True or False"):
        selectors.IDSelectorRange(3, 7, 5)
