"""Replacing an index directory by another one."""

from __future__ import annotations

import os
import shutil

import pytest
from store_tools import assert_same_rows, make_rows, make_store

from hyperpq.errors import (
    IndexLockedError,
    IndexNotFoundError,
    StoreError,
)
from hyperpq.store import (
    IndexStore,
    recover_directory,
    replace_directory,
    snapshot,
    verify,
    verify_directory,
)
from hyperpq.store.lock import writer_lock


def test_replacing_a_directory(tmp_path):
    old, new = tmp_path / "index", tmp_path / "index.new"
    make_store(new)
    replace_directory(new, old)
    assert IndexStore.open(old, verify=True).ntotal == 10
    reader = IndexStore.open(old)
    IndexStore.create(new, settings={}, files={}).commit(
        append=[make_rows(5), make_rows(7, first=5)]
    )
    replace_directory(new, old)
    assert IndexStore.open(old, verify=True).ntotal == 12
    assert os.listdir(tmp_path) == ["index"]
    # The reader of the former index keeps what it has opened.
    assert reader.ntotal == 10
    assert_same_rows(reader.segments[0], make_rows(5))
    with pytest.raises(StoreError, match="another index is in this place now"):
        reader.refresh()


def test_replacing_loses_nothing_that_is_not_the_index(tmp_path):
    new = make_store(tmp_path / "new").path
    old = make_store(tmp_path / "old").path
    (old / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holiday.jpg.*no part of the index.*move it away"):
        replace_directory(new, old)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="the folder is not empty"):
        replace_directory(new, tmp_path / "photos")
    with pytest.raises(IndexNotFoundError):
        replace_directory(tmp_path / "photos", tmp_path / "elsewhere")
    (old / "holiday.jpg").unlink()
    with writer_lock(old), pytest.raises(IndexLockedError):
        replace_directory(new, old)
    replace_directory(new, old)
    assert sorted(os.listdir(tmp_path)) == ["old", "photos"]


def snapshot_of_names(folder):
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def test_readers_do_not_repair_an_interrupted_replacement(tmp_path):
    """Opening renamed directories, although readers write nothing."""
    old = make_store(tmp_path / "index").path
    former = tmp_path / "index.old-hyperpq"
    os.rename(old, former)
    for vacant in (False, True):
        if vacant:
            old.mkdir()
        before = snapshot_of_names(tmp_path)
        store = IndexStore.open(old, verify=True)
        assert (store.path, store.ntotal) == (old, 10)
        assert IndexStore.exists(old)
        assert verify_directory(old) == store.verify() == []
        assert store.read_file("codec.safetensors") == b"c" * 99
        assert store.read_report("skipped.csv") is None
        assert not store.refresh()
        assert snapshot_of_names(tmp_path) == before
    # A writer repairs it; a reader that was opened before goes on with what it has.
    reader = IndexStore.open(old, read_only=True)
    store.commit(delete={0: [1]})
    assert os.listdir(tmp_path) == ["index"]
    assert (store.ntotal, reader.ntotal) == (9, 10)
    assert reader.refresh()
    assert reader.ntotal == 9
    assert reader.read_file("codec.safetensors") == b"c" * 99


def test_a_writer_removes_what_a_finished_replacement_has_left(tmp_path):
    store = make_store(tmp_path / "index")
    shutil.copytree(store.path, tmp_path / "index.old-hyperpq")
    assert IndexStore.open(store.path, verify=True).ntotal == 10
    assert sorted(os.listdir(tmp_path)) == ["index", "index.old-hyperpq"]
    store.remove_leftovers()
    assert os.listdir(tmp_path) == ["index"]
    os.rename(store.path, tmp_path / "index.old-hyperpq")
    recover_directory(store.path)
    assert os.listdir(tmp_path) == ["index"]
    assert verify_directory(store.path) == []


