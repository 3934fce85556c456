"""FAISS's free functions: factory strings, reading and writing."""

from __future__ import annotations

import faiss
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
    word=st.sampled_from([None, "l1", "geodesic", "chord", "fidelity", "balanced"]),
)
def test_every_string_of_the_grammar(d, prefix, M, nbits, word):
    text = f"{prefix}HiHPQ{M}" + (f"x{nbits}" if nbits else "") + (f",{word}" if word else "")
    want = {"d": d, "M": M, "nbits": nbits or 8, "metric": word or "l1"}
    if word in ("fidelity", "balanced"):
        want |= {"metric": "l1", "objective": word}
    assert parse_factory(d, text) == want


@given(
    groups=st.integers(1, 20),
    D=st.integers(1, 20),
    wrap=st.sampled_from(["{}", "IDMap,{}", "IDMap2,{}", "{},IDMap", "{},IDMap2"]),
    nbits=st.sampled_from([None, 4, 8]),
    suffix=st.sampled_from(["", "np"]),
    rotation=st.sampled_from([None, "whole", "narrow"]),
    metric=st.sampled_from([(), ("l2",), ("ip",), (faiss.METRIC_L2,), (0,)]),
)
def test_every_string_of_plain_codebooks_means_what_it_means_to_faiss(
    groups, D, wrap, nbits, suffix, rotation, metric
):
    d = 2 * groups * D
    front = {None: "", "whole": f"OPQ{groups},", "narrow": f"OPQ{groups}_{groups * D},"}[rotation]
    text = wrap.format(f"{front}PQ{groups}" + (f"x{nbits}" if nbits else "") + suffix)
    name = "ip" if metric and metric[0] in ("ip", faiss.METRIC_INNER_PRODUCT) else "l2"
    index = index_factory(d, text, *metric, device="cpu")
    assert (index.d, index.M, index.nbits, index.metric) == (d, groups, nbits or 8, name)
    width = {None: {}, "whole": {"rotation": d}, "narrow": {"rotation": groups * D}}[rotation]
    want = {"d": d, "M": groups, "nbits": nbits or 8, "metric": name, **width}
    assert parse_factory(d, text, *metric) == want
    # The outermost index has the inner ones, which live as long.
    outer = theirs = faiss.index_factory(d, text, faiss.METRIC_L2)
    if isinstance(theirs, faiss.IndexIDMap):
        theirs = faiss.downcast_index(theirs.index)
    if rotation:
        assert theirs.chain.at(0).d_out == width["rotation"]
        theirs = faiss.downcast_index(theirs.index)
    if isinstance(theirs, faiss.IndexIDMap):
        theirs = faiss.downcast_index(theirs.index)
    assert (theirs.pq.M, theirs.pq.nbits, theirs.code_size) == (groups, nbits or 8, index.code_size)
    del outer


@pytest.mark.parametrize("text", ["HiHPQ4,IDMap2", "HiHPQ4,chord,IDMap", "IDMap2,HiHPQ4"])
def test_a_suffix_for_ids_is_accepted(text):
    """FAISS takes it in front and at the end."""
    assert parse_factory(16, text)["M"] == 4


@pytest.mark.parametrize(
    ("text", "metric", "message"),
    [
        ("PQ4", "l1", "metric is 'l1'; expected 'l2' or 'ip', or faiss.METRIC_L2"),
        ("PQ4", 2, "metric is 2; expected"),
        ("PQ4", True, "metric is True; expected"),
        ("PQ4", [1], r"metric is \[1\]; expected"),
        ("HiHPQ4", faiss.METRIC_L2, "metric is 1 with the factory text 'HiHPQ4'; expected 'l1'"),
        ("HiHPQ4,chord", "l1", "the same in both; leave it out"),
        ("HiHPQ4,fidelity", "chord", "metric is 'chord' .* expected 'cosine', 'l2' or 'ip', or"),
        ("HiHPQ4,fidelity", 2, "metric is 2 .* leave it out for 'cosine'"),
        ("HiHPQ4,fidelity", True, "metric is True"),
        ("HiHPQ4,fidelity,chord", None, "the factory text is .* expected HiHPQ"),
        ("PQ4,fidelity", None, "the factory text is .* expected HiHPQ"),
        ("OPQ8,PQ4", None, "the same number after OPQ and PQ, as in OPQ4,PQ4"),
        ("PQ5", None, "d is 16 and M is 5; expected d to be a multiple of M"),
        ("OPQ4_6,PQ4", None, "rotation is 6 with d 16 and M 4; expected a multiple"),
        ("OPQ4_20,PQ4", None, "rotation is 20 with d 16"),
        ("OPQ4_0,PQ4", None, "expected a width of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(text, metric, message):
    with pytest.raises(InvalidInputError, match=message):
        index_factory(16, text, metric, device="cpu")


def test_a_metric_of_learned_codes_can_be_given_beside_the_text():
    assert index_factory(16, "HiHPQ4", "chord", device="cpu").metric == "chord"
    assert parse_factory(16, "HiHPQ4,chord", "chord")["metric"] == "chord"


def test_the_objective_is_in_the_text():
    x = np.random.default_rng(0).normal(size=(60, 16))
    index = index_factory(16, "IDMap,HiHPQ4x4,fidelity", features="float32", device="cpu")
    assert (index.objective, index.metric, index.has_features) == ("fidelity", "cosine", True)
    assert "metric='cosine', objective='fidelity', features='float32', not trained" in repr(index)
    index.train(x, epochs=0)
    assert (index.objective, index.metric, index.M, index.nbits) == ("fidelity", "cosine", 4, 4)
    # What is said when it is trained counts more.
    index.train(x, epochs=0, objective="semantic")
    assert (index.objective, index.metric) == ("semantic", "l1")
    assert parse_factory(16, "HiHPQ4,fidelity", "inner") == parse_factory(16, "HiHPQ4,fidelity")
    for metric, number in (("l2", faiss.METRIC_L2), ("ip", faiss.METRIC_INNER_PRODUCT)):
        parsed = parse_factory(16, "HiHPQ4,fidelity", metric)
        assert parsed == parse_factory(16, "HiHPQ4,fidelity", number)
        assert (parsed["metric"], parsed["objective"]) == (metric, "fidelity")
        assert index_factory(16, "HiHPQ4,fidelity", metric, device="cpu").metric == metric
    assert index_factory(16, "HiHPQ4", device="cpu").objective == "semantic"
    assert index_factory(16, "PQ4", device="cpu").objective == "plain"


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
        "PQ",
        "PQ0",
        "PQ8x6",
        "PQ8,l2",
        "PQ8x8fs",
        "OPQ8",
        "OPQ8,HiHPQ8",
        "OPQ8_,PQ8",
        "PCA8,PQ8",
        "IVF4PQ8",
        "IVF0,HiHPQ8",
        "IDMap3,HiHPQ8",
        "IDMap,IDMap,HiHPQ8",
        "IDMap,HiHPQ8,IDMap",
        "HiHPQ8,IDMap3",
        "IDMap",
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
