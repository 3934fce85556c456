"""Refinement: the best codes ranked again by kept features, against a search in float64."""

from __future__ import annotations

import pickle

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_tools import D_IN, brute_force, make_x

from hyperpq import HiHPQIndex, IDSelectorBatch, SearchParameters
from hyperpq.errors import InvalidInputError
from hyperpq.index import calibration
from hyperpq.index import refine as refinement
from hyperpq.index.refine import LADDER, candidates

X, QUERIES = make_x(300), make_x(12, seed=1)
CODECS = ["l1", "nibbles", "fidelity", "l2", "ip"]
KINDS = ["int8", "float16", "float32"]
# Of distances, over the largest: features have 21 bits where they are compared.
ERROR = 3e-6


@pytest.fixture
def make(trained, tmp_path):
    """Make an index with a trained codec and some rows, in memory or in a directory."""

    def build(codec="l1", features="int8", x=X, *, stored=False, **columns):
        source = trained[codec].codec
        index = HiHPQIndex.from_codec(source, device="cpu", features=features)
        if len(x):
            index.add(x, **columns)
        if not stored:
            return index
        index.save(tmp_path / "index")
        return HiHPQIndex.load(tmp_path / "index", device="cpu")

    return build


def compared(index, query, kept):
    """Distances (n,) of features from a query as a codec compares them, in float64."""
    x, y = (np.asarray(array, np.float64) for array in (query[None], kept))
    if index.codec.metric == "l2":
        return ((y - x) ** 2).sum(1)
    if index.codec.metric == "ip":
        return -(y * x).sum(1)
    if index.codec.config.normalization == "power":
        mean = index.codec.mean.numpy().astype(np.float64)
        x, y = (np.sign(array) * np.sqrt(np.abs(array)) - mean for array in (x, y))
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return 2 - 2 * (y * x).sum(1) / np.where(lengths > 0, lengths, np.inf)


def factor_of(index):
    """The weight of features in an index of at most 512 rows, or None."""
    if index.codec.approximates_features:
        return None
    kept = index.features_of(index.ids)
    n = len(kept)
    codes = np.empty((n, n))
    for row, (D, I) in enumerate(zip(*index.search(kept, n), strict=True)):  # noqa: E741
        codes[row, np.searchsorted(index.ids, I)] = D
    chords = np.stack([compared(index, row, kept) for row in kept])
    others = ~np.eye(n, dtype=bool)
    mean = [x[others].reshape(n, n - 1).std(1).mean() for x in (codes, chords)]
    return float(f"{0.3 * mean[0] / mean[1]:.4g}")


def check_refined(index, queries, k, refine, ids=None, *, factor=None):
    """Compare a refined search with one in float64; return its results."""
    ids = index.ids if ids is None else np.asarray(ids)
    count = candidates(*index._trained()) if refine == "auto" else refine
    n = len(ids)
    only = None if np.array_equal(ids, index.ids) else SearchParameters(IDSelectorBatch(ids))
    D, I = index.search(queries, k, params=only, refine=refine)  # noqa: E741
    assert (D.dtype, I.dtype, D.shape, I.shape) == (np.float32, np.int64, *[(len(queries), k)] * 2)
    kept = index.features_of(ids)
    near, order = brute_force(index, queries, kept, ids, max(n, 1))
    factor = factor_of(index) if factor is None else factor
    for q, query in enumerate(queries):
        m = min(count, n)
        exact = compared(index, query, index.features_of(order[q, :m]))
        want = exact if factor is None else near[q, :m] + factor * exact
        shift = (want - near[q, :m]).max() if m else 0
        want = np.concatenate([want, near[q, m:n] + shift])
        expected = dict(zip(order[q].tolist(), want.tolist(), strict=False))
        largest_error = ERROR * max(1, np.abs(want).max(initial=0))
        filled = min(k, n)
        found = I[q, :filled].tolist()
        assert len(set(found)) == filled
        np.testing.assert_allclose(
            D[q, :filled], [expected[id] for id in found], rtol=0, atol=largest_error
        )
        np.testing.assert_allclose(
            D[q, :filled], np.sort(want)[:filled], rtol=0, atol=largest_error
        )
        assert (np.diff(D[q, :filled]) >= 0).all()
        same = np.diff(D[q, : min(m, filled)]) == 0
        assert (np.diff(found[: min(m, filled)])[same] > 0).all()
        # What follows the candidates keeps its order.
        assert found[m:] == order[q, m:filled].tolist()
        assert (I[q, filled:] == -1).all()
        assert np.isposinf(D[q, filled:]).all()
    return D, I


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [False, True])
def test_a_search_in_float64_has_the_same_results(make, codec, kind, stored):
    index = make(codec, kind, stored=stored)
    for k, refine in ((10, 40), (10, "auto"), (60, 25), (310, 300), (1, 1)):
        check_refined(index, QUERIES[:4], k, refine)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("refine", [1, 30, "auto", 1000])
