"""FAISS's free functions: factory strings, reading and writing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hyperpq
from hyperpq.errors import IndexNotFoundError, InvalidInputError, NotTrainedError
from hyperpq.index.factory import index_factory, parse_factory, read_index, write_index


@given(
    d=st.integers(1, 10**6),
    prefix=st.sampled_from(["", "IDMap,", "IDMap2,"]),
    M=st.integers(1, 9999),
    nbits=st.sampled_from([None, 4, 8]),
    metric=st.sampled_from([None, "l1", "geodesic", "chord"]),
)
def test_every_string_of_the_grammar(d, prefix, M, nbits, metric):
    text = f"{prefix}HiHPQ{M}" + (f"x{nbits}" if nbits else "") + (f",{metric}" if metric else "")
    want = {"d": d, "M": M, "nbits": nbits or 8, "metric": metric or "l1"}
    assert parse_factory(d, text) == want


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HiHPQ",
        "HiHPQ0",
        "HiHPQ0x4",
        "HiHPQ8x6",
        "HiHPQ8x",
        "HiHPQ-8",
        "HiHPQ8x8x8",
        "HiHPQ8,l2",
        "HiHPQ8,inner",
        "HiHPQ8,",
        "HiHPQ8 ",
        "HiHPQ8\n",
        "hihpq8",
        "PQ8x8",
        "IVF4,HiHPQ8",
        "IDMap3,HiHPQ8",
        "IDMap,IDMap,HiHPQ8",
        "HiHPQ12345",
        "HiHPQ٨",
        8,
        None,
    ],
)
def test_other_strings_are_refused(text):
    with pytest.raises(InvalidInputError) as caught:
        parse_factory(16, text)
    assert f"the factory text is {text!r}; expected HiHPQ" in str(caught.value)


@pytest.mark.parametrize("d", [0, -1, 2.5, True])
def test_a_width_that_isnt_one(d):
    with pytest.raises(InvalidInputError, match="d is"):
        parse_factory(d, "HiHPQ8")


def test_index_is_made_written_and_read(tmp_path):
    index = index_factory(12, "IDMap2,HiHPQ3x4,chord", device="cpu")
    assert (index.d, index.M, index.nbits, index.metric) == (12, 3, 4, "chord")
    assert not index.is_trained
    with pytest.raises(NotTrainedError):
        write_index(index, tmp_path / "index")
    x = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    index.train(x, epochs=1)
    index.add(x, ids=np.arange(60) * 3)
    want = index.search(x[:7], 5)
    write_index(index, tmp_path / "index")
    again = hyperpq.read_index(tmp_path / "index", device="cpu")
    for mine, stored in zip(want, again.search(x[:7], 5), strict=True):
        np.testing.assert_array_equal(mine, stored)
    # In the place of what is there.
    other = hyperpq.index_factory(12, "HiHPQ2", device="cpu")
    other.train(x, epochs=1)
    other.add(x[:10])
    hyperpq.write_index(other, tmp_path / "index")
    assert read_index(tmp_path / "index", device="cpu").ntotal == 10
    with pytest.raises(IndexNotFoundError):
        read_index(tmp_path / "none")
