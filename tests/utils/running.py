"""Processes that tests start: which they are, and whether they have ended."""

from __future__ import annotations

import subprocess
import time

from hyperpq.utils import worker_process

WAIT = """
import os, time

def wait(child):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    raise SystemExit("the child hangs")
"""
"""Begin of a script that forks: waits for a child, and gives its status."""


def record_started(monkeypatch):
    """A list of the worker processes that are started from now on."""
    started, popen = [], subprocess.Popen

    def record(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(worker_process.subprocess, "Popen", record)
    return started


def run_before_serving(monkeypatch, code):
    """Have worker processes run some code first."""
    call = "importlib.import_module"
    program = worker_process._PROGRAM.replace(call, f"{code}\n{call}")
    monkeypatch.setattr(worker_process, "_PROGRAM", program)


def is_running(pid):
    """Whether a process of any parent has not ended; needs /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_the_end(*pids):
    """Wait until processes have ended."""
    until = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.01)
