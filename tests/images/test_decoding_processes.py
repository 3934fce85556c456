"""Processes that decode: images that end them, their memory, their end, and who gets them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_tools import Grid, fill
from PIL import Image
from running import record_started, run_before_serving, wait_for_the_end

from hyperpq.datasets.augment import PAPER
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.images import decoders
from hyperpq.images.decoders import Workers
from hyperpq.images.decoding import Decoding, Failure, ReadImage
from hyperpq.images.decoding_budget import DecodingBudget
from hyperpq.images.decoding_processes import DecodingProcesses
from hyperpq.images.extract import ReadOptions, extract_features, stream_features
from hyperpq.images.sources import EncodedImage
from hyperpq.utils import worker_process
from hyperpq.utils.worker_process import processes_possible

pytestmark = pytest.mark.skipif(not processes_possible(), reason="no decoding processes here")

DECODING = Decoding(Preprocessing(16, "squash", 1.0, "bicubic"), 200.0)
# What a native decoder does on some file.
CRASH = (
    "import hyperpq.images.decoding_worker as w, os, signal; real = w.read_image\n"
    "def read(path, *rest):\n"
    "    if path.endswith({name!r}): os.kill(os.getpid(), signal.SIGSEGV)\n"
    "    return real(path, *rest)\n"
    "w.read_image = read"
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("images") / "a", 40)
    return [bytes(path) for path in sorted(folder.iterdir())]


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    return record_started(monkeypatch)


def crash_on(monkeypatch, name):
    run_before_serving(monkeypatch, CRASH.format(name=name))


def test_an_image_that_ends_its_process_is_skipped_alone(monkeypatch, paths):
    want = extract_features(paths, Grid(), ReadOptions())
    crash_on(monkeypatch, os.path.basename(paths[7]))
    out = extract_features(paths, Grid(), ReadOptions("processes:2"))
    assert out.rows.tolist() == [row for row in range(40) if row != 7]
    np.testing.assert_array_equal(out.plain, np.delete(want.plain, 7, 0))
    ((row, reason),) = out.skipped
    assert row == 7
    assert "two processes (signal 11, signal 11)" in reason
    # It may have been the memory of the machine.
    assert out.unavailable == {7}


def test_a_process_that_is_killed_is_replaced(paths, started):
    """As by the system when memory is short: nothing is lost."""
    paths = paths * 4
    stream = stream_features(paths, Grid(), ReadOptions("processes:1"))
    first = next(stream)
    (worker,) = started
    worker.kill()
    batches = [first, *stream]
    assert len(started) == 2
    want = extract_features(paths, Grid(), ReadOptions())
    np.testing.assert_array_equal(np.concatenate([b.plain for b in batches]), want.plain)
    assert not any(batch.skipped for batch in batches)


def test_a_process_that_cannot_start_is_named(monkeypatch, paths, started):
    monkeypatch.setattr(worker_process, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(HyperPQError, match=r"did not start \(exit code 3\)"):
        extract_features(paths, Grid(), ReadOptions("processes:2"))
    assert {process.returncode for process in started} == {3}


def test_where_the_system_starts_no_processes(monkeypatch, paths):
    def refuse(*args, **options):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(worker_process.subprocess, "Popen", refuse)
    with pytest.raises(HyperPQError, match=r"cannot be started \(Resource.*workers='threads'"):
        extract_features(paths, Grid(), ReadOptions("processes:2"))


def test_processes_end_with_the_stream(paths, started):
    stream = stream_features(paths, Grid(), ReadOptions("processes:2"))
    next(stream)
    assert {process.poll() for process in started} == {None}
    stream.close()
    assert {process.returncode for process in started} == {0}


OWNER = """
import subprocess, sys
from image_tools import Grid

started, popen = [], subprocess.Popen
def record(*args, **options):
    started.append(popen(*args, **options))
    return started[-1]
subprocess.Popen = record

from hyperpq.images.extract import ReadOptions, stream_features

