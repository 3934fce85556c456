"""`Rows`: what is refused, sorted and merged."""

from __future__ import annotations

import numpy as np
import pytest
from store_tools import assert_same_rows, make_rows

from hyperpq.errors import InvalidInputError
from hyperpq.store import Rows


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"codes": np.zeros((3, 4), np.int8)}, "codes are int8"),
        ({"codes": np.zeros(12, np.uint8)}, "codes are uint8 .12,.; expected"),
        ({"codes": np.zeros((3, 0), np.uint8)}, "code_size of 0; expected"),
        ({"codes": [[1]]}, "codes are a list"),
        ({"ids": np.arange(3, dtype=np.int32)}, "ids are int32"),
        ({"ids": np.arange(3, dtype=">i8")}, "ids are >i8"),
        ({"ids": np.arange(2)}, r"expected int64 \(3,\)"),
        ({"ids": np.array([4, 2, 4])}, "ids have 4 twice; expected distinct"),
        ({"attributes": {"x": np.zeros(3, complex)}}, "attribute x has dtype complex128"),
        ({"attributes": {"x": np.zeros(4)}}, r"attribute x has shape \(4,\); expected \(3,\)"),
        ({"attributes": {"x": np.zeros((3, 1))}}, "attribute x has shape"),
        (
            {"attributes": {"x": ["a", 1, None]}},
            "attribute x has 1 among its values; expected strings or None",
        ),
        ({"attributes": {"x": ["a", "b", "c" * 1001]}}, "1001 bytes; expected at most 1000"),
        ({"attributes": {"x": ["a", "b", "\ud800"]}}, "is not valid Unicode"),
        (
            {"attributes": {"x": [0, 1.5, 2**63]}},
            "attribute x has 9223372036854775808; expected integers",
        ),
        (
            {"attributes": {"x": np.array([0, 1, 2**63], "u8")}},
            "attribute x has 9223372036854775808; expected integers",
        ),
        ({"attributes": {"x": ["1500-01-01"] * 3}}, None),
        ({"attributes": {"x": np.array(["1500-01-01"] * 3, "M8[D]")}}, "before 1677 or after"),
        ({"attributes": {"x": [1, [2], 3]}}, "attribute x cannot be read as an array"),
        (
            {"attributes": {"x-y": np.zeros(3)}},
            "attribute 'x-y' cannot be called so; expected a letter",
        ),
        ({"attributes": {"x" * 65: np.zeros(3)}}, "attribute"),
        ({"attributes": {"path": np.zeros(3)}}, "attribute 'path'"),
        ({"attributes": {"and": np.zeros(3)}}, "attribute 'and'"),
        ({"paths": [b"a"]}, "paths are 1; expected 3"),
        ({"paths": ["a", "b", "c"]}, "not bytes; convert it by os.fsencode"),
        ({"features": [b"a", b"b", b"c"]}, r"features are a list; expected uint8 \(3, feature_s"),
        ({"features": np.zeros((3, 4), np.int8)}, r"features are int8 \(3, 4\); expected uint8"),
        ({"features": np.zeros((4, 4), np.uint8)}, r"features are uint8 \(4, 4\); expected"),
        ({"features": np.zeros(3, np.uint8)}, r"features are uint8 \(3,\); expected"),
        ({"features": np.zeros((3, 0), np.uint8)}, "features have 0 bytes a row; expected 1 to"),
    ],
)
def test_rows_are_checked(change, match):
    fields = {"codes": np.zeros((3, 4), np.uint8), "ids": np.arange(3)}
    if match is None:
        Rows(**(fields | change))
        return
    with pytest.raises(InvalidInputError, match=match):
        Rows(**(fields | change))


def test_rows_take_any_memory_order():
    codes = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    rows = Rows(codes, np.arange(6)[::2])
    assert rows.codes.flags.c_contiguous
    assert rows.ids.tolist() == [0, 2, 4]


def test_rows_are_sorted_by_their_ids():
    rows = make_rows(6, feature_size=5)
    order = np.array([4, 0, 5, 1, 3, 2])
    shuffled = Rows(
        rows.codes[order],
        rows.ids[order],
        {name: column[order] for name, column in rows.attributes.items()},
        [rows.paths[i] for i in order],
        rows.features[order],
    )
    assert_same_rows(shuffled, rows)


def test_merged_rows_are_those_of_all():
    whole = make_rows(9, feature_size=5)
    thirds = [whole.take(np.arange(i, 9, 3)) for i in range(3)]
    assert_same_rows(Rows.merge(thirds), whole)
    assert Rows.merge(thirds[:1]) is thirds[0]
