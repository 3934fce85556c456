"""Commits that replace the files of an index, such as those of its codec, with all of its rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from store_tools import contents, make_rows, make_store

from hyperpq.errors import (
    CorruptIndexError,
    InvalidInputError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.store import IndexStore, replace_directory
from hyperpq.store.manifest import MAX_FORMER
from hyperpq.store.manifest_parser import read_manifest

CODEC = "codec.safetensors"
# One that is read when an index is opened, and one that is mapped.
OTHERS = {"small": b"d" * 50, "large": b"e" * (1 << 19)}


def relearn(store: IndexStore, codec: bytes, *, first: int = 0, feature_size: int = 3) -> None:
    """Replace everything: other codes, of another size, for another codec."""
    store.commit(
        append=[make_rows(9, code_size=6, first=first, feature_size=feature_size)],
        drop=range(len(store.segments)),
        settings={"score": "chord"},
        files={CODEC: codec, "codec.json": codec[:3]},
    )


def at_the_top(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name != ".lock")


@pytest.mark.parametrize("codec", OTHERS.values(), ids=OTHERS)
def test_a_codec_and_all_rows_are_replaced_in_one_commit(tmp_path, codec):
    store = make_store(tmp_path / "index")
    own = store.manifest.codec_checksum
    relearn(store, codec)
    for view in (store, IndexStore.open(store.path, verify=True)):
        assert view.snapshot_number == 4
        assert view.file_names == ["codec.json", CODEC]
        assert view.read_file(CODEC) == codec
        assert view.read_file("codec.json") == codec[:3]
        assert (view.settings, view.ntotal, view.next_id) == ({"score": "chord"}, 9, 12)
        assert {segment.code_size for segment in view.segments} == {6}
    assert store.verify() == []
    files = ["00000004.codec.json", f"00000004.{CODEC}", "dead", "manifest.json", "shards"]
    assert at_the_top(store.path) == files
    assert os.listdir(store.path / "shards") == ["000002.h5"]
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert (manifest["version"], manifest["former"]) == (4, [own])
    # It goes on as any other index.
    store.append(make_rows(2, code_size=6, first=20, feature_size=3))
    assert store.compact()
    relearn(store, b"third", first=30, feature_size=0)
    assert at_the_top(store.path)[:2] == ["00000007.codec.json", f"00000007.{CODEC}"]
    assert read_manifest(store.path).version == 4
    assert len(read_manifest(store.path).former) == 2
    assert store.verify() == []


@pytest.mark.parametrize("codec", OTHERS.values(), ids=OTHERS)
def test_readers_keep_their_codec_with_their_rows(tmp_path, codec):
    store = IndexStore.create(tmp_path / "index", settings={}, files={CODEC: codec})
    store.commit(append=[make_rows(40)])
    before, reader = contents(store), IndexStore.open(store.path)
    relearn(store, b"new" + codec)
    assert f"{CODEC}" not in os.listdir(store.path)
    assert (reader.read_file(CODEC), contents(reader)) == (codec, before)
    assert reader.refresh()
    assert (reader.read_file(CODEC), contents(reader)) == (b"new" + codec, contents(store))
    assert not reader.refresh()
    # Another commit after the refresh takes nothing from it.
    before = contents(store)
    relearn(store, b"newer" + codec)
    assert (reader.read_file(CODEC), contents(reader)) == (b"new" + codec, before)
    for i in range(3):
        relearn(store, b"%d" % i)
    assert reader.refresh()
    assert reader.read_file(CODEC) == b"2"


def test_files_that_stay_are_not_opened_again(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={CODEC: OTHERS["large"]})
    reader = IndexStore.open(store.path)
    opened = reader._snapshot.files[CODEC]
    store.commit(append=[make_rows(3)])
    assert reader.refresh()
    assert reader._snapshot.files[CODEC] is opened


def test_a_writer_with_a_former_codec_is_refused(tmp_path):
    first = make_store(tmp_path / "index")
    second = IndexStore.open(first.path)
    relearn(first, b"new")
    names = sorted(path for path in first.path.rglob("*") if path.name != ".lock")
    for change in (
        lambda: second.commit(append=[make_rows(3, first=40)]),
        lambda: second.append(make_rows(3, first=40)),
        lambda: relearn(second, b"old"),
        lambda: second.compact(),
    ):
        with pytest.raises(SnapshotChangedError):
            change()
    assert sorted(path for path in first.path.rglob("*") if path.name != ".lock") == names
    assert second.refresh()
    relearn(second, b"newest")
    assert first.refresh()
    assert first.read_file(CODEC) == b"newest"


def test_another_index_is_told_from_another_codec(tmp_path):
    reader = make_store(tmp_path / "index")
    other = IndexStore.create(tmp_path / "other", settings={}, files={CODEC: b"other"})
    relearn(other, b"new")
    replace_directory(other.path, reader.path)
    with pytest.raises(StoreError, match="another index is in this place now"):
        reader.refresh()
    assert reader.read_file(CODEC) == b"c" * 99
    # A copy that was relearned and takes the place is the same index.
    store = make_store(tmp_path / "third")
    copy = make_store(tmp_path / "copy")
    relearn(copy, b"new")
    replace_directory(copy.path, store.path)
    assert store.refresh()
    assert store.read_file(CODEC) == b"new"
    # An earlier state of it, put back, is not.
    replace_directory(make_store(tmp_path / "backup").path, store.path)
    with pytest.raises(StoreError, match="another index is in this place now"):
        store.refresh()


def test_so_many_former_codecs_are_remembered(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={CODEC: b"first"})
    store.durability = "fast"
    readers = []
    for i in range(MAX_FORMER + 1):
        readers.append(IndexStore.open(store.path))
        store.commit(files={CODEC: b"%d" % i})
    assert len(read_manifest(store.path).former) == MAX_FORMER
    with pytest.raises(StoreError, match="another index is in this place now"):
        readers[0].refresh()
    for reader in readers[1:]:
        assert reader.refresh()
    # A codec that the index had before is remembered once.
    store.commit(files={CODEC: b"5"})
    store.commit(files={CODEC: b"6"})
    former = read_manifest(store.path).former
    assert len({*former}) == len(former) == MAX_FORMER


def test_the_same_files_are_not_written_again(tmp_path):
    store = make_store(tmp_path / "index")
    store.commit(files={CODEC: b"c" * 99}, drop=[0, 1], append=[make_rows(3)])
    assert read_manifest(store.path).version == 3
    assert at_the_top(store.path) == [CODEC, "dead", "manifest.json", "shards"]
    assert IndexStore.open(store.path, verify=True).ntotal == 3


def test_codes_of_the_former_codec_cannot_stay(tmp_path):
    store = make_store(tmp_path / "index")
    before = (store.path / "manifest.json").read_bytes()
    with pytest.raises(InvalidInputError, match="drop has 1 of 2 segments; expected all of them"):
        store.commit(files={CODEC: b"new"}, drop=[0])
    for name in ("manifest.json", "../x", "a/b", ".lock", "", "x.tmp", "shards"):
        with pytest.raises(InvalidInputError, match="files have"):
            store.commit(files={name: b""}, drop=[0, 1])

    def rows():
        yield make_rows(3, code_size=9)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.commit(files={CODEC: b"new"}, drop=[0, 1], append=rows())
    assert (store.path / "manifest.json").read_bytes() == before
    assert store.read_file(CODEC) == b"c" * 99
    store.commit(delete={0: np.array([1])})
    assert store.verify() == []


def test_a_known_snapshot_is_shown_unless_its_codec_is_gone(tmp_path):
    store = make_store(tmp_path / "index")
    reader, old = IndexStore.open(store.path), store.manifest
    relearn(store, b"new")
    new = store.manifest
    later = IndexStore.open(store.path)
    assert not later.show(old)
    assert later.read_file(CODEC) == b"new"
    assert reader.show(new)
    assert reader.read_file(CODEC) == b"new"
    other = IndexStore.create(tmp_path / "other", settings={}, files={CODEC: b"other"})
    with pytest.raises(StoreError, match="another index is in this place now"):
        later.show(other.manifest)


def test_an_altered_codec_is_found_out_by_whoever_reads_it(tmp_path):
    store = make_store(tmp_path / "index")
    relearn(store, OTHERS["large"])
    path = store.path / f"00000004.{CODEC}"
    with open(path, "r+b") as file:
        file.write(b"x")
    with pytest.raises(CorruptIndexError, match=rf"{path.name}: the checksum is wrong"):
        IndexStore.open(store.path).read_file(CODEC)
    with pytest.raises(CorruptIndexError, match=rf"{path.name}: the checksum is wrong"):
        IndexStore.open(store.path, verify=True)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    store = make_store(tmp_path / "index")
    relearn(store, b"new", feature_size=0)
    fresh = IndexStore.create(
        tmp_path / "fresh",
        settings={"score": "chord"},
        files={CODEC: b"new", "codec.json": b"new"},
    )
    fresh.commit(append=[make_rows(9, code_size=6)], next_id=12)
    assert read_manifest(fresh.path).version == 3
    assert store.fingerprint() == fresh.fingerprint()


def test_publishing_inside_an_index_with_replaced_files(tmp_path):
    old = make_store(tmp_path / "index")
    relearn(old, b"old")
    new = make_store(old.path / ".building/index")
    relearn(new, b"new")
    new.commit(delete={0: [2]})
    former = new.manifest.former
    replace_directory(new.path, old.path)
    (old.path / ".building").rmdir()
    store = IndexStore.open(old.path, verify=True)
    assert store.verify() == []
    assert store.read_file(CODEC) == b"new"
    assert (store.ntotal, store.feature_size, store.manifest.former) == (8, 3, former)
    relearn(store, b"newest")
    assert store.verify() == []
    assert IndexStore.open(old.path, verify=True).read_file(CODEC) == b"newest"


def test_publishing_inside_a_free_folder(tmp_path):
    new = make_store(tmp_path / "place/.building/index")
    relearn(new, b"new")
    replace_directory(new.path, tmp_path / "place")
    (tmp_path / "place/.building").rmdir()
    store = IndexStore.open(tmp_path / "place", verify=True)
    assert (store.read_file(CODEC), store.ntotal) == (b"new", 9)
    assert store.verify() == []


def test_what_an_interrupted_replacement_has_left_goes(tmp_path):
    store = make_store(tmp_path / "index")
    manifest = (store.path / "manifest.json").read_bytes()
    relearn(store, b"new")
    new = (store.path / f"00000004.{CODEC}").read_bytes()
    # As if it had been killed just before it replaced the manifest.
    other = make_store(tmp_path / "other")
    (other.path / f"00000004.{CODEC}").write_bytes(new)
    (other.path / ".unpublished-hyperpq").write_text(json.dumps([CODEC, f"00000004.{CODEC}"]))
    assert (other.path / "manifest.json").read_bytes() == manifest
    assert {problem.kind for problem in other.verify()} == {"garbage"}
    (other.path / "00000009.notes.txt").write_bytes(b"of the user")
    other.commit(next_id=50)
    assert at_the_top(other.path) == [
        "00000009.notes.txt",
        CODEC,
        "dead",
        "manifest.json",
        "shards",
    ]


def test_fast_durability_leaves_out_every_fsync(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.durability = "fast"
    relearn(store, b"new")
    assert synced == []
    assert store.verify() == []


def test_names_are_durable_before_the_manifest_refers_to_them(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    events: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle):
        real_fsync(handle)
        events.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))

    def replace(source, target):
        real_replace(source, target)
        events.append(("replace", str(target)))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    relearn(store, b"new")
    root = str(store.path)
    named = [events.index(("replace", f"{root}/00000004.{name}")) for name in (CODEC, "codec.json")]
    commit = events.index(("replace", f"{root}/manifest.json"))
    for name, i in zip((CODEC, "codec.json"), named, strict=True):
        assert ("fsync", f"{root}/.00000004.{name}.tmp") in events[:i]
    assert ("fsync", root) in events[max(named) : commit]
