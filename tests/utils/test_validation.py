"""Checks of input: everything that numpy takes as numbers goes in, all else is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.utils.validation import as_count, as_features, as_ids, as_queries

X = np.arange(12).reshape(4, 3)


@pytest.mark.parametrize(
    "x",
    [
        X.astype(dtype)
        for dtype in ("f2", "f4", "f8", "g", ">f4", ">f8", "i1", "u1", ">i4", "i8", "u8")
    ]
    + [
        X.tolist(),
        tuple(map(tuple, X.tolist())),
        [torch.tensor(row) for row in X],
        np.asfortranarray(X, dtype=np.float32),
        np.repeat(X, 2, 0).astype(np.float32)[::2],
        np.repeat(X, 2, 1).astype(np.float32)[:, ::2],
        X.astype(np.float32)[::-1][::-1],
        np.frombuffer(X.astype(np.float32).tobytes(), np.float32).reshape(4, 3),
        torch.tensor(X),
        torch.tensor(X, dtype=torch.float16),
        torch.tensor(X.T.copy(), dtype=torch.float64).T,
    ],
    ids=str,
)
def test_every_kind_of_numbers_goes_in(x):
    out = as_features(x, 3)
    assert out.dtype == np.dtype("=f4")
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, X)


def test_bool_and_no_rows_go_in():
    np.testing.assert_array_equal(as_features(X > 5, 3), (X > 5).astype(np.float32))
    assert as_features(np.empty((0, 3)), 3).shape == (0, 3)
    assert as_features(X, None).shape == (4, 3)


def test_input_is_not_changed_and_good_arrays_are_not_copied():
    x = X.astype(np.float32)
    x.setflags(write=False)
    assert as_features(x, 3) is x


@given(npst.arrays(np.float64, (5, 3), elements=st.floats(-3e38, 3e38)))
def test_values_are_rounded_once(x):
    np.testing.assert_array_equal(as_features(x, 3), x.astype(np.float32))


def with_value(value, dtype=np.float64, n=4, row=2):
    x = np.zeros((n, 3), dtype)
    x[row, 1] = value
    return x


class Broken:
    def __repr__(self):  # a name of the test that every process gives it
        return "Broken"

    def __array__(self, *_args, **_kwargs):
        raise ValueError("no array here")


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (with_value(np.nan), "row 2"),
        (with_value(np.inf), "row 2"),
        (with_value(-np.inf, np.float16), "row 2"),
        (with_value(1e39), "row 2"),
        (with_value(-1e300), "row 2"),
        (with_value(np.nan, np.float32, 70_000, 69_999), "row 69999"),
        (X[:, :2], r"width 2; expected 3"),
        (np.empty((4, 0)), "width 0"),
        (X[0], r"shape \(3,\).*x\[None\]"),
        (X[None], r"shape \(1, 4, 3\)"),
        (3.0, r"shape \(\)"),
        ([], r"shape \(0,\)"),
        (None, "dtype object"),
        (X.astype(str), "dtype <U"),
        (X.astype(bytes), "dtype .S"),
        (X.astype(object), "dtype object"),
        (X.astype(complex), "dtype complex128"),
        (X.astype("m8[s]"), "dtype timedelta64"),
        ([[1, 2, 3], [1, 2]], "cannot be read"),
        (torch.zeros(4, 3, requires_grad=True), "cannot be read"),
        (torch.zeros(4, 3, dtype=torch.bfloat16), "cannot be read"),
        (torch.zeros(4, 3).to_sparse(), "cannot be read"),
        (Broken(), "no array here"),
        ({"a": 1}, "dtype object"),
    ],
    ids=str,
)
def test_all_else_is_named(x, match):
    with pytest.raises(InvalidInputError, match=match) as caught:
        as_features(x, 3, "the features")
    assert isinstance(caught.value, HyperPQError)
    assert str(caught.value).startswith("the features ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "i8", "u8"])
def test_ids_of_every_integer_dtype(dtype):
    out = as_ids(np.array([5, 0, 9], dtype), 3)
    assert out.dtype == np.dtype("=i8")
    np.testing.assert_array_equal(out, [5, 0, 9])


def test_ids_at_the_borders():
    assert as_ids([], 0).shape == (0,)
    assert as_ids([2**63 - 1], 1)[0] == 2**63 - 1
    assert as_ids(np.array([2**63 - 1], np.uint64), 1)[0] == 2**63 - 1


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([1, 2, 1], "contain 1 twice"),
        ([0, -1, 2], "contain -1"),
        ([0.0, 1.0, 2.0], "dtype float64"),
        (["a", "b", "c"], "dtype <U1"),
        ([True, False, True], "dtype bool"),
        ([0, 1], r"shape \(2,\); expected \(3,\)"),
        ([[0], [1], [2]], r"shape \(3, 1\)"),
        (7, r"shape \(\)"),
        ([0, 1, 2**70], "dtype object"),
        (np.array([0, 1, 2**63], np.uint64), "9223372036854775808"),
        ([[0], [1, 2]], "cannot be read"),
        (None, "dtype object"),
    ],
    ids=str,
)
def test_bad_ids_are_named(ids, match):
    with pytest.raises(InvalidInputError, match=match) as caught:
        as_ids(ids, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, 50, np.int64(3), np.uint8(7)])
def test_counts(value):
    out = as_count(value, "k")
    assert type(out) is int
    assert out == value


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", None, True, np.float32(2), [1], np.array(2)])
def test_bad_counts_are_named(value):
    with pytest.raises(InvalidInputError, match=r"^k is .*at least 1"):
        as_count(value, "k")
    with pytest.raises(InvalidInputError, match="at most 9223372036854775807"):
        as_count(2**63, "seed", 0)


def test_one_query_or_several():
    assert as_queries(X, 3).shape == (4, 3)
    assert as_queries(X[0], 3).shape == (1, 3)
    with pytest.raises(
        InvalidInputError, match=r"x has shape \(3,\); expected one vector, \(4,\), or several"
    ):
        as_queries(X[0], 4)
