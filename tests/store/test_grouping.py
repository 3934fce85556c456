"""Codes in the order of cells: everything else about a segment is as without cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_tools import assert_same_rows, contents, make_rows

from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.store import IndexStore, MemoryStore, Rows, segments
from hyperpq.store.grouping import CellNumbers
from hyperpq.store.manifest import CELLS_FILE


def in_cells(rows: Rows, count: int, seed: int = 0) -> Rows:
    numbers = np.random.default_rng(seed).integers(0, count, rows.n).astype(np.int32)
    return rows.grouped(CellNumbers(numbers, count))


def make_store(path, kind):
    if kind == "memory":
        return MemoryStore()
    return IndexStore.create(path, settings={}, files={CELLS_FILE: b"c" * 9})


def check_scanned(segment, mask=None):
    """What the scan reads: each row once, with its code, in the run of its cell."""
    codes, ids, bits, starts = segment.scanned(mask)
    cells = segment.cells
    assert starts[0] == 0
    assert starts[-1] == segment.n == codes.n
    order = np.argsort(ids)
    np.testing.assert_array_equal(ids[order], segment.ids)
    np.testing.assert_array_equal(codes.rows()[order], segment.codes)
    placed = np.repeat(np.arange(cells.count), np.diff(starts))
    np.testing.assert_array_equal(placed[order], cells.numbers)
    taken = np.ones(segment.n, bool)
    if bits is not None:
        taken = np.unpackbits(bits.view(np.uint8), count=segment.n, bitorder="little") > 0
    expected = np.ones(segment.n, bool)
    expected[segment.deleted_rows] = False
    np.testing.assert_array_equal(taken[order], expected if mask is None else mask)


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_segments_in_cells_have_the_rows_of_segments_without(tmp_path_factory, kind):
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 2**32 - 1),
        sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4),
        count=st.integers(1, 40),
        has_gaps=st.booleans(),
    )
    def check(seed, sizes, count, has_gaps):
        rng = np.random.default_rng(seed)
        store = make_store(tmp_path_factory.mktemp("s") / "store", kind)
        plain = MemoryStore()
        ids = rng.permutation(sum(sizes)) * (2**50 if has_gaps else 1)
        for n, some in zip(sizes, np.split(ids, np.cumsum(sizes)[:-1]), strict=True):
            made = make_rows(n, feature_size=3)
            rows = Rows(made.codes, some, made.attributes, made.paths, made.features)
            # One at a time, so that small ones are joined.
            plain.append(rows)
            store.append(in_cells(rows, count, seed))
        if kind == "directory":
            store = IndexStore.open(store.path)
            assert store.verify() == []
        removed = rng.permutation(ids)[: len(ids) // 3]
        for one in (plain, store):
            found = {p: rows[rows >= 0] for p, rows, _ in one.find(removed)}
            assert sum(map(len, found.values())) == len(removed)
            one.commit(delete=found)
        for step in range(2):
            assert contents(store) == contents(plain)
            for segment in store.segments:
                check_scanned(segment)
                check_scanned(segment, rng.random(segment.n) < 0.5)
                some = rng.permutation(segment.n)[: segment.n // 2]
                np.testing.assert_array_equal(segment.codes_at(some), segment.codes[some])
                taken = segment.take(some)
                np.testing.assert_array_equal(taken.ids, np.sort(segment.ids[some]))
                np.testing.assert_array_equal(
                    taken.cells.numbers, segment.cells.numbers[np.sort(some)]
                )
                asked = np.concatenate([segment.ids, segment.ids + 1, [-1]])
                expected = {id: row for row, id in enumerate(segment.ids.tolist())}
                gone = segment.ids[segment.deleted_rows].tolist()
                want = [-1 if id in gone else expected.get(id, -1) for id in asked.tolist()]
                assert segment.find(asked).tolist() == want
            if step == 0:
                store.compact()
                plain.compact()

    check()


def test_the_file_of_a_shard_has_the_same_rows_in_another_order(tmp_path):
    store = make_store(tmp_path / "store", "directory")
    rows = in_cells(make_rows(5000, feature_size=2), 30)
    store.commit(append=[rows])
    for stored in (*store.segments, *IndexStore.open(tmp_path / "store").segments):
        assert_same_rows_but_codes(stored, rows)
    assert store.manifest.version == 6


def assert_same_rows_but_codes(stored, rows):
    plain = rows.grouped(None)
    assert_same_rows(stored.take(np.arange(rows.n)).grouped(None), plain)
    np.testing.assert_array_equal(stored.codes, plain.codes)
    np.testing.assert_array_equal(stored.ids, plain.ids)


@pytest.mark.parametrize("has_paths", [False, True])
def test_compaction_joins_more_rows_that_are_in_cells_and_have_only_codes(
    tmp_path, monkeypatch, has_paths
):
    monkeypatch.setattr(segments, "MAX_COMPACTED_ROWS", 9)
    monkeypatch.setattr(segments, "MAX_GROUPED_BYTES", 25 * (4 + 8))
    store = make_store(tmp_path / "store", "directory")
    for first in range(0, 40, 8):
        rows = make_rows(8, first=first, paths=has_paths)
        rows = rows if has_paths else Rows(rows.codes, rows.ids)
        store.commit(append=[in_cells(rows, 3, first)])
    store.commit(delete={1: [0]})
    before = contents(store)
    store.compact()
    sizes = sorted(shard.n for shard in store.segments)
    assert sizes == ([7, 8, 8, 8, 8] if has_paths else [16, 23])
    assert contents(store) == before
    # A segment that compaction made is not divided by the next one.
    store.commit(delete={0: [0]})
    store.compact()
    assert len(store.segments) == (5 if has_paths else 2)


@pytest.mark.parametrize("count", [0, 7])
def test_a_store_has_one_number_of_cells(tmp_path, count):
    for kind in ("memory", "directory"):
        store = make_store(tmp_path / kind, kind)
        store.commit(append=[in_cells(make_rows(5), 3)])
        other = make_rows(5, first=5)
        with pytest.raises(InvalidInputError, match=f"in {count or 'no'} cells; expected 3"):
            store.append(in_cells(other, count) if count else other)
        assert store.ntotal == 5


@pytest.mark.parametrize(
    "cells",
    [
        CellNumbers(np.zeros(4, np.int32), 3),
        CellNumbers(np.zeros(5, np.int64), 3),
        CellNumbers(np.full(5, 3, np.int32), 3),
        CellNumbers(np.full(5, -1, np.int32), 3),
        CellNumbers(np.zeros(5, np.int32), 0),
    ],
)
def test_wrong_cells_are_refused(cells):
    made = make_rows(5)
    with pytest.raises(InvalidInputError, match="cells"):
        Rows(made.codes, made.ids, cells=cells)


def test_altered_places_are_named(tmp_path):
    """In a file that is mapped, and so not checked when it is opened."""
    store = make_store(tmp_path / "store", "directory")
    n = 40_000
    rows = Rows(np.zeros((n, 8), np.uint8), np.arange(n))
    store.commit(append=[in_cells(rows, 30)])
    (shard,) = store.segments
    assert shard.entry.content.size > 1 << 18
    for column, what in (("places", "out of range"), ("cell_starts", "do not divide")):
        extent = shard.entry.columns[column]
        path = tmp_path / "store" / shard.entry.file
        data = bytearray(path.read_bytes())
        before = bytes(data)
        data[extent.offset : extent.offset + 8] = b"\xff" * 8
        path.write_bytes(data)
        with pytest.raises(CorruptIndexError, match=f"000000.h5: /{column}.*{what}"):
            IndexStore.open(tmp_path / "store").segments[0].codes_at(np.arange(3))
        assert IndexStore.open(tmp_path / "store").verify() != []
        path.write_bytes(before)
