"""Images at URLs as sources: listings, builds, updates, faults of the storage."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from image_tools import Grid, build, fill, image, paths_of
from remote_tools import URL, names, put

from hyperpq import ImageIndex
from hyperpq.datasets import remote_source
from hyperpq.datasets.file_source import file_status, is_plain_file, open_file
from hyperpq.datasets.folder import scan_roots
from hyperpq.datasets.remote_source import RemoteSource
from hyperpq.errors import (
    CorruptIndexError,
    DatasetError,
    InvalidInputError,
    MissingDependencyError,
)
from hyperpq.images.build import PathList, update_index
from hyperpq.images.changes import is_gone
from hyperpq.index.path_map import parse_roots, with_roots
from hyperpq.utils.locations import absolute, is_absolute, is_remote


def update(roots, path, network=None, **options):
    return update_index(roots, path, backbone=network or Grid(), device="cpu", **options)


def test_what_a_path_is(tmp_path):
    for url in ("s3://b/a.jpg", b"gs://b/a", "S3://b", "memory://x", "abfs://c@account/a"):
        assert is_remote(url)
    for protocol in ("ftp", "sftp", "ssh", "smb", "webhdfs", "github", "zip", "generic", "file"):
        assert not is_remote(f"{protocol}://host/a.jpg")
    for path in ("http://h/a.jpg", "HTTPS://h/a", "/s3://b", "./s3://b/a", "a.jpg", tmp_path):
        assert not is_remote(path)
    assert absolute("S3://Bucket/A/") == b"s3://Bucket/A"
    assert absolute("a").startswith(b"/") and is_absolute(b"s3://b/a") and not is_absolute(b"a")


def test_a_listing_has_sizes_and_times_of_all_folders(stored):
    listing = scan_roots([URL], exclude=["1/"])
    assert [file.path.decode() for file in listing.files] == [
        name for name in names() if "/1/" not in name
    ]
    for file in listing.files:
        assert file_status(file.path) == file
        with open_file(file.path) as content:
            assert len(content.read()) == file.size
        assert not is_plain_file(file.path)
    assert listing.other == {".txt": 1} and not listing.skipped
    # A folder in another root is listed once, and so is an image.
    both = scan_roots([URL, f"{URL}/2", f"{URL}/0/000.png"])
    assert [f.path.decode() for f in both.files] == names()
    assert not both.empty
    assert len(scan_roots([URL], include_hidden=True).files) == 13


def test_names_without_an_ending_are_told_by_their_first_bytes(memory, tmp_path):
    put(memory, "/photos/set/abc", tmp_path, 1)
    memory.pipe_file("/photos/set/text", b"text")
    memory.pipe_file("/photos/set/empty", b"")
    assert [f.path for f in scan_roots([URL]).files] == [f"{URL}/abc".encode()]


def test_an_index_of_urls_is_built_and_updated_as_one_of_files(stored, tmp_path):
    fill(tmp_path / "files", 12)
    local, _ = build([tmp_path / "files"], tmp_path / "local", bits=16)
    index, report = build([URL], tmp_path / "index", codec=tmp_path / "local", bits=16)
    assert paths_of(index) == names() and report.other == {".txt": 1}
    ids = {path[-7:]: id for id, path in enumerate(paths_of(local))}
    own = [ids[path[-7:]] for path in paths_of(index)]
    codes = [each.index.view().codes_of([*range(12)]) for each in (index, local)]
    np.testing.assert_array_equal(codes[0], codes[1][own])
    hashes = [i.index.view().attributes_of([*range(12)])["content_hash"] for i in (index, local)]
    np.testing.assert_array_equal(hashes[0], hashes[1][own])
    (root,) = parse_roots(index.index.metadata)
    assert (root.path, root.relative, root.mount) == (URL.encode(), None, None)

    network = Grid()
    put(stored, "/photos/set/new.png", tmp_path, 50)
    data = stored.cat_file("/photos/set/1/001.png")
    stored.rm("/photos/set/1/001.png")
    stored.pipe_file("/photos/set/moved.png", data)
    image(60, (50, 40)).save(tmp_path / "changed.png")
    stored.pipe_file("/photos/set/2/002.png", (tmp_path / "changed.png").read_bytes())
    stored.rm("/photos/set/0/003.png")
    images, report = update(None, tmp_path / "index", network)
    assert (report.added, report.removed, report.moved) == (2, 2, 1)
    assert network.seen == 2 and len(images) == 12
    # Nothing has changed since, also for an index at another place.
    (tmp_path / "index").rename(tmp_path / "elsewhere")
    images, report = update(None, tmp_path / "elsewhere", network)
    assert network.seen == 2 and (report.added, report.removed) == (0, 0)
    result = images.query(f"{URL}/2/005.png", k=1)[0].results[0]
    assert result.path == f"{URL}/2/005.png" and result.similarity > 99
    added = images.add([f"{URL}/2/005.png", "memory://photos/other/b.png"])
    assert added.ids[0] == result.id and added.skipped == {1: "not an image"}


def test_nothing_is_removed_where_the_storage_does_not_answer(stored, tmp_path, monkeypatch):
    build([URL], tmp_path / "index", bits=16)
    storage = type(stored)
    real = storage.ls

    def refused(self, path, **options):
        if path.rstrip("/").endswith(refused.folder):
            raise PermissionError("Access Denied")
        return real(self, path, **options)

    # One folder is not listed.
    refused.folder = "/1"
    monkeypatch.setattr(storage, "ls", refused)
    images, report = update(None, tmp_path / "index")
    assert (len(images), report.removed, report.kept) == (12, 0, 4)
    assert "permission denied" in report.skipped[f"{URL}/1".encode()]
    # None is.
    refused.folder = ""
    with pytest.raises(DatasetError, match="permission denied: Access Denied"):
        update(None, tmp_path / "index")
    with pytest.raises(DatasetError, match=rf"no image was found in {URL}.*Access Denied"):
        build([URL], tmp_path / "new")
    monkeypatch.setattr(storage, "ls", real)

    def away(self, path, **options):
        raise ConnectionError("no route")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "info", away)
        assert not is_gone(f"{URL}/0/999.png".encode())
        for roots in (None, [URL]):
            with pytest.raises(DatasetError, match=rf"{URL}.*cannot be read \(no route\)"):
                update(roots, tmp_path / "index", allow_empty=True)
        report = ImageIndex.open(tmp_path / "index", backbone=Grid()).forget(missing=True)
        assert (report.removed, report.kept) == (0, 12)
    # All objects are gone, and the bucket is there: the images are kept until they are forgotten.
    stored.rm("/photos/set", recursive=True)
    with pytest.raises(DatasetError, match="which does not exist"):
        update(None, tmp_path / "index")
    images = ImageIndex.open(tmp_path / "index", backbone=Grid())
    report = images.forget(missing=True)
    assert (report.removed, report.kept, parse_roots(images.index.metadata)) == (12, 0, ())


def test_an_image_that_cannot_be_read_keeps_its_row(stored, tmp_path, monkeypatch):
    build([URL], tmp_path / "index", bits=16)
    put(stored, "/photos/set/0/000.png", tmp_path, 70)
    put(stored, "/photos/set/new.png", tmp_path, 71)
    stored.pipe_file("/photos/set/0/000.png", stored.cat_file("/photos/set/0/000.png") + b"\0")

    def broken(self, path, start=None, end=None, **options):
        raise TimeoutError("timed out")

    monkeypatch.setattr(type(stored), "cat_file", broken)
    images, report = update(None, tmp_path / "index")
    assert (len(images), report.kept, report.removed) == (12, 1, 0)
    assert {*report.skipped.values()} == {"cannot be read (timed out)"}


def test_objects_are_read_side_by_side(stored, tmp_path, monkeypatch):
    """Each read waits until three are under way; a decoding thread alone would wait for ever."""
    real, together = type(stored).cat_file, threading.Barrier(3)

    def read(self, path, **options):
        together.wait(60)
        return real(self, path, **options)

    monkeypatch.setattr(type(stored), "cat_file", read)
    (tmp_path / "list").write_text("".join(f"{name}\n" for name in names()))
    listed = PathList(tmp_path / "list")
    images, report = build(listed, tmp_path / "index", epochs=0, workers=1)
    assert paths_of(images) == names() and not report.skipped


def test_lists_have_urls_and_paths(stored, tmp_path):
    fill(tmp_path / "p", 3)
    lines = [*names(), *map(str, (tmp_path / "p").iterdir()), f"{URL}/none.png", names()[0]]
    (tmp_path / "list").write_text("\n".join(lines))
    images, report = build(PathList(tmp_path / "list"), tmp_path / "index", bits=16)
    assert len(images) == 15
    assert report.skipped == {f"{URL}/none.png".encode(): "no such object"}
    with pytest.raises(InvalidInputError, match="records no folder"):
        update(None, tmp_path / "index")
    stored.rm(f"/photos/set{names()[0].removeprefix(URL)}")
    assert images.forget(missing=True).removed == 1


def test_urls_that_cannot_be_opened(memory, tmp_path, monkeypatch):
    for url, why in {
        "nosuch://bucket/a": "a URL of the protocol nosuch, which cannot be listed",
        "file:///etc": "cannot be listed",
        "zip://a::memory://b": "cannot be listed",
        "ftp://host/photos": "cannot be listed",
        "https://example.org/photos": "cannot be listed",
        "s3://": "expected a URL",
    }.items():
        with pytest.raises(InvalidInputError, match=why):
            build([url], tmp_path / "index")
    with pytest.raises(DatasetError, match=r"memory://photos/none does not exist"):
        build(["memory://photos/none"], tmp_path / "index")
    assert not (tmp_path / "index").exists()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    remote_source._connect.cache_clear()
    for images in (["memory://photos/set"], PathList(tmp_path / "list")):
        (tmp_path / "list").write_text(f"{URL}/0/000.png\n")
        with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[remote\]'"):
            build(images, tmp_path / "index")
    with pytest.raises(OSError, match="fsspec"):
        RemoteSource().read(b"memory://photos/set/a")


def test_a_root_at_a_url_has_no_place_beside_the_index(stored, tmp_path):
    index, _ = build([URL], tmp_path / "index", bits=16)
    (root,) = parse_roots(index.index.metadata)
    for wrong in ({"relative": b"../photos"}, {"mount": b"/"}):
        with pytest.raises(CorruptIndexError, match="roots"):
            parse_roots(with_roots({}, [replace(root, **wrong)]))
