"""Indexes in S3: what is published is what is read, and no writer replaces what it has not seen."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import numpy as np
import pytest
from store_tools import make_rows, make_store

from hyperpq.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    InvalidInputError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.remote import local_copy, pull, push
from hyperpq.remote.storage import S3Storage, Storage
from hyperpq.store import IndexStore, live_batches


def objects(bucket):
    """Content of every object of a bucket."""
    s3 = boto3.client("s3")
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {
        item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found
    }


def put(bucket, key, data):
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=data)


def ids(path):
    store = IndexStore.open(path, verify=True)
    return [int(i) for rows in live_batches(store.segments) for i in rows.ids]


def add(path, n):
    store = IndexStore.open(path)
    store.commit(append=[make_rows(n, first=store.next_id)], next_id=store.next_id + n)


@pytest.fixture
def published(bucket, tmp_path):
    """A directory, and the URL that it was pushed to."""
    make_store(tmp_path / "a")
    url = f"s3://{bucket}/deep/index"
    push(tmp_path / "a", url)
    return tmp_path / "a", url


def test_what_is_pushed_is_what_is_pulled(published, tmp_path):
    path, url = published
    assert pull(url, tmp_path / "b") is True
    assert ids(tmp_path / "b") == ids(path)
    assert not [p for p in IndexStore.open(tmp_path / "b").verify() if p.kind == "damage"]
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["a", "b"]
    assert pull(url, tmp_path / "b") is False


def test_only_what_is_new_is_copied(published, tmp_path, monkeypatch):
    path, url = published
    pull(url, tmp_path / "b")
    add(tmp_path / "b", 9)
    done = push(tmp_path / "b", url)
    named = IndexStore.open(tmp_path / "b").manifest.named_files
    assert (done.uploaded, done.kept) == (1, len(named) - 1)
    copied = []
    download = Storage.download
    monkeypatch.setattr(
        Storage, "download", lambda self, entry, to: (copied.append(to), download(self, entry, to))
    )
    assert pull(url, path) is True
    assert len(copied) == 1
    assert ids(path) == ids(tmp_path / "b")
    assert push(path, url).uploaded == 0
    # Both may be the next writer.
    for writer in (path, tmp_path / "b", path):
        pull(url, writer)
        add(writer, 1)
        push(writer, url)
    assert local_copy(url).is_dir()
    assert ids(local_copy(url)) == ids(path)


def test_a_reader_sees_a_pull_when_it_refreshes(published, tmp_path):
    path, url = published
    pull(url, tmp_path / "b")
    reader = IndexStore.open(tmp_path / "b")
    before = [segment.ids.copy() for segment in reader.segments]
    add(path, 4)
    push(path, url)
    pull(url, tmp_path / "b")
    for segment, expected in zip(reader.segments, before, strict=True):
        np.testing.assert_array_equal(segment.ids, expected)
    assert reader.refresh()
    assert reader.ntotal == IndexStore.open(path).ntotal


def test_who_comes_second_gets_an_error_and_loses_nothing(published, tmp_path, bucket):
    path, url = published
    pull(url, tmp_path / "b")
    add(path, 3)
    add(tmp_path / "b", 5)
    push(tmp_path / "b", url)
    before, own = objects(bucket), ids(path)
    with pytest.raises(SnapshotChangedError, match="another writer has published"):
        push(path, url)
    assert objects(bucket) == before
    assert ids(path) == own
    with pytest.raises(SnapshotChangedError, match="changes that were not pushed"):
        pull(url, path)
    assert ids(path) == own
    push(path, url, overwrite=True)
    assert ids(local_copy(url)) == own


@pytest.mark.parametrize("first", [False, True], ids=["replacing", "first"])
def test_two_that_publish_at_the_same_time(first, bucket, tmp_path, monkeypatch):
    """The other one publishes after this one has read and uploaded: the storage must refuse."""
    url = f"s3://{bucket}/index"
    make_store(tmp_path / "a")
    if not first:
        push(tmp_path / "a", url)
    pull(url, tmp_path / "b") if not first else make_store(tmp_path / "b")
    add(tmp_path / "a", 3)
    add(tmp_path / "b", 5)
    publish = S3Storage.publish

    def late(self, manifest, former):
        monkeypatch.setattr(S3Storage, "publish", publish)
        push(tmp_path / "b", url)
        publish(self, manifest, former)

    monkeypatch.setattr(S3Storage, "publish", late)
    own = ids(tmp_path / "a")
    with pytest.raises(SnapshotChangedError, match="another writer has published"):
        push(tmp_path / "a", url)
    assert ids(tmp_path / "a") == own
    assert ids(local_copy(url)) == ids(tmp_path / "b")
    # What the error says to do.
    pull(url, tmp_path / "c")
    add(tmp_path / "c", 3)
    push(tmp_path / "c", url)


def test_an_answer_that_was_lost(published, monkeypatch):
    """The request is sent again, and its condition does not hold any more."""
    path, url = published
    add(path, 2)
    put_once = S3Storage._put

    def put_twice(self, name, data, condition):
        put_once(self, name, data, condition)
        put_once(self, name, data, condition)

    monkeypatch.setattr(S3Storage, "_put", put_twice)
    push(path, url)
    assert ids(local_copy(url)) == ids(path)


@pytest.mark.parametrize("ignored", ["IfMatch", "IfNoneMatch"])
def test_a_storage_that_ignores_conditions(ignored, published, bucket, monkeypatch):
    path, url = published
    add(path, 2)
    put_object = S3Storage._put

    def forgetful(self, name, data, condition):
        put_object(self, name, data, {k: v for k, v in condition.items() if k != ignored})

    monkeypatch.setattr(S3Storage, "_put", forgetful)
    before = objects(bucket)["deep/index/manifest.json"]
    with pytest.raises(StoreError, match=rf"ignores the condition of a put \({ignored}\)"):
        push(path, url)
    assert objects(bucket)["deep/index/manifest.json"] == before


_KILLED = """
import os, signal, sys
from hyperpq.remote import push, pushing, storage
pushing.FILES_AT_ONCE = 1
left = int(sys.argv[3])
def counted(method):
    def call(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return method(*args, **kwargs)
    return call
for name in ("upload", "publish"):
    setattr(storage.S3Storage, name, counted(getattr(storage.S3Storage, name)))
push(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("requests", [0, 1, 2])
def test_a_push_that_is_killed(requests, published, tmp_path):
    """Two files and the manifest: killed before each of them."""
    path, url = published
    before = ids(path)
    store = IndexStore.open(path)
    store.commit(append=[make_rows(3, first=12), make_rows(4, first=15)], next_id=19)
    args = [sys.executable, "-c", _KILLED, path, url, str(requests)]
    assert subprocess.run(args, check=False, timeout=60).returncode == -9
    assert ids(local_copy(url)) == before
    assert push(path, url).uploaded <= 2 - min(requests, 1)
    assert ids(local_copy(url)) == ids(path)


def test_a_push_that_is_killed_after_it_has_published(published, monkeypatch):
    path, url = published
    add(path, 2)
    write_report = IndexStore.write_report

    def killed(self, name, data):
        write_report(self, name, data)
        monkeypatch.setattr(IndexStore, "write_report", lambda *_: (_ for _ in ()).throw(OSError))

    monkeypatch.setattr(IndexStore, "write_report", killed)
    with pytest.raises(OSError):
        push(path, url)
    monkeypatch.setattr(IndexStore, "write_report", write_report)
    add(path, 2)
    push(path, url)
    assert ids(local_copy(url)) == ids(path)


def test_a_pull_that_is_interrupted_goes_on(published, tmp_path, monkeypatch):
    path, url = published
    download, copied = Storage.download, []

    def one(self, entry, to):
        if len(copied) == 2:
            raise KeyboardInterrupt
        download(self, entry, to)
        copied.append(to)

    monkeypatch.setattr("hyperpq.remote.pulling.FILES_AT_ONCE", 1)
    monkeypatch.setattr(Storage, "download", one)
    with pytest.raises(KeyboardInterrupt):
        pull(url, tmp_path / "b")
    assert not IndexStore.exists(tmp_path / "b")
    done = len(copied)
    assert done == 2
    monkeypatch.setattr(
        Storage, "download", lambda self, entry, to: (copied.append(to), download(self, entry, to))
    )
    pull(url, tmp_path / "b")
    assert len(copied) == len(IndexStore.open(path).manifest.named_files)
    assert ids(tmp_path / "b") == ids(path)


def test_files_that_are_removed_while_they_are_pulled(published, tmp_path, monkeypatch):
    """The pull begins again with the manifest that is there now."""
    path, url = published
    monkeypatch.setattr("hyperpq.remote.pushing.PRUNE_AGE", timedelta(seconds=-60))
    download = Storage.download

    def late(self, entry, to):
        monkeypatch.setattr(Storage, "download", download)
        store = IndexStore.open(path)
        store.commit(append=[make_rows(2, first=12)], drop=[0, 1], next_id=14)
        assert push(path, url, prune=True).removed == 3
        download(self, entry, to)

    monkeypatch.setattr("hyperpq.remote.pulling.FILES_AT_ONCE", 1)
    monkeypatch.setattr(Storage, "download", late)
    pull(url, tmp_path / "b")
    assert ids(tmp_path / "b") == [12, 13]


def test_objects_that_a_prune_may_remove_are_uploaded_again(published, bucket, monkeypatch):
    path, url = published
    former = path.with_name("b")
    shutil.copytree(path, former)
    IndexStore.open(path).commit(drop=[1])
    push(path, url)
    monkeypatch.setattr("hyperpq.remote.pushing._REUSE_AGE", timedelta(seconds=-60))
    # As if the change had been undone: it has the shard that no manifest names now.
    shutil.copy(path / "remote.json", former)
    assert push(former, url).uploaded == 2
    assert push(path, url, overwrite=True, prune=True).removed == 0


@pytest.mark.parametrize("damage", ["shorter", "altered"])
def test_a_damaged_object_is_named_and_not_read(damage, published, bucket, tmp_path):
    _, url = published
    key = max(objects(bucket), key=lambda k: len(objects(bucket)[k]) if "objects" in k else 0)
    data = objects(bucket)[key]
    put(bucket, key, data[:-1] if damage == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptIndexError, match=rf"s3://{bucket}/{key}"):
        pull(url, tmp_path / "b")
    assert not IndexStore.exists(tmp_path / "b")


@pytest.mark.parametrize("damage", ["lost", "shorter", "altered"])
def test_to_push_again_restores_an_object(damage, published, bucket, tmp_path):
    """Nothing has changed in the directory. Only `overwrite` replaces what has the right length."""
    path, url = published
    before = objects(bucket)
    key = max((k for k in before if "objects" in k), key=lambda k: len(before[k]))
    if damage == "lost":
        boto3.client("s3").delete_object(Bucket=bucket, Key=key)
    else:
        put(bucket, key, before[key][:-1] if damage == "shorter" else before[key][::-1])
    with pytest.raises(CorruptIndexError, match=f"{key}: .*push the index again"):
        pull(url, tmp_path / "b")
    done = push(path, url, overwrite=damage == "altered")
    assert done.uploaded == (len(before) - 1 if damage == "altered" else 1)
    assert objects(bucket) == before
    pull(url, tmp_path / "b")
    assert ids(tmp_path / "b") == ids(path)


def test_an_etag_that_changes_from_request_to_request(published, monkeypatch):
    """As of servers behind one address: what they have is read, and never replaced."""
    _, url = published
    storage, n = S3Storage(url), itertools.count()
    info = storage._fs.info

    def other(path):
        assert next(n) < 1000
        return info(path) | {"ETag": f'"{n}"'}

    monkeypatch.setattr(storage._fs, "info", other)
    there = storage.read()
    assert there == replace(Storage(url).read(), etag="")
    with pytest.raises(StoreError, match="no ETag for the manifest that stays"):
        storage.publish(there.manifest, there)


def test_a_damaged_manifest_is_named_with_its_url(published, bucket, tmp_path):
    _, url = published
    key = "deep/index/manifest.json"
    put(bucket, key, objects(bucket)[key].replace(b"12", b"13", 1))
    with pytest.raises(CorruptIndexError, match=f"{url}/manifest.json"):
        pull(url, tmp_path / "b")


def test_a_damaged_file_is_not_published(published, bucket):
    path, url = published
    add(path, 50)
    shard = max((path / "shards").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    before = objects(bucket)
    with pytest.raises(CorruptIndexError, match=shard.name):
        push(path, url)
    assert objects(bucket) == before


def test_wrong_places(bucket, tmp_path):
    make_store(tmp_path / "a")
    for url in (f"s3://{bucket}", "s3://", "nosuch://x/y"):
        with pytest.raises(InvalidInputError):
            push(tmp_path / "a", url)
    for url in ("file:///tmp/index", "memory://index"):
        with pytest.raises(InvalidInputError, match="no conditional put"):
            push(tmp_path / "a", url)
    with pytest.raises(StoreError, match="s3://no-such-bucket/index"):
        push(tmp_path / "a", "s3://no-such-bucket/index")
    with pytest.raises(IndexNotFoundError, match="there is no index here"):
        pull(f"s3://{bucket}/index", tmp_path / "b")
    with pytest.raises(IndexNotFoundError):
        push(tmp_path / "none", f"s3://{bucket}/index")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    push(tmp_path / "a", f"s3://{bucket}/index")
    with pytest.raises(StoreError, match="not empty"):
        pull(f"s3://{bucket}/index", tmp_path / "c")
    assert not [p for p in tmp_path.iterdir() if "pulling" in p.name]


def test_other_protocols_are_read(published, bucket, tmp_path):
    """A copy of the objects in a folder, as by `aws s3 sync`."""
    path, _ = published
    for key, data in objects(bucket).items():
        to = tmp_path / "copy" / Path(key).relative_to("deep/index")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(data)
    pull(f"file://{tmp_path / 'copy'}", tmp_path / "b")
    assert ids(tmp_path / "b") == ids(path)
