"""Replacing an index directory by another one."""

from __future__ import annotations

import os
import shutil

import pytest
from store_tools import assert_same_rows, make_rows, make_store

from hyperpq.errors import IndexLockedError, IndexNotFoundError, StoreError
from hyperpq.store import IndexStore, recover_directory, replace_directory, verify_directory
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
    with pytest.raises(StoreError, match="neither an index nor an empty folder"):
        replace_directory(new, tmp_path / "photos")
    with pytest.raises(IndexNotFoundError):
        replace_directory(tmp_path / "photos", tmp_path / "elsewhere")
    (old / "holiday.jpg").unlink()
    with writer_lock(old), pytest.raises(IndexLockedError):
        replace_directory(new, old)
    replace_directory(new, old)
    assert sorted(os.listdir(tmp_path)) == ["old", "photos"]


def test_recovering_an_interrupted_replacement(tmp_path):
    old = make_store(tmp_path / "index").path
    os.rename(old, tmp_path / "index.old-hyperpq")
    assert IndexStore.open(old, verify=True).ntotal == 10
    shutil.copytree(old, tmp_path / "index.old-hyperpq")
    recover_directory(old)
    assert os.listdir(tmp_path) == ["index"]
    assert verify_directory(old) == []
