"""Ctrl-C and a full disk during a build: one line that says how to continue."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest


def heed_ctrl_c():
    """Do not ignore Ctrl-C: jobs in the background of a shell do, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(place, index, *options):
    return [
        *(sys.executable, "-m", "hyperpq", "build", "--images", str(place / "photos")),
        *("--index", str(index), "--epochs", "1", *options),
    ]


def test_ctrl_c(place, tmp_path):
    index, work = tmp_path / "index", tmp_path / "index.building"
    with subprocess.Popen(
        command(place, index),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    ) as process:
        while not (work / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130
    assert out == b""
    assert err == b"hyperpq: interrupted; run the same command with --resume to continue.\n"
    refused = subprocess.run(command(place, index), capture_output=True)
    assert refused.returncode == 1
    (line,) = refused.stderr.decode().splitlines()
    assert line == (
        f"hyperpq: error: {work} is an interrupted build; "
        "continue it with --resume, or start again with --overwrite."
    )


def test_ctrl_c_is_not_lost_while_modules_load(tmp_path):
    """Compiled modules discard exceptions while they load; so does this module."""
    (tmp_path / "deaf.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "except KeyboardInterrupt:\n"
        "    print('lost')\n"
    )
    program = (
        "import time\n"
        "from hyperpq.cli.interrupts import delay_interrupts_while_loading\n"
        "delay_interrupts_while_loading()\n"
        "try:\n"
        "    import deaf\n"
        "    time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    assert done.stderr == ""
    assert done.stdout == "interrupted\n"


def test_ctrl_c_elsewhere(place, tmp_path):
    os.mkfifo(tmp_path / "names")
    command = [sys.executable, "-m", "hyperpq", "query", f"@{tmp_path / 'names'}"]
    # Opening the pipe waits until the command opens it too, in order to read.
    with (
        subprocess.Popen(
            command, cwd=place, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c
        ) as process,
        open(tmp_path / "names", "w"),
    ):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == b"hyperpq: interrupted.\n"


@pytest.mark.parametrize("limit", [pytest.param(50_000, marks=pytest.mark.slow), 200_000])
def test_a_disk_that_refuses(place, tmp_path, hyperpq, limit):
    """With a limit on the size of files, features or the checkpoint cannot be written."""
    index = tmp_path / "index"
    done = subprocess.run(
        command(place, index, "--quiet"),
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"hyperpq: error: {index}.building/")
    assert line.endswith(": cannot write: File too large.")
    assert not index.exists()
    resumed = subprocess.run(command(place, index, "--resume"), capture_output=True)
    assert resumed.returncode == 0
    assert hyperpq("verify", "--index", index).returncode == 0


def test_a_query_writes_nothing(place, hyperpq):
    """A query does not write, so that it works on a read-only disk."""
    index = place / "hyperpq-index"
    before = {path: path.stat().st_mtime_ns for path in (index, *index.rglob("*"))}
    assert hyperpq("query", "photos", "-k", "1", cwd=place).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (index, *index.rglob("*"))} == before
