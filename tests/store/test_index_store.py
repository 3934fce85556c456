"""`IndexStore`: places, files, snapshots and other writers; rows are tested by `StoreTests`."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from conformance import StoreTests
from store_tools import assert_same_rows, contents, make_rows, make_store

from hyperpq.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    InvalidInputError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.store import IndexStore, live_batches, verify_directory


class TestIndexStore(StoreTests):
    def create(self, folder):
        store = IndexStore.create(folder, settings={}, files={})
        # Thousands of fsyncs would take minutes on a disk; other tests have them.
        store.durability = "fast"
        return store

    def reopen(self, store):
        opened = IndexStore.open(store.path, verify=True)
        opened.durability = "fast"
        return opened

    def check(self, store):
        assert store.verify() == []


def test_settings_and_files_are_read_back(tmp_path):
    settings, files = {"x": [1, None, "é"]}, {"a": b"", "b.bin": b"xy"}
    store = IndexStore.create(tmp_path / "index", settings=settings, files=files)
    store.commit(append=[make_rows(3), make_rows(2, first=3)], next_id=77)
    store.commit(append=[make_rows(2, first=8)])
    for view in (store, IndexStore.open(store.path, verify=True)):
        assert [shard.name for shard in view.segments] == ["000000", "000001", "000002"]
        assert (view.settings, view.next_id, view.snapshot_number) == (settings, 77, 3)
        assert view.file_names == ["a", "b.bin"]
        assert (view.read_file("a"), view.read_file("b.bin")) == (b"", b"xy")
        view.settings["x"].append(5)
        assert view.settings == settings
    store.commit(settings={"y": 1})
    assert IndexStore.open(store.path).settings == {"y": 1}
    assert "snapshot_number=4, ntotal=7" in repr(store)


def test_files_of_joined_shards_go(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    for i in range(100):
        store.append(make_rows(1, first=i), next_id=i + 1)
    names = sorted(path.name for path in (tmp_path / "index/shards").iterdir())
    assert names == ["000063.h5", "000095.h5", "000099.h5"]


def test_a_store_can_be_copied_without_what_is_deleted(tmp_path):
    source = make_store(tmp_path / "a")
    target = IndexStore.create(tmp_path / "b", settings={}, files={})
    target.commit(append=live_batches(source.segments, max_rows=3))
    assert [shard.n for shard in target.segments] == [3, 2, 2, 3]
    assert contents(target) == contents(source)


def test_tombstones_add_up_and_old_files_go(tmp_path):
    store = make_store(tmp_path / "index")
    assert store.ntotal == 10
    store.commit(delete={1: np.array([0, 3, 3], np.uint8), 0: []})
    assert store.segments[1].deleted_rows.tolist() == [0, 3, 6]
    assert store.ntotal == 9
    assert sorted(os.listdir(tmp_path / "index/dead")) == ["000001-00000004.h5"]
    opened = IndexStore.open(tmp_path / "index", verify=True)
    assert opened.segments[1].deleted_rows.tolist() == [0, 3, 6]
    assert opened.verify() == []


def test_equal_content_gives_identical_files(tmp_path):
    stores = [make_store(tmp_path / "a")]
    time.sleep(1.1)  # HDF5 keeps times in seconds
    stores.append(make_store(tmp_path / "b"))
    listed = [
        sorted(p.relative_to(s.path) for p in s.path.rglob("*") if p.is_file()) for s in stores
    ]
    assert listed[0] == listed[1]
    for name in listed[0]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert stores[0].fingerprint() == stores[1].fingerprint()


def test_fingerprint_is_of_the_content(tmp_path):
    store = make_store(tmp_path / "index")
    seen = [store.fingerprint()]
    store.commit()
    assert store.fingerprint() == seen[0]
    store.commit(settings={"score": "chord"})
    seen.append(store.fingerprint())
    store.commit(delete={0: [1]})
    seen.append(store.fingerprint())
    store.commit(append=[make_rows(1, first=50)])
    seen.append(store.fingerprint())
    assert len(set(seen)) == 4


def test_importing_the_store_is_light():
    code = "import sys, hyperpq.store; print({'torch', 'faiss', 'h5py'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_bad_commits_write_nothing(tmp_path):
    store = make_store(tmp_path / "index")

    def state():
        return store.snapshot_number, store.fingerprint(), sorted(os.listdir(store.path / "shards"))

    before = state()
    for arguments, message in (
        ({"settings": {"x": float("nan")}}, "settings cannot be stored as JSON"),
        ({"settings": {"x": object()}}, "settings cannot be stored as JSON"),
        ({"settings": [1]}, "settings are of .*list.*; expected a dict"),
        ({"append": [make_rows(2, code_size=5)]}, "code_size 5"),
        ({"append": [make_rows(9, first=50), make_rows(2, first=70, paths=False)]}, "columns"),
        ({"delete": {0: [5]}}, "row 5"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            store.commit(**arguments)
    assert state() == before


def test_create_needs_a_free_place(tmp_path):
    (tmp_path / "empty").mkdir()
    IndexStore.create(tmp_path / "empty", settings={}, files={})
    with pytest.raises(StoreError, match="already an index; choose another place"):
        IndexStore.create(tmp_path / "empty", settings={}, files={})
    (tmp_path / "full").mkdir()
    (tmp_path / "full/holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"not empty \(holiday.jpg\)"):
        IndexStore.create(tmp_path / "full", settings={}, files={})
    assert os.listdir(tmp_path / "full") == ["holiday.jpg"]
    # An index that has lost its manifest isn't a free place: its shards may be all there is.
    (make_store(tmp_path / "index").path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not empty"):
        IndexStore.create(tmp_path / "index", settings={}, files={"codec.safetensors": b""})
    for name in ("manifest.json", "../x", "a/b", ".lock", "", "x.tmp", "shards"):
        with pytest.raises(InvalidInputError, match="files"):
            IndexStore.create(tmp_path / "new", settings={}, files={name: b""})
    assert not (tmp_path / "new").exists()


def test_opening_nothing_says_what_to_do(tmp_path):
    with pytest.raises(IndexNotFoundError, match=r"no such folder.*hyperpq build"):
        IndexStore.open(tmp_path / "nowhere")
    with pytest.raises(IndexNotFoundError, match=r"no manifest.json.*hyperpq build"):
        IndexStore.open(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("elsewhere")
    for name, message in (
        ("file", "this is a file; an index is a folder"),
        ("file/index", "no such folder"),
        ("link", "the link leads nowhere"),
    ):
        with pytest.raises(IndexNotFoundError, match=message):
            IndexStore.open(tmp_path / name)
        with pytest.raises(IndexNotFoundError, match=message):
            verify_directory(tmp_path / name)
        assert not IndexStore.exists(tmp_path / name)
    with pytest.raises(StoreError, match="cannot read: File name too long"):
        IndexStore.open(tmp_path / ("x" * 300))


def test_reports(tmp_path):
    store = make_store(tmp_path / "index")
    assert store.read_report("skipped.csv") is None
    store.write_report("skipped.csv", b"one")
    store.write_report("skipped.csv", b"two")
    assert IndexStore.open(store.path, verify=True).read_report("skipped.csv") == b"two"
    assert store.verify() == []
    for name in ("manifest.json", "../a.csv", "a/b.csv", "a.exe", ".csv", "codec.safetensors", ""):
        with pytest.raises(InvalidInputError):
            store.write_report(name, b"")


def test_altered_file_is_named(tmp_path):
    store = make_store(tmp_path / "index")
    (store.path / "codec.safetensors").write_bytes(b"d" * 99)
    with pytest.raises(CorruptIndexError, match=r"codec.safetensors: the checksum is wrong"):
        IndexStore.open(store.path).read_file("codec.safetensors")
    with pytest.raises(CorruptIndexError, match=r"codec.safetensors: the checksum is wrong"):
        IndexStore.open(store.path, verify=True)
    with pytest.raises(CorruptIndexError, match=r"no file 'other'; expected codec\.safe"):
        store.read_file("other")


def test_read_only_file_system(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    (store.path / ".lock").unlink()

    real_open = os.open

    def read_only_open(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real_open(path, flags, *rest, **options)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only_open)
    for name in ("mkdir", "unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    opened = IndexStore.open(store.path, verify=True)
    assert_same_rows(opened.segments[0], make_rows(5))
    assert opened.verify() == []
    with pytest.raises(StoreError, match="Read-only file system"):
        opened.commit(next_id=99)


def test_writer_that_fell_behind_is_refused(tmp_path):
    first = make_store(tmp_path / "index")
    second = IndexStore.open(tmp_path / "index")
    first.commit(delete={1: [1]})
    message = "changed by another writer; refresh the index, then try"
    with pytest.raises(SnapshotChangedError, match=message):
        second.commit(next_id=50)
    # It still reads the snapshot that it opened, though the file of its tombstones is gone.
    assert (second.ntotal, first.ntotal) == (10, 9)
    assert len(second.segments[1].deleted_rows) == 2
    IndexStore.open(tmp_path / "index").commit(next_id=50)


def test_a_copy_without_empty_folders_works(tmp_path):
    IndexStore.create(tmp_path / "index", settings={}, files={})
    (tmp_path / "index/shards").rmdir()
    (tmp_path / "index/dead").rmdir()
    store = IndexStore.open(tmp_path / "index", verify=True)
    store.commit(append=[make_rows(2)])
    assert IndexStore.open(store.path, verify=True).ntotal == 2


def test_compacting_leaves_readers_alone(tmp_path):
    store = make_store(tmp_path / "index")
    reader, expected = IndexStore.open(store.path), contents(store)
    assert store.compact()
    assert not store.compact()
    assert [shard.n for shard in store.segments] == [10]
    assert contents(store) == contents(reader) == expected
    assert reader.snapshot_number < store.snapshot_number
    names = [p.name for p in store.path.rglob("*.h5")]
    assert names == ["000002.h5"]
    assert reader.refresh()
    assert not reader.refresh()
    assert contents(reader) == expected
    reader.commit(delete={0: np.arange(10)})
    assert (reader.segments, reader.ntotal) == ((), 0)
    assert store.refresh()
    assert store.segments == ()
    assert list(store.path.rglob("*.h5")) == []


def test_refreshing_takes_over_what_is_mapped(tmp_path):
    store = make_store(tmp_path / "index")
    reader = IndexStore.open(store.path)
    before = reader.segments[0]._bytes
    store.commit(append=[make_rows(4, first=90)], delete={0: [1]})
    assert reader.refresh()
    assert reader.segments[0]._bytes is before
    assert contents(reader) == contents(store)
    shards = reader.segments
    store.commit(append=[make_rows(4, first=95)])
    assert reader.refresh()
    assert reader.segments[:-1] == shards  # not even their tombstones are read again
    assert contents(reader) == contents(store)
