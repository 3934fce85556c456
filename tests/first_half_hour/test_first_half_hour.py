"""The first half hour of five users: what they type, and the lines that they should see.

A file of this folder is what one of them does. A line that begins with ``$`` is a command of bash,
``|`` before the lines that follow it is what it reads from stdin, and below stand the essential
lines of its output, in their order; ``*`` is anything. Each command begins in the folder of the
user. After ``# needs a GPU``, a command is left out where there is no GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
USERS = sorted(path.stem for path in HERE.glob("*.txt"))


@dataclass
class Step:
    """A command, what it reads, and the lines that are expected of it."""

    command: str
    stdin: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    needs_gpu: bool = False


def steps(text: str) -> list[Step]:
    """The commands of a file."""
    out: list[Step] = []
    needs_gpu = False
    for line in text.splitlines():
        if line.startswith("# needs a GPU"):
            needs_gpu = True
        elif line.startswith("$ "):
            out.append(Step(line.removeprefix("$ "), needs_gpu=needs_gpu))
            needs_gpu = False
        elif line.startswith("|"):
            out[-1].stdin.append(line.removeprefix("|").removeprefix(" "))
        elif line.strip() and not line.startswith("#"):
            out[-1].lines.append(line)
    return out


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def programs(tmp_path):
    """A folder with `hyperpq` and `python` of this interpreter, for the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, words in {"python": "", "hyperpq": "-m hyperpq"}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        program.chmod(0o755)
    return folder


def check(step: Step, output: str) -> None:
    """The expected lines are in the output, in their order."""
    left = iter(line.strip() for line in output.splitlines())
    for wanted in step.lines:
        pattern = re.escape(wanted.strip()).replace(r"\*", ".*").replace(r"\ ", " +")
        # What was seen before it is consumed.
        assert any(re.fullmatch(pattern, line) for line in left), (
            f"$ {step.command}\n{output}\nexpected next: {wanted}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_first_half_hour(user, programs, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HYPERPQ": str(ROOT),
    }
    environment.pop("HYPERPQ_INDEX", None)
    for step in steps((HERE / f"{user}.txt").read_text("utf-8")):
        if step.needs_gpu and not has_gpu():
            continue
        done = subprocess.run(
            ["bash", "-c", step.command],
            cwd=home,
            env=environment,
            input="\n".join(step.stdin),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"$ {step.command}\n{done.stdout}"
        check(step, done.stdout)


def test_every_file_has_commands_that_are_checked():
    assert USERS == ["backend_engineer", "faiss_user", "gpu_user", "photographer", "researcher"]
    for user in USERS:
        found = steps((HERE / f"{user}.txt").read_text("utf-8"))
        assert sum(bool(step.lines) for step in found) >= 3, user


@pytest.mark.parametrize("wanted", [["b", "a"], ["a", "c"], ["a b"]])
def test_a_line_that_is_missing_fails(wanted):
    check(Step("x", lines=["a", "b*"]), "a\nz\nb 1\n")
    with pytest.raises(AssertionError, match="expected next"):
        check(Step("x", lines=wanted), "a\nz\nb 1\n")
