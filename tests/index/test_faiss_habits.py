"""One script with FAISS and with hyperpq: the same calls, the same answers."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest

import hyperpq
from hyperpq import HiHPQIndex
from hyperpq.filters import selectors

faiss = pytest.importorskip("faiss")

RNG = np.random.default_rng(3)
X = RNG.normal(size=(600, 16)).astype(np.float32)
MORE = RNG.normal(size=(50, 16)).astype(np.float32)
QUERIES = RNG.normal(size=(9, 16)).astype(np.float32)
IDS = RNG.permutation(1000)[:600].astype(np.int64)


def pq(metric=None) -> faiss.IndexIDMap2:
    inner = faiss.IndexPQ(16, 4, 8, faiss.METRIC_L2 if metric is None else metric)
    inner.train(X)
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(X, IDS)
    return index


def script(index, names):
    """Calls that both have, under the names of ``names``; what they answered."""
    answers = {}
    answers["ntotal"] = index.ntotal
    answers["search"] = index.search(QUERIES, 10)
    lims, D, I = index.range_search(QUERIES, 14.0)  # noqa: E741
    answers["range"] = [
        sorted(zip(I[a:b].tolist(), D[a:b].round(3).tolist(), strict=True))
        for a, b in pairwise(lims)
    ]
    index.add_with_ids(MORE, np.arange(2000, 2050))
    answers["removed"] = (
        index.remove_ids(IDS[:20]),
        index.remove_ids(names.IDSelectorRange(2000, 2005)),
    )
    answers["after"] = index.search(QUERIES, 10)
    answers["vector"] = index.reconstruct(2049)
    answers["batch"] = index.reconstruct_batch(np.array([2010, int(IDS[30])]))
    D, I, R = index.search_and_reconstruct(QUERIES, 3)  # noqa: E741
    answers["vectors"] = R
    index.reset()
    answers["empty"] = index.ntotal
    return answers


def assert_same(found, want):
    if isinstance(want, tuple) and isinstance(want[0], np.ndarray):
        np.testing.assert_array_equal(found[1], want[1])
        there = want[1] >= 0
        np.testing.assert_allclose(found[0][there], want[0][there], rtol=1e-4, atol=1e-4)
    elif isinstance(want, np.ndarray):
        np.testing.assert_allclose(found, want, rtol=1e-5)
    elif isinstance(want, list):
        assert [[i for i, _ in query] for query in found] == [[i for i, _ in q] for q in want]
    else:
        assert found == want


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_same_script(on_disk, tmp_path):
    theirs = pq()
    ours = HiHPQIndex.from_faiss(theirs)
    if on_disk:
        hyperpq.write_index(ours, tmp_path / "i")
        ours = hyperpq.read_index(tmp_path / "i", device="cpu")
        assert ours.path == tmp_path / "i"
    want, found = script(theirs, faiss), script(ours, selectors)
    assert found.keys() == want.keys()
    for name, answer in want.items():
        assert_same(found[name], answer)


def choices(names):
    """Selectors under their names of FAISS."""
    few, some = names.IDSelectorBatch(IDS[:7]), names.IDSelectorRange(100, 400)
    bits = np.packbits(np.arange(1000) % 3 == 0, bitorder="little")
    return [
        few,
        some,
        names.IDSelectorArray(IDS[5:300]),
        names.IDSelectorBitmap(bits),
        names.IDSelectorNot(some),
        names.IDSelectorAnd(few, some),
        names.IDSelectorOr(few, names.IDSelectorNot(some)),
        names.IDSelectorXOr(few, some),
        names.IDSelectorAll(),
    ]


def test_selectors():
    """FAISS's IndexPQ takes none: a flat index of the decoded vectors has the same distances."""
    ours = HiHPQIndex.from_faiss(pq())
    theirs = faiss.IndexIDMap2(faiss.IndexFlatL2(16))
    theirs.add_with_ids(ours.reconstruct_batch(IDS), IDS)
    for mine, sel in zip(choices(selectors), choices(faiss), strict=True):
        want = theirs.search(QUERIES, 10, params=faiss.SearchParameters(sel=sel))
        assert_same(ours.search(QUERIES, 10, params=selectors.SearchParameters(sel=mine)), want)


def test_merging_and_cloning():
    theirs, ours = pq(), HiHPQIndex.from_faiss(pq())
    other, mine = faiss.clone_index(theirs), ours.clone()
    theirs.merge_from(other, 5000)
    ours.merge_from(mine, 5000)
    # FAISS empties the other one.
    assert (other.ntotal, mine.ntotal) == (0, 600)
    assert theirs.ntotal == ours.ntotal == 1200
    D, I = ours.search(QUERIES, 600)  # noqa: E741
    want = theirs.search(QUERIES, 600)
    np.testing.assert_allclose(D, want[0], rtol=1e-4, atol=1e-4)
    # Each vector is there twice, at one distance.
    assert [set(row) for row in I.tolist()] == [set(row) for row in want[1].tolist()]


def test_inner_products_ascend_when_negated():
    theirs = pq(faiss.METRIC_INNER_PRODUCT)
    ours = HiHPQIndex.from_faiss(theirs)
    D, I = ours.search(QUERIES, 10)  # noqa: E741
    want = theirs.search(QUERIES, 10)
    np.testing.assert_array_equal(I, want[1])
    np.testing.assert_allclose(-D, want[0], rtol=1e-5, atol=1e-5)


def test_there_and_back(tmp_path):
    ours = HiHPQIndex.from_faiss(pq())
    export = ours.to_faiss()
    np.testing.assert_array_equal(export.index.search(QUERIES, 5)[1], ours.search(QUERIES, 5)[1])
    ours.write_faiss(tmp_path / "index.faiss")
    read = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(read.search(QUERIES, 5)[1], ours.search(QUERIES, 5)[1])


@pytest.mark.parametrize("metric", ["chord", "l1"])
def test_a_learned_index_in_faiss(metric):
    index = HiHPQIndex(16, 4, metric=metric, device="cpu")
    index.train(X, epochs=0)
    index.add(X, IDS)
    index.remove_ids(IDS[:50])
    index.add(MORE)
    export = index.to_faiss()
    assert export.index.ntotal == 600
    D, I = export.index.search(export.queries(QUERIES), 20)  # noqa: E741
    want = index.search(QUERIES, 20)
    np.testing.assert_allclose(export.distances(D), want[0], rtol=1e-4, atol=1e-4)
    assert np.mean(want[1] == I) > 0.97


def test_an_empty_index_with_the_same_plain_codebooks():
    ours = HiHPQIndex.from_faiss(pq())
    empty = ours.with_bits(32)
    assert empty.ntotal == 0
    empty.add(X)
    np.testing.assert_array_equal(empty.view().codes_of(np.arange(len(X))), ours.encode(X))


def test_what_a_plain_index_refuses(tmp_path):
    ours = HiHPQIndex.from_faiss(pq())
    with pytest.raises(hyperpq.HyperPQError, match="train a new index"):
        ours.train(X)
    with pytest.raises(hyperpq.HyperPQError, match="plain codebooks, whose codes have 32 bits"):
        ours.with_bits(16)
    with pytest.raises(hyperpq.HyperPQError, match="plain codebooks"):
        ours.with_bits(32, metric="l1")
    with pytest.raises(hyperpq.HyperPQError, match="plain codebooks"):
        ours.with_bits(32, x=X)
    assert copy.deepcopy(ours.codec).settings() == ours.codec.settings()
