"""What a user names for results: files are replaced whole, devices and pipes are written to."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from threading import Thread

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.training.trace import Trace
from hyperpq.utils.files import atomic_write
from hyperpq.utils.output_files import check_writable, written_aside


def write(path, content=b"new"):
    check_writable(path)
    with written_aside(path) as aside:
        aside.write_bytes(content)


@pytest.fixture
def fifo(tmp_path):
    """A pipe with a name, and what a reader of it has found once it is joined."""
    path, found = tmp_path / "fifo", []
    os.mkfifo(path)
    reader = Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    return path, reader, found


def test_a_pipe_is_written_to_and_stays(fifo):
    path, reader, found = fifo
    write(path, b"x" * 200_000)
    reader.join(60)
    assert found == [b"x" * 200_000]
    assert stat.S_ISFIFO(os.lstat(path).st_mode)


def test_a_device_is_written_to_and_stays(tmp_path):
    """With a node of its own, so that a failure harms no device of the machine."""
    null, full = tmp_path / "null", tmp_path / "full"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        null.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"a device cannot be made here: {error}")
    write(null)
    with pytest.raises(StoreError, match=r"full: cannot write: No space left on device\."):
        write(full)
    for path in (null, full):
        assert stat.S_ISCHR(os.lstat(path).st_mode)
        with pytest.raises(StoreError, match="is a device, a pipe or a socket; expected the name"):
            atomic_write(path, b"new")
        with pytest.raises(StoreError, match="is a device, a pipe or a socket; expected the name"):
            Trace(path)
        assert stat.S_ISCHR(os.lstat(path).st_mode)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to("there/target")
    write(link)
    assert os.readlink(link) == "there/target"
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    link.unlink()
    link.symlink_to("nowhere/target")
    with pytest.raises(InvalidInputError, match=r"there is no folder \S+nowhere; create it first"):
        write(link)


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), written_aside(path) as aside:
        aside.write_bytes(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    write(path)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def hyperpq(*arguments, **options):
    command = [sys.executable, "-m", "hyperpq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, **options)


def test_results_go_to_devices_and_pipes_by_name(tmp_path, fifo):
    """``-o /dev/stdout`` prints; npz and HDF5, which seek, go through a pipe as well."""
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = HiHPQIndex(8, M=2, device="cpu")
    index.train(x, epochs=0)
    index.add(x[:20])
    index.save(tmp_path / "index")
    np.save(tmp_path / "q.npy", x[:2])
    search = ("search", tmp_path / "q.npy", "-k", 3, "--index", tmp_path / "index")
    printed = hyperpq(*search, "--format", "csv")
    assert printed.returncode == 0, printed.stderr
    named = hyperpq(*search, "--format", "csv", "-o", "/dev/fd/1")
    assert (named.returncode, named.stdout) == (0, printed.stdout)
    with open(tmp_path / "log", "wb") as log:
        log.write(b"before\n")
        log.flush()
        command = [sys.executable, "-m", "hyperpq", *map(str, search), "--format", "csv"]
        subprocess.run([*command, "-o", "/dev/fd/1"], stdout=log, check=True)
    assert (tmp_path / "log").read_bytes() == b"before\n" + printed.stdout
    path, reader, found = fifo
    exported = hyperpq("export", "--index", tmp_path / "index", "--format", "npz", path)
    assert exported.returncode == 0, exported.stderr
    reader.join(60)
    (tmp_path / "out.npz").write_bytes(found[0])
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["ids"], np.arange(20))