def test_results_are_the_first_of_those_for_a_larger_k(make, codec, refine):
    index = make(codec)
    wide = index.search(QUERIES, 310, refine=refine)
    for k in (1, 7, 30, 31, 200, 299):
        for narrow, whole in zip(index.search(QUERIES, k, refine=refine), wide, strict=True):
            np.testing.assert_array_equal(narrow, whole[:, :k])


@pytest.mark.parametrize("codec", CODECS)
def test_results_do_not_depend_on_batch_threads_or_where_rows_are(make, codec, tmp_path):
    index = make(codec, stored=True)
    queries = np.concatenate([QUERIES, X[:30], make_x(300, seed=5)])
    want = index.search(queries, 12, refine=50, threads=1)
    parts = [index.search(query, 12, refine=50, threads=3) for query in queries]
    memory = make(codec)
    several = make(codec, x=X[:100])
    several.add(X[100:101])
    several.add(X[101:])
    for found in (
        [np.concatenate(arrays) for arrays in zip(*parts, strict=True)],
        index.view().search(queries, 12, refine=50),
        pickle.loads(pickle.dumps(index)).search(queries, 12, refine=50),
        memory.search(queries, 12, refine=50),
        several.search(queries, 12, refine=50),
        index.search_and_return_codes(queries, 12, refine=50)[:2],
        index.search_and_reconstruct(queries, 12, refine=50)[:2],
    ):
        for one, other in zip(found, want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_results_are_written_to_given_arrays(make):
    index = make()
    D, I = np.empty((12, 5), np.float32), np.empty((12, 5), np.int64)  # noqa: E741
    found = index.search(QUERIES, 5, refine="auto", D=D, I=I)
    assert found[0] is D
    assert found[1] is I
    np.testing.assert_array_equal(I, index.search(QUERIES, 5, refine=50)[1])


@pytest.mark.parametrize("codec", CODECS)
def test_candidates_come_from_what_a_filter_selects(make, codec):
    index = make(codec, stored=True, attributes={"row": np.arange(300)})
    check_refined(index, QUERIES[:4], 10, 20, np.arange(120, 180))
    for where, n in (("row < 15", 15), ("row == 7", 1), ("row > 500", 0)):
        D, I = index.search(QUERIES, 20, where=where, refine=40)  # noqa: E741
        assert ((I >= 0).sum(1) == n).all()
        assert (np.isfinite(D).sum(1) == n).all()
    # A filter that leaves out all that is nearest does not leave fewer results.
    nearest = index.search(QUERIES[:1], 40)[1][0]
    others = np.setdiff1d(index.ids, nearest)
    only = SearchParameters(IDSelectorBatch(others))
    I = index.search(QUERIES[:1], 10, params=only, refine=20)[1]  # noqa: E741
    assert np.isin(I, others).all()


@pytest.mark.parametrize("stored", [False, True])
def test_deleted_rows_are_no_candidates(make, stored):
    index = make(stored=stored)
    view = index.view()
    before = view.search(QUERIES, 10, refine=30)
    index.remove_ids(np.unique(before[1]))
    D, I = check_refined(index, QUERIES, 10, 30)  # noqa: E741
    assert not np.isin(I, before[1]).any()
    index.compact()
    for one, other in zip(index.search(QUERIES, 10, refine=30), (D, I), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(view.search(QUERIES, 10, refine=30), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_are_read_by_the_codec_of_the_snapshot(make):
    index = make(stored=True)
    view = index.view()
    before = view.search(QUERIES, 10, refine=30)
    index.retrain(epochs=0, seed=1)
    check_refined(index, QUERIES, 10, 30)
    for one, other in zip(view.search(QUERIES, 10, refine=30), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_of_one_code_are_told_apart(make, trained):
    """Features decide among rows whose codes are equal, and ids among equal rows."""
    base = make_x(1, seed=3)
    near = base + np.random.default_rng(0).normal(size=(400, D_IN)).astype(np.float32) * 0.01
    codes = trained["l1"].codec.encode(near)
    near = near[(codes == codes[0]).all(1)]
    assert len(near) > 30
    index = make("l1", "float32", np.concatenate([X, near, near[:5]]))
    n = 300 + len(near)
    D, I = check_refined(index, near[:8], 20, 500)  # noqa: E741
    for q in range(5):
        assert I[q, :2].tolist() == [300 + q, n + q]
        assert D[q, 0] == D[q, 1]
    assert I[5:, 0].tolist() == [305, 306, 307]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_rows_of_length_zero(make, codec, kind):
    x = X.copy()
    x[[3, 70]] = 0
    index = make(codec, kind, x)
    queries = np.zeros((2, D_IN), np.float32)
    queries[1] = X[5]
    D, I = check_refined(index, queries, 20, 300)  # noqa: E741
    assert np.isfinite(D).all()
    if codec == "fidelity":
        # All rows are as unlike a query without a direction, so their ids decide.
        np.testing.assert_array_equal(I[0], np.arange(20))


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_query_does_not_matter_where_features_are_directions(make, kind):
    index = make("fidelity", kind)
    queries = QUERIES * np.float32(64)
    for one, other in zip(
        index.search(queries, 9, refine=30), index.search(QUERIES, 9, refine=30), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_refined_fidelity_codes_are_ranked_as_by_faiss_in_the_features(make):
    index = make("fidelity", "float32")
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (X, QUERIES)]
    flat = faiss.IndexFlatL2(D_IN)
    flat.add(unit[0])
    want = flat.search(unit[1], 10)
    D, I = index.search(QUERIES, 10, refine=300)  # noqa: E741
    np.testing.assert_array_equal(I, want[1])
    np.testing.assert_allclose(D, want[0], rtol=1e-4)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 19])
def test_few_rows(make, codec, n):
    index = make(codec, x=X[:n])
    if n >= 3:
        check_refined(index, QUERIES, 5, "auto")
        return
    # There is nothing that deviates.
    factor = None if index.codec.approximates_features else 1.0
    D, I = index.search(QUERIES, 5, refine="auto")  # noqa: E741
    near, order = index.search(QUERIES, 5)
    assert ((I >= 0).sum(1) == n).all()
    if factor is not None:
        want = near + np.inf
        for q, query in enumerate(QUERIES):
            exact = compared(index, query, index.features_of(order[q, :n]))
            want[q, :n] = near[q, :n] + factor * exact
        np.testing.assert_allclose(D, np.sort(want, 1), rtol=1e-6)


def test_equal_rows(make):
    index = make(x=np.repeat(X[:1], 50, 0))
    D, I = index.search(QUERIES, 7, refine=20)  # noqa: E741
    np.testing.assert_array_equal(I, np.tile(np.arange(7), (12, 1)))
    assert (np.diff(D, axis=1) == 0).all()


def test_large_values_stay_finite(make):
    for codec in ("l2", "ip"):
        index = make(codec, "float32")
        index.add(np.full((2, D_IN), 3e38, np.float32))
        D, I = index.search(X[:3], 302, refine=400)  # noqa: E741
        assert np.isfinite(D).all()
        assert {300, 301} <= set(I[0].tolist())


@pytest.mark.parametrize("codec", ["l2", "ip"])
def test_rows_that_are_too_large_for_a_query_have_no_part_in_the_scale(make, codec):
    large = np.full((2, D_IN), 3e38, np.float32)
    index = make(codec, "float32", np.concatenate([X[:150], large, X[150:]]))
    assert index.calibration == make(codec, "float32").calibration
    for refine in (None, 40):
        S = index.search_similar(QUERIES, 12, refine=refine)[2]
        assert np.isfinite(S).all()
        assert S.max() > 0


def test_rows_after_the_candidates_have_the_order_of_their_codes_in_ties(make):
    # The last row has a near code, and is so far away that distances of the others round alike.
    index = make("l2", "float32", np.concatenate([X, np.full((1, D_IN), 1e5, np.float32)]))
    query = index.reconstruct(300).reshape(1, -1)
    D, I = index.search(query, 301, refine=6)  # noqa: E741
    order = index.search(query, 301)[1]
    assert set(I[0, :6]) == set(order[0, :6])
    np.testing.assert_array_equal(I[0, 6:], order[0, 6:])
    tied = np.diff(D[0, 6:]) == 0
    assert (np.diff(I[0, 6:])[tied] < 0).any()
    for one, other in zip(index.search(query, 40, refine=6), (D, I), strict=True):
        np.testing.assert_array_equal(one, other[:, :40])


@pytest.mark.parametrize("codec", ["l1", "fidelity"])
def test_few_queries_at_once_have_many_candidates(make, codec, monkeypatch):
    index, asked = make(codec), []
    want = [call(QUERIES, 5, refine=10**6) for call in (index.search, index.search_similar)]
    original = type(index._rows().scanner).search_segments

    def search_segments(self, tables, segments, k, **options):
        asked.append(len(tables) * k)
        return original(self, tables, segments, k, **options)

    monkeypatch.setattr(type(index._rows().scanner), "search_segments", search_segments)
    monkeypatch.setattr("hyperpq.index.search._RESULTS", 1000)
    for call, expected in zip((index.search, index.search_similar), want, strict=True):
        for one, other in zip(call(QUERIES, 5, refine=10**6), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    # Three queries with 300 candidates, four times in each call.
    assert asked.count(900) == 8
    assert max(asked) == 900


@pytest.mark.parametrize("codec", CODECS)
def test_similarities_of_refined_results(make, codec):
    index = make(codec, x=np.concatenate([X, X[:4], X[:1]]))
    queries = np.concatenate([X[:6], QUERIES])
    D, I, S = index.search_similar(queries, 12, refine=40)  # noqa: E741
    near, ids = index.search(queries, 305, refine=40)
    for q in range(len(queries)):
        copies = S[q] == 100
        wanted = {0: [0, 300, 304], 1: [1, 301], 2: [2, 302], 3: [3, 303], 4: [4], 5: [5]}
        assert I[q, copies].tolist() == wanted.get(q, [])
        assert copies[: copies.sum()].all()
        distance = dict(zip(ids[q].tolist(), near[q].tolist(), strict=True))
        assert [distance[id] for id in I[q].tolist()] == D[q].tolist()
        others = ids[q][~np.isin(ids[q], I[q, copies])]
        np.testing.assert_array_equal(I[q, copies.sum() :], others[: 12 - copies.sum()])
        assert (np.diff(S[q]) <= 0).all()
        assert ((S[q, ~copies] >= 0) & (S[q, ~copies] <= 99)).all()
        rest = S[q, ~copies]
        np.testing.assert_array_equal(
            index.similarity(queries[q], D[q : q + 1, ~copies], refine=40)[0], rest
        )
    for k in (1, 2, 5):
        for narrow, whole in zip(
            index.search_similar(queries, k, refine=40), (D, I, S), strict=True
        ):
            np.testing.assert_array_equal(narrow, whole[:, :k])


def test_copies_that_are_no_candidates_come_first(make):
    index = make(x=np.concatenate([np.repeat(X[:1], 60, 0) + np.float32(0.004), X]))
    _, I, S = index.search_similar(X[:1], 3, refine=5)  # noqa: E741
    assert I[0, 0] == 60
    assert S[0, 0] == 100


def test_the_median_refined_distance_of_two_rows_has_similarity_0(make):
    for codec in CODECS:
        index = make(codec)
        D, I = index.search(index.features_of(index.ids), 300, refine=300)  # noqa: E741
        others = D[np.arange(300)[:, None] != I]
        assert index.calibration.refined == pytest.approx(np.median(others), rel=1e-3)
    assert make("l1", "none").calibration.refined is None


@pytest.mark.parametrize("refine", [None, 0])
def test_no_refinement_is_the_default(make, refine):
    for features in ("int8", "none"):
        index = make(features=features)
        for one, other in zip(
            index.search(QUERIES, 9, refine=refine), index.search(QUERIES, 9), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("features", ["none", "int8"])
def test_an_index_knows_whether_it_can_refine(make, codec, features):
    index = make(codec, features)
    assert (
        index.can_refine == index.view().can_refine == (features != "none" or codec == "fidelity")
    )
    assert not HiHPQIndex(D_IN, device="cpu").can_refine


@pytest.mark.parametrize("refine", [-1, 2.5, True, "all", [3], np.nan])
def test_wrong_numbers_of_candidates(make, refine):
    index = make()
    for call in (index.search, index.search_similar, index.search_and_return_codes):
        with pytest.raises(InvalidInputError, match="refine is"):
            call(QUERIES, 3, refine=refine)


@pytest.mark.parametrize("refine", ["auto", 7])
def test_an_index_without_features_says_how_to_get_them(make, refine):
    index = make(features="none")
    with pytest.raises(InvalidInputError, match=r"keeps no features.*features='int8'"):
        index.search(QUERIES, 3, refine=refine)
    with pytest.raises(InvalidInputError, match=r"keeps no features"):
        index.search_similar(QUERIES, 3, refine=refine)


def drawn(n, seed=0, d=D_IN):
    """Rows whose order by code and by features differ much, the fewer features the less."""
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


STEEP = (10, 11, 12, 14, 17, 22, 30, 60)
"""Numbers of candidates among which those of small indexes differ."""


def measured(index, ladder=STEEP, share=0.95):
    """`candidates` by searches of the index for its own rows, in one loop."""
    ids = index.ids if index.ntotal <= 512 else calibration.sample_ids(index._rows())
    queries = ids[::8]
    kept = index.features_of(queries)
    largest = min(ladder[-1], index.ntotal - 1)

    def first(count):
        near, order = index.search(kept, largest + 1)
        factor = calibration.Sampled.of(*index._trained()).factor
        tops = []
        for q, (D, I, own) in enumerate(zip(near, order, queries, strict=True)):  # noqa: E741
            D, I = D[own != I][:count], I[own != I][:count]  # noqa: E741
            exact = compared(index, kept[q], index.features_of(I))
            wide = exact if factor is None else D + factor * exact
            tops.append(set(I[np.lexsort((I, wide.astype(np.float32)))[:10]].tolist()))
        return tops

    final = first(largest)
    for count in ladder:
        shared = [len(a & b) / len(b) for a, b in zip(first(count), final, strict=True)]
        if np.mean(shared) >= share:
            return count
    return ladder[-1]


@pytest.mark.parametrize("codec", CODECS)
def test_the_number_of_candidates_is_measured(make, codec, monkeypatch):
    assert candidates(*make(codec, x=drawn(500))._trained()) == measured(
        make(codec, x=drawn(500)), LADDER
    )
    monkeypatch.setattr(refinement, "LADDER", STEEP)
    found = []
    for x in (drawn(500), np.repeat(drawn(120), 4, 0), X):
        index = make(codec, x=x)
        found.append(candidates(*index._trained()))
        assert found[-1] == measured(index)
        for one, other in zip(
            index.search(QUERIES, 12, refine="auto"),
            index.search(QUERIES, 12, refine=found[-1]),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    assert max(found) > STEEP[0]


def test_the_number_of_candidates_depends_on_the_rows_alone(make, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "LADDER", STEEP)
    counted = []
    original = refinement._measured
    monkeypatch.setattr(
        refinement, "_measured", lambda *args: counted.append(args) or original(*args)
    )
    rows = drawn(900)
    index = make(x=rows[:700], stored=True)
    index.add(rows[700:])
    want = candidates(*index._trained())
    # Known as long as the rows are.
    again = [candidates(*index._trained()), candidates(*index.view()._trained())]
    assert again == [want] * 2
    assert STEEP[0] < want < STEEP[-1]
    assert len(counted) == 1
    # 861 rows are the first ones of 900 and of 1,000.
    index.add(drawn(100, seed=1))
    assert candidates(*index._trained()) == want
    others = [make(x=rows), make(x=np.concatenate([rows, drawn(3, seed=2)]))]
    others[1].remove_ids([900, 901, 902])
    others.append(HiHPQIndex.load(tmp_path / "index", device="cpu"))
    for other in others:
        assert candidates(*other._trained()) == want
    index.remove_ids(np.arange(0, 800))
    assert candidates(*index._trained()) == measured(index)
    index.compact()
    assert candidates(*index._trained()) == measured(index)


def test_equal_rows_and_large_values_have_a_number_of_candidates(make):
    assert candidates(*make(x=np.repeat(X[:1], 700, 0))._trained()) == LADDER[0]
    index = make("l2", "float32", np.full((80, D_IN), 3e38, np.float32))
    assert candidates(*index._trained()) == LADDER[0]
    for n in (0, 1, 51, 52):
        assert candidates(*make(x=drawn(n))._trained()) == LADDER[0]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_indexes(trained, data):
    draw = data.draw
    codec, kind = draw(st.sampled_from(CODECS)), draw(st.sampled_from(KINDS))
    n, seed = draw(st.integers(3, 40)), draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    # Many rows are equal, or have few values, of which some are 0.
    x = np.round(make_x(n, seed) / 2) * np.float32(draw(st.sampled_from([0.25, 1, 3])))
    x = x[rng.integers(0, n, n)] if draw(st.booleans()) else x
    index = HiHPQIndex.from_codec(trained[codec].codec, device="cpu", features=kind)
    ids = np.sort(rng.choice(1000, n, replace=False))
    for part in np.array_split(np.arange(n), draw(st.integers(1, 3))):
        if len(part):
            index.add_with_ids(x[part], ids[part])
    index.remove_ids(rng.choice(ids, min(n - 3, draw(st.integers(0, 9))), replace=False))
    if not index.codec.approximates_features:
        spread = factor_of(index)
        if not np.isfinite(spread) or spread < 1e-6:
            return
    check_refined(
        index, x[:2] * np.float32(1.1), draw(st.integers(1, 45)), draw(st.integers(1, 45))
    )
