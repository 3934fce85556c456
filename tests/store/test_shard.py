"""Shards: the layout on disk, and what is mapped, read and checked."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from conformance import labelled_rows
from store_tools import assert_same_rows, make_rows, make_store

from hyperpq.errors import CorruptIndexError
from hyperpq.store import IndexStore, Shard, live_batches


def test_columns_are_mapped_not_read(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    rows = make_rows(30_000, code_size=8)
    store.commit(append=[rows])
    shard = IndexStore.open(tmp_path / "index").segments[0]
    assert_same_rows(shard, rows)
    assert isinstance(shard.tiled.data, np.memmap)
    assert isinstance(shard.ids, np.memmap)
    assert not shard.tiled.data.flags.writeable
    # A byte changed in the file shows in the array: it is the file, at HDF5's own offset.
    with h5py.File(tmp_path / "index/shards/000000.h5", "r") as file:
        offset = file["codes"].id.get_offset()
        np.testing.assert_array_equal(as_documented(file, len(rows.codes)), rows.codes)
        assert file["path_bytes"][:].tobytes() == b"".join(rows.paths)
    with open(tmp_path / "index/shards/000000.h5", "r+b") as file:
        file.seek(offset)
        file.write(bytes([rows.codes[0, 0] ^ 255]))
    assert shard.codes[0, 0] == rows.codes[0, 0] ^ 255


def as_documented(file, rows):
    """The codes by the lines of the documented format."""
    (page,) = (Path(__file__).parents[2] / "docs").rglob("format.md")
    text = page.read_text("utf-8")
    (lines,) = re.findall(r"In Python, all codes .*?```python\n(.*?)```", text, flags=re.DOTALL)
    names = {"np": np, "file": file, "rows": rows}
    names["code_size"] = file["codes"].size // (64 * -(-rows // 64)) if rows else 1
    exec(lines, names)
    return names["codes"]


def test_h5py_reads_every_dataset(tmp_path):
    store = make_store(tmp_path / "index")
    for shard in store.segments:
        with h5py.File(tmp_path / "index" / shard.entry.file, "r") as file:
            assert sorted(file) == ["attributes", "codes", "ids", "path_bytes", "path_offsets"]
            np.testing.assert_array_equal(as_documented(file, shard.n), shard.codes)
            np.testing.assert_array_equal(file["attributes/int32"][:], shard.attribute("int32"))
    with h5py.File(tmp_path / "index/dead/000001-00000003.h5", "r") as file:
        assert file["rows"][:].tolist() == [0, 6]


def test_opening_reads_small_shards_and_maps_large_ones(tmp_path):
    store = make_store(tmp_path / "index")
    store.commit(append=[make_rows(9000, first=100)])
    small, _, large = IndexStore.open(tmp_path / "index").segments
    assert not isinstance(small.ids, np.memmap)
    assert isinstance(large.ids, np.memmap)
    for number, byte in ((2, -1), (0, 700)):
        file = tmp_path / f"index/shards/{number:06d}.h5"
        data = bytearray(file.read_bytes())
        data[byte] ^= 1
        file.write_bytes(data)
        if number == 2:
            # Its checksum is compared by verify alone.
            assert IndexStore.open(tmp_path / "index").ntotal == 9010
            assert [problem.file for problem in store.verify()] == ["shards/000002.h5"]
    with pytest.raises(CorruptIndexError, match=r"000000.h5: the checksum is wrong"):
        IndexStore.open(tmp_path / "index")


def test_features_are_mapped_and_only_rows_that_are_asked_for_are_read(tmp_path, monkeypatch):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    rows = make_rows(3000, feature_size=500)
    store.commit(append=[rows])
    (shard,) = IndexStore.open(tmp_path / "index", verify=True).segments
    assert isinstance(shard.features, np.memmap)
    assert not shard.features.flags.writeable
    with h5py.File(store.path / shard.entry.file, "r") as file:
        assert file["features"].id.get_offset() % 64 == 0
        np.testing.assert_array_equal(file["features"][:], rows.features)
    np.testing.assert_array_equal(shard.features[[7, 2, 7]], rows.features[[7, 2, 7]])
    # Nothing but what asks for features looks at them.
    read = []
    original = Shard._column

    def column(self, name):
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(Shard, "_column", column)
    store = IndexStore.open(tmp_path / "index")
    list(store.find(np.arange(50)))
    list(live_batches(store.segments, features=False))
    store.commit(delete={0: [5]})
    assert {"codes", "ids", "path_bytes"} <= {*read}
    assert "features" not in read
    assert store.segments[0].take(np.array([3])).features.tolist() == [rows.features[3].tolist()]
    assert "features" in read


@pytest.mark.parametrize(
    ("dataset", "wrong", "message"),
    [
        ("categories/kind", b"\xff\xff\xff\x7f" * 9, "/categories/kind is out of range"),
        ("categories/kind", b"\xfe\xff\xff\xff" * 9, "/categories/kind is out of range"),
        ("label_bytes/kind", b"\xff" * 9, "/label_bytes/kind is not UTF-8"),
        ("label_bytes/kind", b"kind 2kind 2", "/label_bytes/kind has a string twice"),
        ("label_offsets/kind", b"\1" * 8, "/label_offsets/kind: the offsets do not rise"),
    ],
)
def test_torn_categories_are_never_read_as_data(tmp_path, dataset, wrong, message):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[labelled_rows(30_000)])
    entry = store.segments[0].entry
    with open(store.path / entry.file, "r+b") as file:  # mapped: no checksum is compared
        file.seek(entry.columns[dataset].offset)
        file.write(wrong)
    (shard,) = IndexStore.open(store.path).segments
    with pytest.raises(CorruptIndexError, match=message):
        shard.attribute("kind")
    with pytest.raises(CorruptIndexError, match=message):
        shard.attribute_at("kind", np.arange(8))


def test_only_labels_that_are_asked_for_are_read(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[labelled_rows(30_000)])
    column = store.segments[0].attribute_at("kind", np.array([29_999, 3, 3, 7, 0]))
    assert set(column.labels) == set(column.strings()) - {None}
