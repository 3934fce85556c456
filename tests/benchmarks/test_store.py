"""`benchmarks.store` on a few thousand rows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import store as bench
from benchmarks import store_steps
from benchmarks.process import own_memory
from hyperpq import HiHPQIndex

ROWS = 2000


def in_this_process(step, work):
    """Like `store.measure`, but without starting a process, which takes seconds."""
    own = []
    found = store_steps.run_step(step.name, work / step.folder, step.rows, own.append)
    return found | {"own": own_memory() - own[0]}


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", in_this_process)
    work, out = tmp_path / "work", tmp_path / "out"
    bench.main(["--work", str(work), "--rows", str(ROWS), "--out", str(out)])
    assert not work.exists()
    page = (out / "store.md").read_text()
    steps = [step for steps in bench.plan(ROWS).values() for step in steps]
    for step in steps:
        assert f"| {step.title} | " in page
    assert len(re.findall(r"^\| .* m?s.* \|$", page, re.M)) == len(steps)
    assert re.search(
        r"calls in a row, durability `fast` .*200 calls; \d+ shards before, \d+ after", page
    )
    assert re.search(r"`compact` .* \d,\d+ rows; \d+ shards before, 1 after", page)
    assert capsys.readouterr().out.endswith("store.md\n")
    start = (
        r"# The store at 2,000 rows\n\nIn an index of 2,000 rows .* loading it takes [\d.]+ m?s,"
    )
    assert re.match(start, page)
    assert page.rstrip().endswith("(mean of the last 15 minutes).")
    with pytest.raises(SystemExit, match=r"store\.md is of 2,000 rows; give that number"):
        bench.main(["--work", str(work), "--rows", "3000", "--out", str(out)])
    assert not work.exists() and (out / "store.md").read_text() == page


def test_a_step_in_a_process_of_its_own(tmp_path):
    step = bench.Step("filling", "fill with paths", "index", ROWS, 1)
    found = bench.measure(step, tmp_path)
    assert len(found["seconds"]) == 1
    assert ROWS * 36 < found["written"] < ROWS * 100
    index = HiHPQIndex.load(tmp_path / "index", device="cpu")
    assert index.ntotal == ROWS
    np.testing.assert_array_equal(index.ids, 7 * np.arange(ROWS) + 3)


def test_memory_of_a_step_is_its_own():
    """The step runs in a process of its own, since the memory of other tests may shrink."""
    if not own_memory():
        pytest.skip("only Linux tells the memory of a process")
    taken = 50_000_000
    script = f"""
import numpy as np
from benchmarks import store_steps

def steps(path, rows):
    prepared = np.ones(2 * {taken}, np.uint8)
    for _ in range(2):
        yield lambda: np.ones({taken}, np.uint8).sum() + len(prepared)

store_steps.STEPS["take"] = steps
print(store_steps.run_step("take", None, 1, lambda own: None)["peak"])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    # The kernel updates the counts of a thread only every few pages.
    assert 0.95 * taken < int(done.stdout) < 1.5 * taken


def test_a_step_that_fails_ends_the_benchmark(tmp_path):
    with pytest.raises(SystemExit, match="search: the process failed"):
        bench.measure(bench.Step("", "search", "nowhere", ROWS), tmp_path)
