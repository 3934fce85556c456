"""Attribute columns: from what users pass to what is stored."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from hyperpq.errors import InvalidInputError
from hyperpq.store import Categories
from hyperpq.store.columns import as_column, as_json, concatenate, conform, kind_of, values_of

EAST = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        (np.array([1, 2], np.uint8), "int32", [1, 2]),
        (np.array([1, 2], np.uint32), "int64", [1, 2]),
        (np.array([1, 2], ">i4"), "int32", [1, 2]),
        ([True, False], "int32", [1, 0]),
        (np.array([1.5, 2], np.float16), "float32", [1.5, 2]),
        ([1.5, np.nan], "float64", [1.5, np.nan]),
        (["a", None], "category", ["a", None]),
        (np.array(["a", "b"]), "category", ["a", "b"]),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), "time", None),
        ([datetime(2024, 1, 1, tzinfo=EAST), datetime(2024, 1, 1)], "time", None),
    ],
)
def test_columns_that_users_pass(values, kind, expected):
    column = as_column("x", values, 2)
    assert kind_of(column) == kind
    if kind == "category":
        assert column.strings() == expected
    elif expected is not None:
        np.testing.assert_array_equal(column, expected)
    else:
        zoned = isinstance(values, list)
        first = "2023-12-31T22" if zoned else "2024-01-01"
        second = "2024-01-01" if zoned else "NaT"
        np.testing.assert_array_equal(column, np.array([first, second], "M8[ns]"))


@pytest.mark.parametrize(
    ("values", "kind", "fits"),
    [
        (np.array([1, -5], np.int64), "int32", True),
        (np.array([1, 2**31], np.int64), "int32", False),
        (np.array([1, 2**53 + 1], np.int64), "float64", False),
        (np.array([1, 2**53], np.int64), "float64", True),
        (np.array([1.5, np.nan]), "float32", True),
        (np.array([1.1, 2.0]), "float32", False),
        (np.array([1.5, 2.0]), "int64", False),
        (np.array([1.0, 2.0]), "int64", True),
        (np.array([np.nan, 2.0]), "int64", False),
        (np.array([1, 2]), "time", False),
        (Categories.from_strings(["a", "b"]), "int64", False),
        (np.array([1, 2]), "category", False),
    ],
)
def test_a_column_becomes_of_the_kind_that_is_there(values, kind, fits):
    if not fits:
        with pytest.raises(InvalidInputError, match=f"attribute x has .* values; expected {kind}"):
            conform("x", values, kind)
        return
    out = conform("x", values, kind)
    assert kind_of(out) == kind
    np.testing.assert_array_equal(out, values)


def test_categories_are_joined_by_their_strings():
    first = Categories.from_strings(["a", None, "b"])
    second = Categories.from_strings(["c", "a"])
    joined = concatenate([first, second[np.array([1, 0])]])
    assert joined.strings() == ["a", None, "b", "a", "c"]
    assert joined.labels == ("a", "b", "c")
    assert joined[np.array([1, 4])].used().labels == ("c",)


TIMES = np.array(["2024-01-31T12:00:00.5", "NaT"], "datetime64[ns]")


@pytest.mark.parametrize(
    "column, values, as_text",
    [
        (Categories.from_strings(["a", None]), ["a", None], ["a", None]),
        (np.array([2**62, -1]), [2**62, -1], [2**62, -1]),
        (np.array([0.1, np.inf, np.nan]), [0.1, np.inf, np.nan], [0.1, None, None]),
        (np.array([0.5], np.float32), [0.5], [0.5]),
        (TIMES, list(TIMES), ["2024-01-31T12:00:00.500000000Z", None]),
    ],
)
def test_values_of_a_column(column, values, as_text):
    found = values_of(column)
    np.testing.assert_equal(found, values)
    assert list(map(type, found)) == list(map(type, values))
    assert list(map(as_json, found)) == as_text
