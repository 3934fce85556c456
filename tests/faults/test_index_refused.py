"""A system that refuses: full disks and I/O errors at every step of every change of an index."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest
from fault_tools import (
    add,
    contents,
    damage,
    failing,
    intercept,
    is_relearned,
    load,
    store_of,
)
from index_operations import OPERATIONS, make_index

from hyperpq.errors import StoreError

# Code of the error, and whether it lasts.
VARIANTS = [(code, stays) for code in (errno.ENOSPC, errno.EIO) for stays in (False, True)]


def state(index):
    store = store_of(index)
    return store.snapshot_number, store.fingerprint(), index.next_id, contents(index)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "every",
    [
        pytest.param(False, marks=pytest.mark.sample),
        pytest.param(True, marks=pytest.mark.slow),
    ],
)
def test_every_system_call_may_fail(tmp_path, monkeypatch, capsys, name, every):
    """Each call fails in one of the four ways in turn, or in all of them."""
    operation, root = OPERATIONS[name], tmp_path / "index"
    original = make_index(tmp_path / "original").path
    undisturbed = load(shutil.copytree(original, tmp_path / "undisturbed"))
    operation(undisturbed)
    new = contents(undisturbed)
    number, failed, refusals = 0, set(), 0
    while True:
        for code, stays in VARIANTS if every else [VARIANTS[number % len(VARIANTS)]]:
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(original, root)
            index = load(root)
            before = state(index)
            act = failing(number, code, stays=stays)
            error = None
            with monkeypatch.context() as patch:
                intercept(patch, act)
                try:
                    operation(index)
                except StoreError as raised:
                    error = raised
            if not act.failed:
                break
            failed.add(act.failed[0])
            assert damage(root) == []
            if error is None:
                # These refusals do no harm: of removing what has become garbage, and of making the
                # removal of a former codec durable; of making a folder that is there already, and
                # of saying who holds the lock.
                harmless = ("unlink", "mkdir", *(["fsync"] if name == "relearn" else []))
                assert act.failed[0] in harmless or act.holder
                assert contents(load(root)) == contents(index) == new
                continue
            refusals += 1
            assert os.strerror(code) in str(error)
            assert str(root) in str(error)
            assert state(index) == before
            if "open the index again" in str(error):
                assert stays
                index = load(root)
            else:
                assert state(load(root)) == before
            if store_of(index).snapshot_number == before[0]:
                operation(index)
                assert contents(load(root, verify=True)) == contents(index) == new
        if not act.failed:
            break
        number += 1
    assert error is None
    assert {"open", "pwrite", "fsync", "replace"} <= failed
    with capsys.disabled():
        print(f"\nindex: {name}: {number} system calls failed, {refusals} errors, nothing lost")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB, which the kernel says is full when it is."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if done.returncode:
        pytest.skip(f"may not mount a small file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path, but: int) -> None:
    """Write a file until the disk is full, then give back ``but`` bytes."""
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(file.tell() - but)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_disk_that_is_full(small_disk, capsys, name):
    """With one free page more each time, until the change fits."""
    operation, root, ballast = OPERATIONS[name], small_disk / "index", small_disk / "ballast"
    refusals = 0
    for pages in range(100):
        make_index(root)
        fill(ballast, but=4096 * pages)
        index = load(root)
        before = state(index)
        try:
            operation(index)
        except StoreError as error:
            assert os.strerror(errno.ENOSPC) in str(error)
            assert str(root) in str(error)
            refusals += 1
            assert state(index) == state(load(root, verify=True)) == before
            ballast.unlink()
            operation(index)
        else:
            ballast.unlink()
            pages = None
        done = contents(index)
        assert contents(load(root, verify=True)) == done
        assert done != before[3] or name in ("compact", "relearn")
        assert is_relearned(store_of(index)) == (name == "relearn")
        add(index, [999])
        del index
        shutil.rmtree(root)
        if pages is None:
            break
    assert pages is None
    assert refusals >= 1
    with capsys.disabled():
        print(f"\nindex: {name}: {refusals} times a full disk, then it fitted")
