"""Processes that work for this one: messages, how they end, and what a fork leaves alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from running import is_running, wait_for_the_end

from hyperpq.utils.worker_process import WorkerDied, WorkerProcess, processes_possible

pytestmark = pytest.mark.skipif(not processes_possible(), reason="no such processes here")

ECHO = """
import os
from hyperpq.utils.worker_process import serving

def serve(number):
    with serving(number) as lines:
        lines.send({"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")})
        while (message := lines.receive()) is not None:
            if "exit" in message:
                raise SystemExit(message["exit"])
            lines.send(message)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """The name of a module that sends back what it is sent."""
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "echo"


def test_messages_of_any_size(echo):
    process = WorkerProcess(echo, environment={"OMP_NUM_THREADS": "3"})
    assert process.receive()["threads"] == "3"
    for message in ({"a": "\n\x00é"}, {"long": "x" * 100_000}, {}):
        process.send(message)
    assert [process.receive() for _ in range(3)] == [{"a": "\n\x00é"}, {"long": "x" * 100_000}, {}]
    process.close()


def test_what_it_imports(echo, tmp_path, monkeypatch):
    """What this process does, and nothing of the working directory, as of downloaded images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("json", "importlib", "socket", "numpy"):
        (folder / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path / "a path object"])
    process = WorkerProcess(echo)
    assert process.receive()["pid"] > 0
    process.close()


def test_how_it_ended_is_told(echo):
    process = WorkerProcess(echo)
    os.kill(process.receive()["pid"], 9)
    for _ in range(2):
        with pytest.raises(WorkerDied, match="signal 9"):
            process.receive()
    with pytest.raises(WorkerDied, match="signal 9"):
        process.send({})
    process.close()
    process = WorkerProcess(echo)
    process.receive()
    process.send({"exit": 7})
    with pytest.raises(WorkerDied, match="exit code 7"):
        process.receive()
    process.close()


FORKING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from hyperpq.utils.worker_process import WorkerDied, WorkerProcess

process = WorkerProcess("echo")
worker = process.receive()["pid"]
child = os.fork()
if not child:
    try:
        process.receive()
    except WorkerDied as died:
        text = str(died)
    process.close()
    os.write(1, f"{text}\\n".encode())
    time.sleep(600)
process.send({"still": "here"})
still = process.receive()["still"]
os.write(1, f"{worker} {child} {still}\\n".encode())
sys.stdin.readline()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("end", ["killed", "closed"])
def test_a_forked_child_has_no_part_in_it(echo, tmp_path, end):
    """It neither ends the process of its parent nor keeps it alive."""
    script = FORKING + ("process.close()\nprint('closed', flush=True)" if end == "closed" else "")
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # From the owner and from its child, in any order.
    told, child_told = sorted(owner.stdout.readline() for _ in range(2))
    worker, child = (int(pid) for pid in told.removesuffix("here\n").split())
    try:
        assert "forked" in child_told
        if end == "killed":
            owner.kill()
            owner.wait()
        else:
            owner.stdin.write("\n")
            owner.stdin.flush()
            assert owner.stdout.readline() == "closed\n"
        wait_for_the_end(worker)
        assert is_running(child)
    finally:
        os.kill(child, 9)
        owner.kill()
        owner.communicate()