paths = [path.encode() for path in sys.argv[1:]]
stream = stream_features(paths, Grid(), ReadOptions("processes:2"))
next(stream)
print(*(process.pid for process in started), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_processes_end_with_their_owner(paths):
    """A script without the guard of `multiprocessing`, which a new interpreter must not run."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *map(os.fsdecode, paths)],
        cwd=os.path.dirname(__file__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    workers = [int(pid) for pid in owner.stdout.readline().split()]
    assert workers
    owner.kill()
    assert owner.communicate()[1] == b""
    wait_for_the_end(*workers)


def test_all_sources_and_relative_paths(monkeypatch, paths):
    content = Path(os.fsdecode(paths[1])).read_bytes()
    with Image.open(paths[2]) as opened:
        opened.load()
    monkeypatch.chdir(os.path.dirname(paths[0]))
    sources = [os.path.basename(paths[0]), EncodedImage(content), opened, EncodedImage(b"\0no")]
    out = extract_features(sources, Grid(), ReadOptions("processes:1"))
    want = extract_features(paths[:3], Grid(), ReadOptions())
    np.testing.assert_array_equal(out.plain, want.plain)
    assert [row for row, _ in out.skipped] == [3]


def test_a_name_that_is_no_text(tmp_path, paths):
    path = bytes(tmp_path) + b"/\xff\xfe\n.png"
    os.link(paths[0], path)
    out = extract_features([path], Grid(), ReadOptions("processes:1", hashes=True))
    want = extract_features([paths[0]], Grid(), ReadOptions(hashes=True))
    np.testing.assert_array_equal(out.hashes, want.hashes)


class Watched(DecodingBudget):
    """Records the largest number of bytes that were taken."""

    most, asked = 0, 0

    def _take(self, size):
        super()._take(size)
        self.most, self.asked = max(self.most, self.used), self.asked + 1


def test_processes_share_the_memory_of_the_threads(tmp_path):
    """Four images of 9 MB in two processes, where there is memory for one of them."""
    path = tmp_path / "large.png"
    Image.new("RGBA", (1500, 1500), (9, 30, 20, 128)).save(path)
    budget = Watched(10 << 20)
    processes = DecodingProcesses(2, budget)
    shape = (1, 4, 16, 16, 3)
    block = processes.blocks.take(int(np.prod(shape)))
    sources = [(i, bytes(path)) for i in range(4)]
    try:
        futures = [processes.submit(sources[i::2], block, shape, DECODING) for i in (0, 1)]
        outcomes = [outcome for future in futures for outcome in future.result()]
    finally:
        processes.close()
    assert outcomes == [ReadImage(1500, 1500, 0)] * 4
    assert (budget.asked, budget.used) == (4, 0)
    # Each takes more than there is, and so was alone.
    assert budget.most == 1500 * 1500 * 8


def test_small_images_do_not_ask(paths):
    budget = Watched()
    processes = DecodingProcesses(1, budget)
    shape = (1, 2, 16, 16, 3)
    try:
        block = processes.blocks.take(int(np.prod(shape)))
        outcomes = processes.submit([(0, paths[0]), (1, b"/none")], block, shape, DECODING).result()
    finally:
        processes.close()
    assert outcomes[0] == ReadImage(32, 24, 0)
    assert isinstance(outcomes[1], Failure)
    assert budget.asked == 0


def test_what_a_process_is_told_survives_json():
    import json

    whole = Decoding(Preprocessing(24, "crop", 0.9, "bilinear"), 7.5, PAPER, 3, 11, True)
    assert Decoding.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert Decoding.from_dict(json.loads(json.dumps(DECODING.to_dict()))) == DECODING


@pytest.mark.parametrize(
    "asked, kind, count",
    [
        (3, "auto", 3),
        ("5", "auto", 5),
        ("threads", "threads", 6),
        ("processes", "processes", 6),
        ("processes:2", "processes", 2),
        (0, "auto", 6),
        ("auto", "auto", 6),
    ],
)
def test_what_a_user_may_ask_for(monkeypatch, asked, kind, count):
    monkeypatch.setattr(decoders, "default_threads", lambda: 6)
    assert Workers.of(asked) == Workers(kind, count)


@pytest.mark.parametrize("asked", [-1, 1.5, True, "fibres", "threads:-1", "processes:", None])
def test_what_is_refused(asked):
    with pytest.raises(InvalidInputError, match="workers is"):
        ReadOptions(asked)


@pytest.mark.parametrize(
    "kind, n, device, expected",
    [
        ("auto", 5000, "cuda:0", True),
        ("auto", 100, "cuda:0", False),
        ("auto", 5000, "cpu", False),
        ("threads", 5000, "cuda:0", False),
        ("processes", 1, "cpu", True),
    ],
)
def test_who_gets_processes(kind, n, device, expected):
    assert Workers(kind, 2).uses_processes(n, device) is expected


def test_where_processes_are_impossible(monkeypatch):
    monkeypatch.setattr(decoders, "processes_possible", lambda: False)
    assert not Workers.of(0).uses_processes(5000, "cuda:0")
    with pytest.raises(InvalidInputError, match="give 'threads'"):
        Workers.of("processes")
