"""Adding, changing, removing and finding rows of an index, against a dict of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import HiHPQIndex
from hyperpq.codes import unpack
from hyperpq.errors import InvalidInputError, NotTrainedError, StoreError
from hyperpq.filters.selectors import (
    IDSelectorArray,
    IDSelectorNot,
    IDSelectorRange,
    SearchParameters,
)
from hyperpq.store import verify_directory
from hyperpq.training.recipe import Recipe

D_IN = 6
RNG = np.random.default_rng(5)
X = RNG.normal(size=(200, D_IN)).astype(np.float32)
QUERIES = RNG.normal(size=(3, D_IN)).astype(np.float32)
SMALL = Recipe().replace(width=8, epochs=0, batch=64)


@pytest.fixture(scope="module")
def trained():
    index = HiHPQIndex(D_IN, 2, device="cpu")
    index.train(X, recipe=SMALL)
    return index


def empty_like(index) -> HiHPQIndex:
    return HiHPQIndex.from_codec(index.codec, device="cpu")


def columns_of(values, words):
    return {"number": np.array(values, np.int64), "word": list(words)}


def filled(trained, n=100, first=0) -> HiHPQIndex:
    index = empty_like(trained)
    words = [None if i % 7 == 0 else f"w{i % 5}" for i in range(n)]
    index.add(X[:n], np.arange(n) * 2 + first, attributes=columns_of(range(n), words))
    return index


class Model:
    """What an index should hold: id -> (row of X, number, word)."""

    def __init__(self, codec):
        self.codec, self.rows = codec, {}
        self.codes = unpack(codec.encode(X), 2, 8)
        self.tables = codec.tables(QUERIES).astype(np.float64)

    def ranked(self, q, keep=lambda id, row: True):
        found = []
        for id, row in self.rows.items():
            if keep(id, row):
                code = self.codes[row[0]]
                distance = self.tables[q, 0, code[0]] + self.tables[q, 1, code[1]]
                found.append((np.float32(distance), id))
        return sorted(found)


def check(index, model, keep=lambda id, row: True, **options):
    k = 7
    D, I = index.search(QUERIES, k, **options)  # noqa: E741
    lims, R, J = index.range_search(QUERIES, float(np.median(model.tables) * 2), **options)
    radius = float(np.median(model.tables) * 2)
    for q in range(len(QUERIES)):
        want = model.ranked(q, keep)
        ids = [id for _, id in want[:k]]
        assert I[q].tolist() == ids + [-1] * (k - len(ids))
        distances = np.float32([distance for distance, _ in want[:k]])
        np.testing.assert_array_equal(D[q, : len(ids)], distances)
        assert np.isinf(D[q, len(ids) :]).all()
        near = [(np.float32(s), id) for s, id in want if np.float32(s) < np.float32(radius)]
        found = slice(lims[q], lims[q + 1])
        assert J[found].tolist() == [id for _, id in near]
        np.testing.assert_array_equal(R[found], np.float32([s for s, _ in near]))
    selected = [id for id, row in sorted(model.rows.items()) if keep(id, row)]
    given = {name: value for name, value in options.items() if name != "threads"}
    assert index.select(**given).tolist() == selected


WORDS = st.sampled_from([None, "a", "b", "longer word"])
IDS = st.sets(st.integers(0, 40), max_size=8)


@given(data=st.data(), on_disk=st.booleans())
def test_any_sequence_of_changes(data, on_disk, trained, tmp_path_factory):
    index, model = empty_like(trained), Model(trained.codec)
    if on_disk:
        index.save(tmp_path_factory.mktemp("index") / "i")
    steps = ["add", "add", "add own", "remove", "remove where", "remove sel", "update", "merge",
             "compact", "reset"]  # fmt: skip
    for _ in range(data.draw(st.integers(1, 10))):
        step = data.draw(st.sampled_from(steps))
        if step == "add":
            rows = data.draw(st.lists(st.integers(0, 199), max_size=6))
            words = [data.draw(WORDS) for _ in rows]
            first = index.next_id
            index.add(X[rows], attributes=columns_of(rows, words))
            new = zip(rows, words, strict=True)
            model.rows |= {first + i: (r, r, w) for i, (r, w) in enumerate(new)}
        elif step == "add own":
            ids = data.draw(st.permutations(sorted(data.draw(IDS) - model.rows.keys())))
            rows = [data.draw(st.integers(0, 199)) for _ in ids]
            index.add_with_ids(X[rows], ids, attributes=columns_of(rows, ["own"] * len(ids)))
            model.rows |= {id: (r, r, "own") for id, r in zip(ids, rows, strict=True)}
        elif step == "remove":
            ids = data.draw(IDS)
            gone = ids & model.rows.keys()
            assert index.remove_ids(sorted(ids, reverse=True)) == len(gone)
            model.rows = {id: row for id, row in model.rows.items() if id not in gone}
        elif step == "remove where":
            limit = data.draw(st.integers(0, 200))
            gone = {id for id, row in model.rows.items() if row[1] < limit and row[2] == "a"}
            assert index.remove_ids(where=f"number < {limit} and word == 'a'") == len(gone)
            model.rows = {id: row for id, row in model.rows.items() if id not in gone}
        elif step == "remove sel":
            low, high = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
            gone = {id for id in model.rows if low <= id < high}
            assert index.remove_ids(IDSelectorRange(low, high)) == len(gone)
            model.rows = {id: row for id, row in model.rows.items() if id not in gone}
        elif step == "update":
            ids = data.draw(st.permutations(sorted(data.draw(IDS) & model.rows.keys())))
            rows = [data.draw(st.integers(0, 199)) for _ in ids]
            with_numbers = data.draw(st.booleans())
            index.update(X[rows], ids, attributes={"number": rows} if with_numbers else None)
            for id, row in zip(ids, rows, strict=True):
                _, number, word = model.rows[id]
                model.rows[id] = (row, row if with_numbers else number, word)
        elif step == "merge":
            other, first = empty_like(trained), index.next_id
            rows = data.draw(st.lists(st.integers(0, 199), max_size=4))
            if rows:
                other.add(X[rows], attributes=columns_of(rows, ["merged"] * len(rows)))
            index.merge_from(other, add_id=first)
            assert other.ntotal == len(rows)
            model.rows |= {first + i: (r, r, "merged") for i, r in enumerate(rows)}
        elif step == "compact":
            index.compact()
            assert index.collection.n_segments <= 1
        else:
            index.reset()
            assert index.next_id == 0
            model.rows = {}
        assert index.ntotal == len(model.rows)
        assert index.next_id > max(model.rows, default=-1)
    others = [index, index.clone()]
    if on_disk:
        others.append(HiHPQIndex.load(index.path, device="cpu", verify=True))
        assert verify_directory(index.path) == []
    for one in others:
        check(one, model)
        check(one, model, lambda id, row: row[1] >= 100, where="number >= 100")
        sel = IDSelectorNot(IDSelectorRange(3, 9))
        check(one, model, lambda id, row: not 3 <= id < 9, params=SearchParameters(sel))
        check(one, model, lambda id, row: not 3 <= id < 9 and row[2] is not None,
              params=SearchParameters(sel), where="word is not None", threads=2)  # fmt: skip
        ids = np.array(sorted(model.rows), np.int64)
        np.testing.assert_array_equal(one.ids, ids)
        codes = trained.codec.encode(X[[model.rows[id][0] for id in ids.tolist()]])
        np.testing.assert_array_equal(one.reconstruct_batch(ids), trained.codec.decode(codes))
        np.testing.assert_array_equal(one.reconstruct_n(), trained.codec.decode(codes))
        order = RNG.permutation(len(ids))
        if len(ids):
            attributes = one.attributes_of(ids[order])
            assert attributes["number"].tolist() == [model.rows[i][1] for i in ids[order].tolist()]
            assert attributes["word"].tolist() == [model.rows[i][2] for i in ids[order].tolist()]


def test_search_and_reconstruct(trained):
    index = filled(trained, 5)
    D, I, R = index.search_and_reconstruct(QUERIES, 7)  # noqa: E741
    want = index.search(QUERIES, 7)
    np.testing.assert_array_equal(D, want[0])
    np.testing.assert_array_equal(I, want[1])
    assert R.shape == (3, 7, index.reconstruct(0).size)
    for q in range(3):
        for rank in range(5):
            np.testing.assert_array_equal(R[q, rank], index.reconstruct(int(I[q, rank])))
    assert np.isnan(R[:, 5:]).all()
    assert (
        index.search_and_reconstruct(QUERIES, 2, where="number < 0")[1].tolist() == [[-1, -1]] * 3
    )


def test_reconstruct_n_is_a_range_of_ids(trained):
    index = filled(trained, 10)
    np.testing.assert_array_equal(index.reconstruct_n(4, 1)[0], index.reconstruct(4))
    assert len(index.reconstruct_n(4)) == 8
    assert len(index.reconstruct_n(5, 0)) == 0
    with pytest.raises(InvalidInputError, match="id is 5; the index has no vector"):
        index.reconstruct_n(4, 2)


def test_one_row_in_a_million_and_all_of_them(trained):
    """Exact whatever share of the rows takes part."""
    n = 1_000_000
    codes = RNG.integers(0, 256, (n, 2), np.uint8)
    index = empty_like(trained)
    index.collection.add(codes, attributes={"number": np.arange(n)})
    tables = trained.codec.tables(QUERIES).astype(np.float64)
    distances = (tables[:, 0, codes[:, 0]] + tables[:, 1, codes[:, 1]]).astype(np.float32)
    for low, high in ((0, n), (1, n), (777, 778), (5, 5), (n - 1, n), (64, 128), (100, 999_000)):
        D, I = index.search(QUERIES, 20, where=f"{low} <= number < {high}")  # noqa: E741
        for q in range(3):
            rows = np.arange(low, high)
            best = rows[np.lexsort((rows, distances[q, low:high]))][:20]
            assert I[q, : len(best)].tolist() == best.tolist()
            assert (I[q, len(best) :] == -1).all()
            np.testing.assert_array_equal(D[q, : len(best)], distances[q, best])


def test_merging_other_codecs_says_why_not(trained):
    index = filled(trained)
    other = HiHPQIndex(D_IN, 1, device="cpu")
    other.train(X, recipe=SMALL)
    with pytest.raises(InvalidInputError, match=r"other cannot be merged: M is 2 here and 1 there"):
        index.merge_from(other)
    apart = HiHPQIndex(D_IN, 2, device="cpu")
    apart.train(X * 2 + 1, recipe=SMALL)
    with pytest.raises(InvalidInputError, match="learned apart"):
        index.merge_from(apart)
    with pytest.raises(InvalidInputError, match=r"id 0 of other is taken.*pass add_id=199"):
        index.merge_from(filled(trained, 3))
    with pytest.raises(InvalidInputError, match="would leave 0 to"):
        index.merge_from(filled(trained, 3), add_id=-1)
    with pytest.raises(InvalidInputError, match="attributes are none; expected number, word"):
        plain = empty_like(trained)
        plain.add(X[:2])
        index.merge_from(plain, add_id=500)
    with pytest.raises(NotTrainedError):
        index.merge_from(HiHPQIndex(D_IN, 2, device="cpu"))
    assert index.ntotal == 100


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda i: i.add_with_ids(X[:2], None), "ids are None"),
        (lambda i: i.add_with_ids(X[:2], [1, 2]), "ids contain 2, which the index has already"),
        (lambda i: i.add(X[:2]), "attributes are none; expected number, word"),
        (lambda i: i.add(X[:2], attributes={"number": [1, 2]}), "attributes are number; expected"),
        (lambda i: i.add(X[:2], attributes=columns_of([1], "ab")), r"attribute number has shape"),
        (lambda i: i.add(X[:2], attributes={"number": [1.5, 2], "word": "ab"}), "attribute"),
        (
            lambda i: i.add(X[:2], attributes={"number": [1.5, 2], "word": ["a", "b"]}),
            "attribute number has float64 values; expected int64",
        ),
        (lambda i: i.remove_ids(), "neither ids nor where"),
        (lambda i: i.remove_ids([[1]]), "ids have shape"),
        (lambda i: i.remove_ids([1.5]), "ids have dtype float64"),
        (lambda i: i.remove_ids(where="numbr < 3"), "names 'numbr'.*one of id, number, word"),
        (lambda i: i.remove_ids(where="path == 'x'"), "where names 'path'"),
        (lambda i: i.update(X[:2], [2, 3]), "id is 3; the index has no vector"),
        (lambda i: i.update(X[:2], [2, 2]), "ids contain 2 twice"),
        (lambda i: i.update(X[:2], [2]), "ids have shape"),
        (lambda i: i.update(X[:1], [2], attributes={"color": [1]}), "attributes have color"),
        (lambda i: i.update(X[:1], [2], attributes={"number": [0.5]}), "expected int64"),
        (lambda i: i.reconstruct_batch([0, 1]), "id is 1; the index"),
        (lambda i: i.reconstruct_batch([-1]), "ids contain -1"),
        (lambda i: i.attributes_of([5]), "id is 5; the index"),
        (lambda i: i.range_search(QUERIES, float("nan")), "radius is NaN"),
        (lambda i: i.range_search(QUERIES, "far"), "radius is 'far'"),
        (lambda i: i.range_search(QUERIES[:, :2], 1), "width 2"),
        (lambda i: i.search(QUERIES, 1, where="number <"), "where"),
        (
            lambda i: i.search(
                QUERIES, 1, where="number < 3", params=SearchParameters(where="number > 1")
            ),
            "where is given twice",
        ),
        (lambda i: i.reconstruct_n(0, -2), "ni is -2"),
    ],
)
def test_wrong_input_changes_nothing(trained, call, match):
    index = filled(trained)
    before = (index.ids.tolist(), index.next_id)
    with pytest.raises(InvalidInputError, match=match):
        call(index)
    assert (index.ids.tolist(), index.next_id) == before


def test_another_process_commits_meanwhile(trained, tmp_path):
    index = filled(trained, 20)
    index.save(tmp_path / "i")
    reader = HiHPQIndex.load(tmp_path / "i", device="cpu")
    before = reader.search(QUERIES, 5)
    index.remove_ids(IDSelectorArray(before[1].ravel()))
    index.compact()
    np.testing.assert_array_equal(reader.search(QUERIES, 5)[1], before[1])
    with pytest.raises(StoreError, match="refresh the index"):
        reader.reset()
    assert reader.refresh()
    assert not reader.refresh()
    np.testing.assert_array_equal(reader.ids, index.ids)
    reader.reset()
    assert index.refresh()
    assert index.ntotal == 0


def test_durability_is_one_of_two(trained, tmp_path):
    filled(trained, 3).save(tmp_path / "i")
    index = HiHPQIndex.load(tmp_path / "i", device="cpu", durability="fast")
    index.add(X[:1], attributes=columns_of([1], ["a"]))
    assert HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True).ntotal == 4
    with pytest.raises(InvalidInputError, match="durability is 'none'; expected"):
        HiHPQIndex.load(tmp_path / "i", durability="none")


def test_many_small_additions_are_joined(trained, tmp_path):
    index = empty_like(trained)
    for i in range(20):
        index.add(X[i : i + 1])
    assert [s.codes.n for s in index.collection.view().code_segments()] == [16, 4]
    np.testing.assert_array_equal(index.reconstruct_n(), trained.decode(trained.encode(X[:20])))


PATHS = [b"/a/%d.jpg" % i for i in range(5)]


@pytest.fixture(params=["memory", "disk"])
def rows(request, trained, tmp_path):
    """Collection of five rows with paths and an attribute, and its codes."""
    index = empty_like(trained)
    if request.param == "disk":
        index.save(tmp_path / "index")
    index.collection.add(CODES[:5], attributes={"size": np.arange(5)}, paths=PATHS)
    return index.collection


CODES = np.random.default_rng(1).integers(0, 256, (20, 2), np.uint8)


def test_codes_paths_and_attributes_by_id(rows):
    view = rows.view()
    assert view.paths_of([3, 0, 3]) == [PATHS[3], PATHS[0], PATHS[3]]
    np.testing.assert_array_equal(view.codes_of([4, 1]), CODES[[4, 1]])
    assert view.attributes_of([2])["size"].tolist() == [2]
    assert view.paths_of([]) == []
    assert view.select(where="endswith(path, '3.jpg') or size == 0").tolist() == [0, 3]
    for read in (view.paths_of, view.codes_of, view.attributes_of):
        with pytest.raises(InvalidInputError, match="id is 9; the index has no vector"):
            read([1, 9])


def test_rows_are_replaced_in_one_transaction(rows):
    before = rows.snapshot
    rows.add(
        CODES[5:8],
        [1, 7, 6],
        attributes={"size": [50, 60, 70]},
        paths=[b"/b", b"/c", b"/d"],
        remove=[1, 2, 99],
    )
    assert rows.snapshot == (before + 1 if rows.path else 0)
    view = rows.view()
    assert view.ids.tolist() == [0, 1, 3, 4, 6, 7]
    assert view.paths_of([1, 7, 6]) == [b"/b", b"/c", b"/d"]
    np.testing.assert_array_equal(view.codes_of([1, 7, 6]), CODES[5:8])
    rows.add(np.empty((0, 2), np.uint8), remove=[0])
    assert rows.view().ids.tolist() == [1, 3, 4, 6, 7]
    assert rows.next_id == 8


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.add(CODES[:2], [7, 3], paths=PATHS[:2]), "ids contain 3, which the index has"),
        (lambda c: c.add(CODES[:2], [7, 3], remove=[4]), "ids contain 3, which the index has"),
        (lambda c: c.add(CODES[:2], [7, 7]), "ids contain 7 twice"),
        (lambda c: c.add(CODES[:2]), "attributes are none; expected path, size"),
        (
            lambda c: c.add(CODES[:2], attributes={"size": [1, 2]}),
            "attributes are size; expected path, size",
        ),
        (lambda c: c.add(CODES[:2], attributes={"size": [1]}, paths=PATHS[:2]), "attribute size"),
        (lambda c: c.add(CODES[:2, :1]), r"expected uint8 of shape \(n, 2\)"),
        (lambda c: c.add(CODES[:2], remove=[-1]), "ids contain -1"),
        (lambda c: c.update([1, 9], CODES[:2]), "id is 9"),
        (lambda c: c.update([1], CODES[:2]), "ids have shape"),
        (lambda c: c.update([1], CODES[:1], attributes={"path": ["x"]}), "attribute 'path'"),
        (lambda c: c.write_report("../x", b""), "report"),
    ],
)
def test_a_refused_change_changes_nothing(rows, change, match):
    before = rows.snapshot, rows.next_id, rows.view().ids.tolist()
    with pytest.raises(InvalidInputError, match=match):
        change(rows)
    assert (rows.snapshot, rows.next_id, rows.view().ids.tolist()) == before


def test_codes_that_change_later_do_not_reach_the_rows(rows):
    codes, sizes = CODES[:2].copy(), np.arange(2)
    rows.add(codes, attributes={"size": sizes}, paths=PATHS[:2])
    rows.update([0], codes[:1])
    codes[:], sizes[:] = 0, 9
    np.testing.assert_array_equal(rows.view().codes_of([5, 6, 0]), CODES[[0, 1, 0]])
    assert rows.view().attributes_of([5, 6])["size"].tolist() == [0, 1]


def test_batches_are_all_rows_once(rows):
    rows.remove([2])
    for size in (1, 3, 100):
        batches = list(rows.view().batches(size))
        assert max(batch.n for batch in batches) <= size
        assert [i for batch in batches for i in batch.ids.tolist()] == [0, 1, 3, 4]
        assert [p for batch in batches for p in batch.paths] == [PATHS[i] for i in (0, 1, 3, 4)]


def test_a_filter_by_a_column_that_is_not_there(rows, trained):
    """Text without quotes is taken for a column."""
    message = (
        "where names 'cats', which is no column of the index; expected one of id, path, size; text "
        "is written in quotes within the condition, as in \"path == 'cats'\"."
    )
    with pytest.raises(InvalidInputError) as caught:
        rows.view().select(where="path == cats")
    assert str(caught.value) == message
    plain = empty_like(trained)
    plain.add(X[:3])
    for name in ("path", "size"):
        with pytest.raises(InvalidInputError, match=f"names '{name}', .*; expected id.$"):
            plain.search(QUERIES, 2, where=f"{name} == 'a'")


def test_columns_of_an_index_without_attributes(trained):
    index = empty_like(trained)
    index.add(X[:3])
    with pytest.raises(InvalidInputError) as caught:
        index.add(X[:1], attributes={"size": [1]})
    assert str(caught.value) == "attributes are size; expected none, as the index has none."
    with pytest.raises(InvalidInputError, match="attributes have size; the index has none; rows"):
        index.update(X[:1], [0], attributes={"size": [1]})
    with pytest.raises(InvalidInputError, match=r"have size; expected number, word, as the index"):
        filled(trained, 3).update(X[:1], [0], attributes={"size": [1]})


def test_deleted_rows_and_segments_are_counted(rows):
    rows.remove([1, 2])
    assert (rows.ntotal, rows.n_segments) == (3, 1)
    assert rows.n_deleted == (2 if rows.path else 0)
    assert rows.compact() == bool(rows.path)
    assert (rows.ntotal, rows.n_segments, rows.n_deleted) == (3, 1, 0)


def test_reports_lie_beside_an_index_on_disk(rows):
    assert rows.read_report("notes.txt") is None
    if rows.path is None:
        with pytest.raises(InvalidInputError, match="in memory; expected one in a directory"):
            rows.write_report("notes.txt", b"x")
        return
    rows.write_report("notes.txt", b"x")
    assert rows.read_report("notes.txt") == b"x"
    assert (rows.path / "notes.txt").read_bytes() == b"x"
    rows.remove_leftovers()
    assert verify_directory(rows.path) == []


def test_no_paths_are_an_error(trained):
    index = filled(trained, 3)
    with pytest.raises(InvalidInputError, match="no paths"):
        index.collection.view().paths_of([0])
