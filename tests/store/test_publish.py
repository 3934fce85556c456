"""Indexes published inside a folder: names in the manifest, and what strangers make of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from store_tools import contents, make_rows, make_store, rewrite_manifest

from hyperpq.errors import CorruptIndexError, StoreError
from hyperpq.store import IndexStore, Place, find_place, replace_directory, verify_directory
from hyperpq.store.leftovers import UNPUBLISHED_NAME, unpublished_names

FILE = "00000004.codec.safetensors"


@pytest.fixture
def published(tmp_path) -> Path:
    """An index that took the place of another one with a codec file of the same name."""
    path = make_store(tmp_path / "index").path
    new = IndexStore.create(
        path / ".building/index", settings={"score": "l1"}, files={"codec.safetensors": b"d" * 50}
    )
    new.commit(append=[make_rows(6, first=20), make_rows(2, first=40)], next_id=42)
    new.commit(delete={0: [3]})
    replace_directory(new.path, path)
    (path / ".building").rmdir()
    return path


def test_files_that_differ_get_names_of_their_own(published):
    store = IndexStore.open(published, verify=True)
    assert sorted(os.listdir(published)) == [".lock", FILE, "dead", "manifest.json", "shards"]
    assert os.listdir(published / "dead") == ["000002-00000004.h5"]
    assert store.file_names == ["codec.safetensors"]
    assert store.read_file("codec.safetensors") == b"d" * 50
    assert (store.snapshot_number, store.ntotal, store.next_id) == (4, 7, 42)
    assert [shard.name for shard in store.segments] == ["000002", "000003"]
    assert verify_directory(published) == []
    store.commit(append=[make_rows(1, first=50)], settings={"score": "chord"})
    again = IndexStore.open(published, verify=True)
    assert again.read_file("codec.safetensors") == b"d" * 50
    assert contents(again) == contents(store)


def test_the_fingerprint_is_that_of_the_content(published, tmp_path):
    store = IndexStore.open(published)
    copy = IndexStore.create(
        tmp_path / "copy",
        settings=store.settings,
        files={"codec.safetensors": store.read_file("codec.safetensors")},
    )
    copy.commit(append=[make_rows(6, first=20), make_rows(2, first=40)], next_id=42)
    copy.commit(delete={0: [3]})
    assert copy.fingerprint() == store.fingerprint()


def test_another_index_inside_is_another_index(tmp_path):
    reader = make_store(tmp_path / "index")
    new = IndexStore.create(
        reader.path / ".building/index", settings={}, files={"codec.safetensors": b""}
    )
    replace_directory(new.path, reader.path)
    with pytest.raises(StoreError, match="another index is in this place now"):
        reader.refresh()
    assert reader.ntotal == len(contents(reader)) == 10


@pytest.mark.parametrize(
    "name",
    [
        *("../codec.safetensors", "/etc/passwd", "codec.safetensors", ".lock", "manifest.json"),
        *("00000004.other", "4.codec.safetensors", "000000004.codec.safetensors"),
        *("00000005.codec.safetensors", "00000004.codec.safetensors/x", "", None, 4, [], {}),
    ],
)
def test_forged_names_of_files_are_refused(published, name):
    rewrite_manifest(published, lambda m: m["files"]["codec.safetensors"].update(file=name))
    with pytest.raises(CorruptIndexError, match=r"manifest.json: "):
        IndexStore.open(published)
    assert [problem.kind for problem in verify_directory(published)] == ["damage"]


def test_no_file_is_named_twice(published):
    def forge(m):
        m["files"][FILE] = {k: v for k, v in m["files"]["codec.safetensors"].items() if k != "file"}

    rewrite_manifest(published, forge)
    with pytest.raises(CorruptIndexError, match="files has a file twice"):
        IndexStore.open(published)


def test_a_forged_note_removes_nothing_else(tmp_path):
    """The note of an interrupted publication may be a stranger's."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"x")
    names = ["../outside", str(outside), "manifest.json", ".lock", "shards", "codec.safetensors"]
    texts = [json.dumps(names).encode(), b"", b"{", b"{}", b"5", b"[" * 100_000, b"[[1], null]"]
    for number, text in enumerate(texts):
        store = make_store(tmp_path / f"index{number}")
        (store.path / UNPUBLISHED_NAME).write_bytes(text)
        (store.path / "garbage.bin").write_bytes(b"x")
        assert IndexStore.open(store.path, verify=True).ntotal == 10
        store.commit(append=[make_rows(2, first=30)])
        assert not (store.path / UNPUBLISHED_NAME).exists()
        assert IndexStore.open(store.path, verify=True).ntotal == 12
        assert [problem.file for problem in store.verify()] == ["garbage.bin"]
        assert outside.exists()
    store = make_store(tmp_path / "link")
    (store.path / UNPUBLISHED_NAME).symlink_to("/dev/zero")
    assert unpublished_names(store.path) == set()
    store.remove_leftovers()
    assert store.verify() == []
    (store.path / UNPUBLISHED_NAME).write_bytes(b"")
    os.truncate(store.path / UNPUBLISHED_NAME, 1 << 40)
    store.remove_leftovers()
    assert store.verify() == []


def test_folders_that_are_links_are_no_way_out(tmp_path):
    new = make_store(tmp_path / "new").path
    place = tmp_path / "place"
    (tmp_path / "outside").mkdir()
    place.mkdir()
    (place / UNPUBLISHED_NAME).write_bytes(b"[]")
    (place / "shards").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptIndexError, match="not a regular file"):
        replace_directory(new, place)
    assert os.listdir(tmp_path / "outside") == []


def test_places(tmp_path):
    path = tmp_path / "a/index"
    place = find_place(path)
    assert place == Place(path, inside=False)
    assert place.is_free()
    assert place.working_directory(".building") == tmp_path / "a/index.building"
    path.mkdir(parents=True)
    assert find_place(path).is_free()
    (path / "lost+found").mkdir()
    (path / ".lock").write_bytes(b"")
    assert find_place(path).is_free()
    # An interrupted build is found where it was begun.
    inside = Place(path, inside=True)
    assert inside.working_directory(".building") == path / ".building"
    (tmp_path / "a/index.building").mkdir()
    assert inside.working_directory(".building") == tmp_path / "a/index.building"
    (path / ".building").mkdir()
    assert inside.working_directory(".building") == path / ".building"
    assert find_place(path).working_directory(".building") == tmp_path / "a/index.building"
    assert find_place(path).is_free()
    (path / "holiday.jpg").write_bytes(b"")
    assert not find_place(path).is_free()
    with pytest.raises(StoreError, match=r"not empty \(holiday.jpg\); choose another place"):
        find_place(path).check_free()
    with pytest.raises(StoreError, match="already an index"):
        find_place(make_store(tmp_path / "index").path).check_free()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="this is a file, and an index is a folder"):
        find_place(tmp_path / "file").check_free()
    link = tmp_path / "link"
    link.symlink_to(path)
    assert find_place(link).path == path


def test_a_free_folder_that_holds_something_gets_the_index_inside(tmp_path):
    path = tmp_path / "index"
    (path / "lost+found").mkdir(parents=True)
    inode = os.stat(path).st_ino
    new = make_store(tmp_path / "new").path
    replace_directory(new, path)
    assert os.stat(path).st_ino == inode
    assert not new.exists()
    assert sorted(os.listdir(path / "shards")) == ["000000.h5", "000001.h5"]
    assert IndexStore.open(path, verify=True).ntotal == 10
    assert verify_directory(path) == []
