"""Durable writing and checked reading of files."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import xxhash

from hyperpq.errors import CorruptIndexError, StoreError
from hyperpq.utils import files
from hyperpq.utils.files import (
    atomic_write,
    checksums,
    checksums_of_file,
    fsync_folder,
    open_regular,
    os_errors,
    read_checked,
    read_regular,
    write_synced,
)


def test_atomic_write(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"one")
    atomic_write(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(StoreError, match="No such file or directory"):
        atomic_write(tmp_path / "no/file", b"")


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, refuse)
    for alone in (False, True):
        with pytest.raises(StoreError, match=r"cannot .*: No space left on device\.$") as caught:
            atomic_write(path, b"new", alone=alone)
        assert caught.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["file"]


def test_blocks_lie_at_their_offsets_and_zeros_between(tmp_path):
    path = tmp_path / "file"
    path.symlink_to(tmp_path / "elsewhere")
    numbers = np.arange(3, dtype="<i4")
    digests = write_synced(path, [(20, b"end"), (4, numbers[::-1])], 25)
    expected = bytes(4) + numbers[::-1].tobytes() + bytes(4) + b"end" + bytes(2)
    assert path.read_bytes() == expected
    assert digests == checksums(expected) == (xxhash.xxh3_128_hexdigest(expected),)
    # What had the name before is replaced, never written through.
    assert not path.is_symlink()
    assert os.listdir(tmp_path) == ["file"]


def test_checksums_cover_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHECKSUM_BLOCK", 8)
    for data in (b"", b"a", b"12345678", b"123456789", bytes(range(40))):
        (tmp_path / "file").write_bytes(data)
        starts = range(0, max(len(data), 1), 8)
        expected = tuple(xxhash.xxh3_128_hexdigest(data[i : i + 8]) for i in starts)
        assert checksums(data) == checksums_of_file(tmp_path / "file", len(data)) == expected


def test_reading_checks_length_and_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_regular(path) == read_regular(path, 7, limit=7) == b"content"
    assert read_checked(path, 7, checksums(b"content")) == b"content"
    torn = "; the file is torn or altered, so restore it from a copy or build the index again."
    for call, message in (
        (lambda: read_regular(path, 8), "the file has 7 bytes; the manifest says 8"),
        (lambda: read_regular(path, limit=6), "the file has 7 bytes; expected at most 6"),
        (lambda: read_checked(path, 7, checksums(b"Content")), "the checksum is wrong"),
    ):
        with pytest.raises(CorruptIndexError) as caught:
            call()
        assert str(caught.value) == f"{path}: {message}{torn}"


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "device", "missing"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "link":
        (tmp_path / "target").write_bytes(b"x")
        path.symlink_to(tmp_path / "target")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = type(path)("/dev/zero")
    what = "file of the index is missing" if kind == "missing" else "is not a regular file"
    with pytest.raises(CorruptIndexError, match=f"^{path}: this {what}; "), open_regular(path):
        pass


def test_errors_of_the_store_pass_through_unchanged(tmp_path):
    """A `StoreError` is an `OSError`, and is not wrapped a second time."""
    error = CorruptIndexError("/index: torn.")
    with pytest.raises(CorruptIndexError) as caught, os_errors("read", tmp_path):
        raise error
    assert caught.value is error
    with pytest.raises(StoreError) as caught, os_errors("read", tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert str(caught.value) == f"{tmp_path}: cannot read: Permission denied."
    assert (caught.value.errno, type(caught.value)) == (errno.EACCES, StoreError)
    with pytest.raises(StoreError) as caught, os_errors("read", tmp_path):
        raise OSError("something")
    assert (str(caught.value), caught.value.errno) == (f"{tmp_path}: cannot read: something.", None)


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folders_that_cannot_be_synced(tmp_path, monkeypatch, code, fails):
    """Some network file systems cannot fsync a folder, and say so by EINVAL."""

    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if fails:
        with pytest.raises(StoreError, match="cannot make durable"):
            fsync_folder(tmp_path)
    else:
        fsync_folder(tmp_path)
    fsync_folder(tmp_path / "missing", sync=False)
