"""The locks: who is kept out, who holds them, and file systems without them."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from store_tools import make_store

from hyperpq.errors import IndexLockedError, StoreError
from hyperpq.store import IndexStore
from hyperpq.store.lock import HOLDER_NAME, LOCK_NAME, folder_lock, working_folder, writer_lock


def test_one_writer_at_a_time(tmp_path):
    store = make_store(tmp_path / "index")
    code = (
        "import sys; from pathlib import Path; from hyperpq.store.lock import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(store.path)], **pipes) as holder:
        assert holder.stdout.readline() == "locked\n"
        who = rf"another process is writing.*\(process {holder.pid} on .* since .* UTC\)"
        with pytest.raises(IndexLockedError, match=who):
            store.commit(next_id=50)
        assert IndexStore.open(store.path, verify=True).ntotal == 10
        holder.kill()
        holder.wait()
    store.commit(next_id=50)
    with writer_lock(store.path), pytest.raises(IndexLockedError):
        store.commit(next_id=51)


def test_threads_keep_each_other_out(tmp_path):
    refused = []

    def write():
        try:
            with writer_lock(tmp_path):
                pass
        except IndexLockedError as error:
            refused.append(str(error))

    with writer_lock(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"process {os.getpid()} on " in refused[0]
    write()
    assert len(refused) == 1


HOLDING = (
    "import sys; from pathlib import Path; from hyperpq.store.lock import writer_lock\n"
    "with writer_lock(Path(sys.argv[1]), wait=float(sys.argv[2])):\n"
    "    print('locked', flush=True); sys.stdin.read()"
)


def start_holder(folder, wait=0.0):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", HOLDING, str(folder), str(wait)]

    def heed_ctrl_c():  # Jobs in the background of a shell ignore it, and so do their children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, text=True, preexec_fn=heed_ctrl_c, **pipes)


def test_a_writer_waits_for_another_one(tmp_path):
    store = make_store(tmp_path / "index")
    store.lock_timeout = 1000.0
    with start_holder(store.path) as holder:
        assert holder.stdout.readline() == "locked\n"
        thread = threading.Thread(target=store.commit, kwargs={"next_id": 50})
        thread.start()
        assert IndexStore.open(store.path).next_id == 12
        holder.stdin.close()
        thread.join()
    assert (store.next_id, IndexStore.open(store.path).next_id) == (50, 50)


def test_a_writer_says_how_long_it_has_waited(tmp_path):
    store = make_store(tmp_path / "index")
    store.lock_timeout = 0.25
    with start_holder(store.path) as holder:
        assert holder.stdout.readline() == "locked\n"
        who = rf"\(process {holder.pid} on .* UTC\), and has not finished within 0.25 s; try again"
        for change in (
            lambda: store.commit(next_id=50),
            lambda: store.write_report("skipped.csv", b""),
            store.remove_leftovers,
        ):
            with pytest.raises(IndexLockedError, match=who):
                change()
        holder.stdin.close()
    assert store.next_id == 12


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system has no /proc")
def test_an_interrupt_ends_the_wait(tmp_path):
    with writer_lock(tmp_path), start_holder(tmp_path, wait=1000.0) as waiting:
        # Its signal handler is there once the module that waits is loaded; before, it is too early.
        while str(tmp_path / LOCK_NAME) not in open_files(waiting.pid):
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        out, errors = waiting.communicate()
        assert out == ""
        assert errors.endswith("KeyboardInterrupt\n")


def open_files(pid):
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found.append(os.readlink(link))
    return found


def test_the_holder_is_named_only_while_there_is_one(tmp_path):
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path):
        assert (tmp_path / HOLDER_NAME).exists()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == [LOCK_NAME]
    # Whatever else its file says isn't repeated.
    with writer_lock(tmp_path):
        (tmp_path / HOLDER_NAME).write_text("process 1 on \033[31m since 1 UTC")
        with (
            pytest.raises(IndexLockedError, match="to this index; try again"),
            writer_lock(tmp_path),
        ):
            pass


def test_a_lock_file_that_was_removed_keeps_nobody_in(tmp_path):
    """As the message advises; the next writer makes another file."""
    with writer_lock(tmp_path):
        (tmp_path / LOCK_NAME).unlink()
        with writer_lock(tmp_path), pytest.raises(IndexLockedError), writer_lock(tmp_path):
            pass


def test_a_lock_on_a_file_without_a_name_is_none(tmp_path, monkeypatch):
    """The file is removed between its opening and its locking: another one is made and locked."""
    real, tries = fcntl.flock, []

    def flock(handle, operation):
        if not tries:
            (tmp_path / LOCK_NAME).unlink()
        tries.append(os.fstat(handle).st_ino)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with writer_lock(tmp_path):
        assert os.stat(tmp_path / LOCK_NAME).st_ino == tries[-1]
        assert len(tries) == 2


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_file_systems_without_locks_are_named(tmp_path, monkeypatch, code):
    store = make_store(tmp_path / "index")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = rf"{LOCK_NAME}: cannot lock: {os.strerror(code)}\."
    with pytest.raises(StoreError, match=message) as caught:
        store.commit(next_id=50)
    assert caught.value.errno == code
    assert not isinstance(caught.value, IndexLockedError)
    # A folder is locked where that is possible, and a replacement can be recovered without.
    with folder_lock(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_taken(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(IndexLockedError, match="another process"), writer_lock(tmp_path):
        pass


def test_a_link_is_no_lock(tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot lock"), writer_lock(tmp_path / "index"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path):
    """A worker that is forked while another thread writes lives on for longer than the change."""
    gate, answer = os.pipe(), os.pipe()
    with writer_lock(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(IndexLockedError), writer_lock(tmp_path):
                    pass
                os.write(answer[1], b"locked\n")
                os.read(gate[0], 1)
                with writer_lock(tmp_path):
                    os.write(answer[1], b"free\n")
            finally:
                os._exit(0)
        assert os.read(answer[0], 100) == b"locked\n"
    with writer_lock(tmp_path):
        pass
    os.write(gate[1], b"x")
    assert os.read(answer[0], 100) == b"free\n"
    assert os.waitpid(child, 0)[1] == 0
    for end in (*gate, *answer):
        os.close(end)


def test_a_forked_child_does_not_keep_the_lock_of_a_folder(tmp_path):
    """The next replacement of an index would wait for as long as the child lives."""
    gate = os.pipe()
    with folder_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(gate[1])
            os.read(gate[0], 1)
            os._exit(0)
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
        os.close(gate[0])
        os.close(gate[1])
        assert os.waitpid(child, 0)[1] == 0


def test_a_working_folder_goes_when_it_is_empty(tmp_path):
    work = tmp_path / "deep" / "work"
    with working_folder(work):
        (work / "half").touch()
    assert os.listdir(work) == ["half"]
    with pytest.raises(KeyError), working_folder(work):
        (work / "half").unlink()
        raise KeyError
    assert not work.exists()
    work.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError), working_folder(work):
        pass


def test_a_working_folder_that_another_one_takes_while_it_is_removed(tmp_path, monkeypatch):
    """The other one locks a new file: what it makes stays, and a third one is kept out."""
    work, unlink = tmp_path / "work", os.unlink
    other = working_folder(work)

    def late(path, *args, **kwargs):
        unlink(path, *args, **kwargs)
        if os.path.basename(os.fspath(path)) == LOCK_NAME:
            monkeypatch.setattr(os, "unlink", unlink)
            other.__enter__()
            (work / "its").touch()

    with working_folder(work):
        monkeypatch.setattr(os, "unlink", late)
    assert (work / "its").exists()
    with pytest.raises(IndexLockedError), working_folder(work):
        pass
    (work / "its").unlink()
    other.__exit__(None, None, None)
    assert not work.exists()
