"""Directories that are pulled into: by many processes at once, and with damaged files."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_tools import make_rows, make_store

from hyperpq.errors import CorruptIndexError, InvalidInputError, SnapshotChangedError
from hyperpq.remote import local_copy, pull
from hyperpq.remote.storage import object_name
from hyperpq.store import IndexStore, live_batches
from hyperpq.store.manifest_parser import read_manifest


def publish(path, folder):
    """Put in a folder what `push` puts at a URL; the URL of the folder."""
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    for file, entry in read_manifest(path).named_files.items():
        if not (to := folder / "objects" / object_name(entry)).exists():
            shutil.copy(path / file, to)
    shutil.copy(path / "manifest.json", folder / "manifest.tmp")
    os.replace(folder / "manifest.tmp", folder / "manifest.json")
    return folder.as_uri()


def ids(path):
    store = IndexStore.open(path, verify=True)
    return [int(i) for rows in live_batches(store.segments) for i in rows.ids]


def add(path, n):
    store = IndexStore.open(path)
    store.commit(append=[make_rows(n, first=store.next_id)], next_id=store.next_id + n)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A directory, a folder where it is published, and the URL of that."""
    monkeypatch.setenv("HYPERPQ_CACHE", str(tmp_path / "cache"))
    make_store(tmp_path / "a")
    return tmp_path / "a", tmp_path / "there", publish(tmp_path / "a", tmp_path / "there")


def test_nothing_is_made_if_nothing_has_changed(published, tmp_path, monkeypatch):
    *_, url = published
    pull(url, tmp_path / "b")

    def refuse(path, *_, **__):
        raise AssertionError(path)

    monkeypatch.setattr(os, "mkdir", refuse)
    assert pull(url, tmp_path / "b") is False
    assert pull(url, tmp_path / "b", overwrite=True) is False


def test_another_pull_ends_before_this_one_has_its_lock(published, tmp_path, monkeypatch):
    """The other one removes the working directory, which this one has found or made."""
    *_, url = published
    mkdir, others = os.mkdir, []

    def late(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if "pulling" in os.fspath(path) and not others:
            others.append(None)
            others.append(pull(url, tmp_path / "b"))

    monkeypatch.setattr(os, "mkdir", late)
    assert pull(url, tmp_path / "b") is False
    assert others == [None, True]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "there"]


def test_many_copy_one_url_while_it_changes(published, tmp_path):
    path, there, url = published
    shutil.copytree(path, tmp_path / "other")
    add(tmp_path / "other", 3)
    expected = sorted((ids(path), ids(tmp_path / "other")))

    def copy(_):
        return [ids_of_snapshot(local_copy(url)) for _ in range(20)]

    with ThreadPoolExecutor(4) as do:
        running = [do.submit(copy, n) for n in range(4)]
        for n in range(10_000):
            if all(one.done() for one in running):
                break
            publish((tmp_path / "other", path)[n % 2], there)
    for one in running:
        assert all(found in expected for found in one.result())
    assert not [p for p in (tmp_path / "cache" / "remote").iterdir() if "pulling" in p.name]
    assert ids(local_copy(url)) in expected


def ids_of_snapshot(path):
    return [int(i) for rows in live_batches(IndexStore.open(path).segments) for i in rows.ids]


def test_a_protocol_that_does_not_exist(tmp_path):
    with pytest.raises(InvalidInputError, match="indexes cannot be read at nosuch://x/y: "):
        pull("nosuch://x/y", tmp_path / "b")


def damage_shard(path: Path, how: str) -> None:
    shard = max((path / "shards").iterdir())
    data = shard.read_bytes()
    shard.unlink()
    if how != "missing":
        shard.write_bytes(data[:100] if how == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["missing", "shorter", "altered"])
@pytest.mark.parametrize("changed", [False, True], ids=["same", "changed"])
@pytest.mark.parametrize("cached", [False, True], ids=["pull", "cache"])
def test_a_damaged_file_is_copied_again(cached, changed, how, published, tmp_path):
    path, there, url = published
    copy = local_copy(url) if cached else tmp_path / "b"
    pull(url, copy)
    if changed:
        add(path, 3)
        publish(path, there)
    damage_shard(copy, how)
    with pytest.raises(CorruptIndexError):
        IndexStore.open(copy)
    if cached:
        local_copy(url)
    else:
        assert pull(url, copy) is True
    assert ids(copy) == ids(path)
    assert pull(url, copy) is False


def test_damage_of_the_same_length_is_found_by_a_check(published, tmp_path):
    """Large shards are mapped, so that only a check reads them."""
    path, there, url = published
    add(path, 20_000)
    publish(path, there)
    pull(url, tmp_path / "b")
    damage_shard(tmp_path / "b", "altered")
    assert pull(url, tmp_path / "b") is False
    assert pull(url, tmp_path / "b", overwrite=True) is True
    assert ids(tmp_path / "b") == ids(path)
    copy = local_copy(url)
    damage_shard(copy, "altered")
    assert local_copy(url, verify=True) == copy
    assert ids(copy) == ids(path)


@pytest.mark.parametrize("file", ["codec.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "altered"])
def test_a_cache_is_made_again_whatever_is_damaged(how, file, published):
    path, _, url = published
    copy = local_copy(url)
    data = (copy / file).read_bytes()
    (copy / file).unlink()
    if how == "altered":
        (copy / file).write_bytes(data[::-1])
    assert local_copy(url) == copy
    assert ids(copy) == ids(path)


def test_a_damaged_directory_does_not_lose_its_changes(published, tmp_path):
    *_, url = published
    pull(url, tmp_path / "b")
    add(tmp_path / "b", 3)
    damage_shard(tmp_path / "b", "shorter")
    before = (tmp_path / "b" / "manifest.json").read_bytes()
    with pytest.raises(SnapshotChangedError, match="changes that were not pushed"):
        pull(url, tmp_path / "b")
    assert (tmp_path / "b" / "manifest.json").read_bytes() == before
    (tmp_path / "b" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(CorruptIndexError, match=r"b/manifest\.json"):
        pull(url, tmp_path / "b", overwrite=True)