@pytest.mark.parametrize("step", ["aside", "into place", "removed"])
def test_a_reader_follows_a_replacement_that_goes_on_meanwhile(tmp_path, monkeypatch, step):
    """Each step of it takes place between the reading of the manifest and that of the shards."""
    old, new = make_store(tmp_path / "index").path, tmp_path / "index.new"
    IndexStore.create(new, settings={}, files={}).commit(append=[make_rows(5)])
    former = tmp_path / "index.old-hyperpq"
    if step != "aside":
        os.rename(old, former)

    def act():
        if step == "aside":
            os.rename(old, former)
        else:
            os.rename(new, old)
            if step == "removed":
                shutil.rmtree(former)

    real, done = snapshot._open_shards, []

    def open_shards(*arguments):
        if not done:
            done.append(act())
        return real(*arguments)

    monkeypatch.setattr(snapshot, "_open_shards", open_shards)
    assert IndexStore.open(old).ntotal == (10 if step in ("aside", "into place") else 5)


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_of_an_index_that_was_replaced_is_still_read(tmp_path, inside):
    store = make_store(tmp_path / "index")
    folder = store.path / ".building/index" if inside else tmp_path / "new"
    new = IndexStore.create(folder, settings={}, files={"codec.safetensors": b"other"})
    replace_directory(new.path, store.path)
    assert store.read_file("codec.safetensors") == b"c" * 99
    assert IndexStore.open(store.path).read_file("codec.safetensors") == b"other"


def test_an_index_that_is_replaced_while_it_is_verified(tmp_path, monkeypatch):
    store, found = make_store(tmp_path / "index"), []
    new = IndexStore.create(tmp_path / "new", settings={}, files={"codec.safetensors": b"other"})
    real = verify._check_shards

    def check_shards(*arguments):
        if not found:
            found.append(replace_directory(new.path, store.path))
        return real(*arguments)

    monkeypatch.setattr(verify, "_check_shards", check_shards)
    assert IndexStore.open(store.path, verify=True).read_file("codec.safetensors") == b"other"


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_verifying_follows_a_replacement_step_by_step(
    opened, begun, finished, tmp_path, monkeypatch
):
    """The place is vacant for a moment, and then has other files of the same names."""
    root, former, steps = tmp_path / "index", tmp_path / "index.old-hyperpq", []
    make_store(root)
    IndexStore.create(tmp_path / "new", settings={}, files={"codec.safetensors": b"other"})
    real = verify._read_snapshot

    def replace_index():
        if steps:
            return
        steps.append(os.rename(root, former))
        if finished:
            os.rename(tmp_path / "new", root)
            shutil.rmtree(former)

    def read_snapshot(folder):
        if not begun:
            replace_index()
        snapshot = real(folder)
        replace_index()
        return snapshot

    monkeypatch.setattr(verify, "_read_snapshot", read_snapshot)
    if opened:
        assert IndexStore.open(root, verify=True).ntotal == (0 if finished else 10)
    else:
        assert verify_directory(root) == []


LEFT = (".saving-hyperpq", ".building-done", ".building.published-hyperpq")


@pytest.mark.parametrize("writer", ["a commit", "a replacement", "compact"])
def test_a_writer_removes_what_a_killed_save_or_build_has_left_inside(tmp_path, writer):
    """They were in the way of every replacement until somebody removed them."""
    store = make_store(tmp_path / "index")
    for name in LEFT:
        make_store(store.path / name / "index")
    (store.path / ".saving-hyperpq/.lock").touch()
    assert {problem.file for problem in store.verify()} == {*LEFT}
    if writer == "a replacement":
        replace_directory(make_store(tmp_path / "new").path, store.path)
    elif writer == "compact":
        store.compact()
    else:
        store.commit(next_id=50)
    assert verify_directory(store.path) == []
    assert not {*LEFT} & {*os.listdir(store.path)}


def test_a_save_that_goes_on_is_left_alone(tmp_path):
    store = make_store(tmp_path / "index")
    saving = store.path / ".saving-hyperpq"
    make_store(saving / "index")
    with writer_lock(saving):
        store.commit(next_id=50)
        assert (saving / "index/manifest.json").exists()
        with pytest.raises(StoreError, match=r"'.saving-hyperpq', which is no part of the index"):
            replace_directory(make_store(tmp_path / "new").path, store.path)
    # A build can be resumed, and a link is never followed.
    shutil.rmtree(saving)
    (store.path / ".building").mkdir()
    saving.symlink_to(make_store(tmp_path / "elsewhere").path)
    store.commit(next_id=60)
    assert (store.path / ".building").exists()
    assert saving.is_symlink()
    assert IndexStore.open(tmp_path / "elsewhere", verify=True).ntotal == 10
