"""Memory of decoding threads: it is shared in order, and one image may take more than there is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hyperpq.images import decoding_budget
from hyperpq.images.decoding_budget import DecodingBudget


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_threads_never_take_more_than_there_is():
    budget = DecodingBudget(100)
    rng = np.random.default_rng(0)
    seen = []

    def decode(size):
        with budget.claim() as reserve:
            reserve(size)
            seen.append((budget.used, size))
            time.sleep(0.001)

    sizes = rng.integers(1, 140, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, sizes))
    assert len(seen) == 200
    assert all(used <= 100 or used == size for used, size in seen)
    assert budget.used == 0


def test_a_large_image_is_not_overtaken_for_ever():
    budget = DecodingBudget(100)
    order = []
    with budget.claim() as first:
        first(60)
        threads = []
        for name, size in (("large", 500), ("small", 10)):
            waiting = len(threads)

            def decode(name=name, size=size):
                with budget.claim() as reserve:
                    reserve(size)
                    order.append(name)

            threads.append(threading.Thread(target=decode))
            threads[-1].start()
            wait_until(lambda waiting=waiting: len(budget._waiting) == waiting + 1)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["large", "small"]


def test_of_several_calls_the_largest_counts():
    budget = DecodingBudget(100)
    with budget.claim() as reserve:
        for size, used in ((20, 20), (10, 20), (70, 70), (300, 300)):
            reserve(size)
            assert budget.used == used
    assert budget.used == 0
    with pytest.raises(ValueError, match="damaged"), budget.claim() as reserve:
        reserve(50)
        raise ValueError("damaged")
    assert budget.used == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_budget_of_its_own():
    """The threads that hold the budget of the parent are not in the child."""
    budget = DecodingBudget(100)
    with budget.claim() as reserve:
        reserve(100)
        child = os.fork()
        if not child:
            with budget.claim() as own:
                own(90)
            os._exit(0 if budget.used == 0 else 1)
        deadline = time.monotonic() + 60
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        if done[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert done == (child, 0)


@pytest.mark.parametrize("cores, capacity", [(1, 1 << 30), (2, 1 << 30), (64, 4 << 30)])
def test_the_budget_follows_the_cores_that_may_be_used(monkeypatch, cores, capacity):
    """In a container with one core of 64 there is one thread, and memory for one."""
    monkeypatch.setattr(decoding_budget, "usable_cores", lambda: cores)
    assert DecodingBudget().capacity == capacity


FIRST_IMAGES = """
import sys, time
from hyperpq.images import decoding_budget

made = []
init = decoding_budget.DecodingBudget.__init__

def slow(self):
    made.append(self)
    time.sleep(0.1)
    init(self)

decoding_budget.DecodingBudget.__init__ = slow
from image_tools import Grid
from hyperpq.images.extract import ReadOptions, extract_features

assert len(extract_features([sys.argv[1].encode()] * 8, Grid(), ReadOptions(4)).rows) == 8
print(len(made))
"""


def test_the_first_images_share_one_budget(tmp_path):
    """Threads that needed the budget first at the same time had one each."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    run = subprocess.run(
        [sys.executable, "-c", FIRST_IMAGES, str(tmp_path / "a.png")],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) == 1


PEAK = """
import resource, sys
import numpy as np
from hyperpq.backbones.base import Backbone
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.images import decoders, extract
from hyperpq.images.decoding_budget import DecodingBudget
import hyperpq.datasets.augment, hyperpq.datasets.decode

class Means(Backbone):
    def __init__(self):
        super().__init__("means", 3, Preprocessing(224), "0" * 32, "cpu", mean=None, std=None)
    def _features(self, pixels):
        return pixels.mean((1, 2), dtype=np.float64).astype(np.float32)

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20

budget = DecodingBudget(int(sys.argv[2]) << 20)
decoders.BUDGET = budget
before = peak()
out = extract.extract_features([sys.argv[1].encode()] * 4, Means(), extract.ReadOptions(4))
assert len(out.rows) == 4, out.skipped
print(peak() - before)
"""


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "P", "RGB"])
def test_memory_of_large_images(tmp_path, mode):
    """Four threads that decode 36 megapixels each: one image is in memory, and only once."""
    path = tmp_path / "large.png"
    if mode == "RGBA":
        image = Image.new(mode, (6000, 6000), (200, 30, 20, 128))
    elif mode == "P":
        image = Image.new(mode, (6000, 6000))
        image.putpalette(bytes(range(256)) * 3)
        image.info["transparency"] = bytes(range(256))
    else:
        image = Image.new(mode, (6000, 6000))
    image.save(path, compress_level=1)
    decoded = {"RGBA": 4, "I;16": 2, "P": 1, "RGB": 4}[mode] * 36_000_000 >> 20
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), "10"], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < decoded + 60
