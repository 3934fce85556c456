"""`FeatureCodec`: bounds of its errors, its bytes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hyperpq.codec import FeatureCodec
from hyperpq.codec.feature_codec import KINDS, feature_codec
from hyperpq.errors import InvalidInputError

LARGEST = float(np.finfo(np.float32).max)
FINITE = st.floats(-LARGEST, LARGEST, width=32)
ROWS = arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=FINITE)


def there_and_back(kind, x):
    codec = FeatureCodec(kind, x.shape[1])
    rows = codec.encode(x)
    assert rows.dtype == np.uint8
    assert rows.shape == (len(x), codec.size)
    out = codec.decode(rows)
    assert out.dtype == np.float32
    assert out.shape == x.shape
    return out


def scales(x):
    """The scale of each row, float64."""
    rows = FeatureCodec("int8", x.shape[1]).encode(x)
    return rows[:, :4].copy().view("<f4")[:, 0].astype(np.float64)


@given(ROWS)
def test_the_error_of_int8_is_half_a_scale(x):
    out, scale = there_and_back("int8", x).astype(np.float64), scales(x)
    assert (np.abs(out - x) <= 0.5 * scale[:, None]).all()


@given(ROWS)
def test_the_scale_of_int8_is_the_smallest_that_reaches_the_largest_value(x):
    largest, scale = np.abs(x.astype(np.float64)).max(1, initial=0), scales(x)
    assert (127 * scale >= largest).all()
    mantissa, exponent = np.frexp(scale)
    units = mantissa * 2**17
    np.testing.assert_array_equal(units, np.rint(units))
    below = np.ldexp(units - 1, exponent - 17)
    smallest = 2.0**-126
    assert ((127 * below < largest) | (scale == smallest)).all()
    assert (scale >= smallest).all()


@given(ROWS)
def test_the_features_that_int8_gives_back_stay_what_they_are(x):
    """So a code that was made of them can be made again, however often they are stored."""
    once = there_and_back("int8", x)
    np.testing.assert_array_equal(there_and_back("int8", once), once)


@given(arrays(np.float32, (3, 4), elements=st.floats(-65504, 65504, width=32)))
def test_the_error_of_float16_is_relative(x):
    out = there_and_back("float16", x).astype(np.float64)
    assert (np.abs(out - x) <= np.maximum(2.0**-11 * np.abs(x.astype(np.float64)), 2.0**-25)).all()


@given(ROWS)
def test_float32_loses_nothing(x):
    out = there_and_back("float32", x)
    assert out.tobytes() == x.tobytes()


def test_the_bytes_are_those_of_the_documentation():
    x = np.array([[0, 1, -127, 63.6], [0, 0, 0, 0]], np.float32)
    rows = FeatureCodec("int8", 4).encode(x)
    assert (
        rows.tobytes() == b"\x00\x00\x80\x3f\x00\x01\x81\x40" + b"\x00\x00\x80\x00\x00\x00\x00\x00"
    )
    half = FeatureCodec("float16", 2).encode([[1, -2]])
    assert half.tobytes() == b"\x00\x3c\x00\xc0"
    assert FeatureCodec("float32", 1).encode([[1]]).tobytes() == b"\x00\x00\x80\x3f"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_the_batch(kind):
    x = np.random.default_rng(0).normal(size=(2100, 5)).astype(np.float32)
    codec = FeatureCodec(kind, 5)
    rows = codec.encode(x)
    np.testing.assert_array_equal(np.concatenate([codec.encode(x[i : i + 1]) for i in (0, 1500)]),
                                  rows[[0, 1500]])  # fmt: skip
    np.testing.assert_array_equal(codec.decode(rows)[1500:], codec.decode(rows[1500:]))
    np.testing.assert_array_equal(codec.decode(rows[::2]), codec.decode(rows)[::2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_zeros_and_no_rows(kind):
    assert not there_and_back(kind, np.zeros((2, 3), np.float32)).any()
    assert there_and_back(kind, np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_a_finite_float32_is_refused(kind, value):
    with pytest.raises(InvalidInputError, match="row 1"):
        FeatureCodec(kind, 2).encode([[0.0, 1.0], [value, 0.0]])


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(InvalidInputError, match=r"7e\+04, too large .* 'int8' or 'float32'"):
        FeatureCodec("float16", 1).encode([[70000]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureCodec("int4", 3), "kind is 'int4'; expected 'int8'"),
        (lambda: FeatureCodec("int8", 0), "d is 0"),
        (lambda: feature_codec("all", 3), "features is 'all'; expected 'none', 'int8'"),
        (lambda: FeatureCodec("int8", 3).encode([[1, 2]]), "width 2; expected 3"),
        (lambda: FeatureCodec("int8", 3).decode(np.zeros((1, 6), np.uint8)), r"\(n, 7\)"),
        (lambda: FeatureCodec("int8", 3).decode(np.zeros((1, 7), np.int8)), "dtype int8"),
    ],
)
def test_other_arguments_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_an_index_keeps_features_in_a_kind_or_none():
    assert feature_codec("none", 3) is None
    assert feature_codec("float16", 3) == FeatureCodec("float16", 3)
