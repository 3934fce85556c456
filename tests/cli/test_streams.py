"""Closed, full and broken standard streams: an exit code and one line, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.cli.main import COMMANDS

# Eighty processes: two minutes on two cores.
pytestmark = pytest.mark.slow

# A command -> (arguments, whether what it prints is its result and not a summary). P is an image
# and I the index of the fixture; each runs in a folder of its own with vectors.npy and `index`.
CASES = {
    "build": ("build P --epochs 0 --index new", False),
    "query": ("query P --index I -k 2", True),
    "query of vectors": ("search vectors.npy --index index -k 2", True),
    "ls": ("ls --index I", True),
    "update": ("update --index own", False),
    "forget": ("forget --missing --index own", False),
    "add": ("add vectors.npy --index index", False),
    "remove": ("remove --where id>99 --index index", False),
    "train": ("train vectors.npy --epochs 0 --index new", False),
    "finetune": (
        "finetune own --rounds 1 --epochs 1 --batch 4 --resolution 32 --blocks 1 --train-size 16 "
        "--no-holdout-check",
        False,
    ),
    "import": ("import vectors.npy --epochs 0 --index new", False),
    "export": ("export --format csv out.csv --index index", False),
    "encode": ("encode P --index I -o codes.npy", True),
    # None of the images is there twice, so there is nothing but a summary.
    "duplicates": ("duplicates --index own", False),
    "map": ("map --index own", False),
    "cluster": ("cluster -n 2 --index own", True),
    "info": ("info --index index", True),
    "verify": ("verify --index index", True),
    "compact": ("compact --index index", False),
    "draw": ("draw -n 1 --size 16 images", False),
    "completion": ("completion bash", True),
    "help": ("--help", True),
    "version": ("--version", True),
    "help of a command": ("query --help", True),
}
STREAMS = {
    "closed": "<&- >&- 2>&-",
    "stdout closed": ">&-",
    "stdout full": "> /dev/full",
    "no reader": "| true",
}


def run(command, redirection, cwd):
    """(exit code, stdout and stderr) of hyperpq in a shell with redirected streams."""
    # `true` ends before anything is written: the pipe has no reader.
    script = f'"$@" {redirection}; code=${{PIPESTATUS[0]}}; exit $code'
    if redirection == "| true":
        script = 'exec 3> >(true); sleep 0.2; "$@" >&3'
    args = ["bash", "-c", script, "bash", sys.executable, "-m", "hyperpq", *command]
    done = subprocess.run(args, cwd=cwd, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def outcomes(place, photos, tmp_path_factory):
    words = {"I": str(place / "hyperpq-index"), "P": str(photos[0])}
    x = np.random.default_rng(0).normal(size=(20, 8))

    def prepared(case):
        name, redirection = case
        here = tmp_path_factory.mktemp("streams")
        np.save(here / "vectors.npy", x)
        index = HiHPQIndex(8, 2, device="cpu")
        index.train(x, epochs=0)
        index.save(here / "index")
        shutil.copytree(place / "hyperpq-index", here / "own")
        command = [words.get(word, word) for word in CASES[name][0].split()]
        return command, STREAMS[redirection], here

    cases = [(name, stream) for name in CASES for stream in STREAMS]
    prepared_cases = [prepared(case) for case in cases]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda case: run(*case), prepared_cases)
        return dict(zip(cases, zip(done, (c[2] for c in prepared_cases), strict=True), strict=True))


def test_every_command_has_a_case():
    # The server runs until it is stopped; tests/server closes its streams. What needs a storage is
    # tried in tests/remote.
    assert set(COMMANDS) - {"serve", "push", "pull"} <= set(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_takes_nothing(outcomes, name, stream):
    (code, out, err), here = outcomes[name, stream]
    is_result = CASES[name][1]
    lines = err.splitlines()
    assert all(line.startswith("hyperpq: ") for line in lines)
    # The library may warn before, about a codec of few items.
    errors = [line for line in lines if line.startswith("hyperpq: error: ")]
    assert errors == lines[len(lines) - len(errors) :]
    if stream == "stdout closed":
        # Who closes stdout does not want a summary, but has asked for results.
        assert code == is_result
        assert errors == ["hyperpq: error: stdout cannot be used: it is closed."] * code
    elif stream == "closed":
        assert (code, err) == (int(is_result), "")
    elif stream == "stdout full":
        said = "hyperpq: error: stdout cannot be used: No space left on device."
        assert (code, errors) == (1, [said])
    else:
        assert (code, errors) == (141, [])
    assert out == ""
    # The work itself was done, and nothing that was printed has gone into a file.
    if name in ("build", "train", "import", "add"):
        made = here / ("index" if name == "add" else "new")
        index = HiHPQIndex.load(made, device="cpu", verify=True)
        assert index.ntotal == {"build": 1, "train": 0}.get(name, 20)


def test_what_is_printed_does_not_go_into_a_file_that_is_opened_later(tmp_path):
    """The descriptors of closed streams are taken before a file can get their numbers."""
    program = (
        "import os, sys\n"
        "from hyperpq.cli import streams\n"
        "streams.prepare()\n"
        "numbers = [os.open('data', os.O_CREAT | os.O_WRONLY) for _ in range(3)]\n"
        "os.write(2, b'from a library')\n"
        "print('warning', file=sys.stderr)\n"
        "os.write(numbers[0], repr(numbers).encode())\n"
    )
    script = '"$@" <&- >&- 2>&-'
    args = ["bash", "-c", script, "bash", sys.executable, "-c", program]
    assert subprocess.run(args, cwd=tmp_path).returncode == 0
    numbers = json.loads((tmp_path / "data").read_text())
    assert min(numbers) > 2


@pytest.mark.parametrize("args", [("query", "-"), ("encode", "-", "-o", "codes.npy")])
def test_names_on_a_closed_stdin(place, args):
    code, out, err = run(args, "<&-", place)
    said = "hyperpq: error: stdin is closed; expected names of images on it.\n"
    assert (code, out, err) == (2, "", said)


def test_stdin_that_cannot_be_read(place):
    code, out, err = run(("query", "-"), "0> /dev/null", place)
    assert (code, out) == (2, "")
    assert err == (
        "hyperpq: error: stdin cannot be read (Bad file descriptor); expected the name of one "
        "image per line.\n"
    )


def test_an_error_without_stderr_has_its_exit_code(place):
    assert run(("query", "gone.jpg"), "2>&-", place)[0] == 1
    assert run(("query", "gone.jpg", "--top"), "2> /dev/full", place)[0] == 2


def test_a_pipe_that_does_not_block(place):
    """Node.js and others leave pipes in this mode; a full one is waited for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    args = [sys.executable, "-m", "hyperpq", "query", *["photos"] * 20, "-k", "24"]
    with subprocess.Popen(args, cwd=place, stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        with os.fdopen(read, "rb") as file:
            text = file.read()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    # More than a pipe holds.
    assert len(text) > 1 << 17
    assert len(text.splitlines()) == 20 * 24 * 25


def test_a_terminal_that_goes_away(place, photos, tmp_path):
    """Progress has nowhere to go then, but the build is finished."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    person, terminal = pty.openpty()
    args = ["build", *photos, "--epochs", "0", "--index", "index"]
    with subprocess.Popen(
        [sys.executable, "-m", "hyperpq", *args],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "HYPERPQ_INDEX": "", "HYPERPQ_PROGRESS": ""},
    ) as process:
        os.close(terminal)
        # The first bytes of a bar: the terminal is in use.
        assert os.read(person, 100)
        os.close(person)
        out = process.stdout.read()
    assert process.returncode == 0
    assert out.startswith(b"images")
    assert HiHPQIndex.load(tmp_path / "index", device="cpu").ntotal == len(photos)
