"""Ctrl-C and a full disk during a build: one line that says how to continue."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def heed_signals():
    """Do not ignore signals: jobs in the background of a shell do, and so do their children."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def command(place, index, *options):
    return [
        *(sys.executable, "-m", "hyperpq", "build", "--images", str(place / "photos")),
        *("--index", str(index), "--epochs", "1", *options),
    ]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_asks_to_stop(place, tmp_path, number):
    """Ctrl-C, `kill`, the end of a service or of a container, and a terminal that is closed."""
    index, work = tmp_path / "index", tmp_path / "index.building"
    with subprocess.Popen(
        command(place, index),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_signals,
    ) as process:
        while not (work / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert out == b""
    assert err == b"hyperpq: interrupted; run the same command with --resume to continue.\n"
    refused = subprocess.run(command(place, index), capture_output=True)
    assert refused.returncode == 1
    (line,) = refused.stderr.decode().splitlines()
    assert line == (
        f"hyperpq: error: {work} is an interrupted build; "
        "continue it with --resume, or start again with --overwrite."
    )


def test_a_signal_that_is_ignored_stays_ignored():
    """Below nohup a build goes on when the terminal is closed."""
    program = (
        "import os, signal\n"
        "from hyperpq.cli.interrupts import handle_signals\n"
        "handle_signals()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('still here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout) == (0, b"still here\n")


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
        "from hyperpq.cli.interrupts import handle_signals\n"
        "handle_signals()\n"
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
        preexec_fn=heed_signals,
    )
    assert done.stderr == ""
    assert done.stdout == "interrupted\n"


DISCARDING = {
    "a weak reference": (
        "thing = set()\nreference = weakref.ref(thing, lambda _: stop())\ntry:\n    del thing\n"
    ),
    "__del__": (
        "class Thing:\n    def __del__(self): stop()\nthing = Thing()\ntry:\n    del thing\n"
    ),
}


@pytest.mark.parametrize("where", DISCARDING)
def test_ctrl_c_is_not_lost_where_python_discards_it(where):
    program = (
        "import os, signal, time, weakref\n"
        "from hyperpq.cli.interrupts import handle_signals\n"
        "handle_signals()\n"
        "def stop():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.01)\n"
        f"{DISCARDING[where]}"
        "    time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = run_program(program)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_other_exceptions_that_python_discards_are_shown():
    program = (
        "from hyperpq.cli.interrupts import handle_signals\n"
        "handle_signals()\n"
        "class Thing:\n    def __del__(self): 1 / 0\n"
        "Thing()\n"
    )
    assert "ZeroDivisionError" in run_program(program).stderr


@pytest.mark.parametrize(
    "at_the_end, code, said",
    [
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "hyperpq: interrupted.\n"),
        # Delayed, as while a module is loaded, until after the command.
        ("signal.setitimer(signal.ITIMER_REAL, 0.05) and None", 0, ""),
    ],
    ids=["at once", "delayed"],
)
def test_ctrl_c_at_the_end_of_a_command(at_the_end, code, said):
    program = (
        "import atexit, os, signal, time\n"
        "from hyperpq.cli import main\n"
        f"main.cli = lambda **options: {at_the_end}\n"
        "atexit.register(time.sleep, 0.1)\n"
        "main.main()\n"
    )
    done = run_program(program)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def run_program(program):
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=heed_signals
    )


def test_ctrl_c_elsewhere(place, tmp_path):
    os.mkfifo(tmp_path / "names")
    command = [sys.executable, "-m", "hyperpq", "query", f"@{tmp_path / 'names'}"]
    # Opening the pipe waits until the command opens it too, in order to read.
    with (
        subprocess.Popen(
            command, cwd=place, stderr=subprocess.PIPE, preexec_fn=heed_signals
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
