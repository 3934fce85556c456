"""Time and memory of an index on disk.

    python -m benchmarks.store --work DIR [--rows 10000000]

What does each operation on an index of ten million rows cost? Opening, the first query, filters,
lookups, adding, removing, `refresh`, `verify` and `compact` are measured, each in a process of its
own: time, processor time, memory and bytes written. The page ``store.md`` has a table for each kind
of operation. ``DIR`` is created for the indexes and removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import describe_machine
from benchmarks.pages import listed, markdown_table, origin, write_page
from benchmarks.process import own_memory
from benchmarks.provenance import current_commit
from benchmarks.published import COMMITS, at_commit
from benchmarks.runlog import RunLog
from benchmarks.store_steps import APPENDED_ROWS, ROOT

RUNS, FIELDS = Path("runs/store.jsonl"), ("rows", "section", "step")
_TITLES = ["step", "time", "processor", "resident", "own", "written", ""]
# What the start of the page tells, and the steps whose times it gives.
_TOLD = {
    "loading it takes": "`HiHPQIndex.load`: both",
    "one query takes": "any later one",
    "a query of the 1 % of rows that match a filter takes": "where 1 % match: `number < 10_000`",
    "one vector is added durably in": "`add` 1 to {rows:,}",
    "one is removed in": "`remove_ids` 1",
    "verifying all of it takes": "`verify`",
}

# Seconds between two readings of the memory of a process.
INTERVAL = 0.002


class Step(NamedTuple):
    """An operation that is measured.

    Attributes
    ----------
    title : str
        Description on the page.
    name : str
        Key of `store_steps.STEPS`.
    folder : str
        Folder of the index inside the working folder.
    rows : int
        Number of rows that the index was filled with.
    processes : int
        Number of processes that measure it, one after another.
    """

    title: str
    name: str
    folder: str
    rows: int
    processes: int = 1


def plan(rows: int) -> dict[str, list[Step]]:
    """All steps in order, by section of the page."""
    hundredth = f"{rows // 100:,}"
    small = {"small": max(rows // 1000, 100), "tenth": rows // 10}

    def thousand(rows: int) -> str:
        return f"{min(1000, rows // 100):,}"

    def on_whole(*steps: tuple[str, str] | tuple[str, str, int]) -> list[Step]:
        return [Step(step[0], step[1], "whole", rows, *step[2:]) for step in steps]

    return {
        "Filling": on_whole((f"append coded rows, {min(rows, APPENDED_ROWS):,} at a time", "fill")),
        "Opening": on_whole(
            ("`IndexStore.open`", "open", 3),
            ("the codec", "codec", 3),
            ("`HiHPQIndex.load`: both", "load", 3),
        ),
        "One query, k = 10, one thread": on_whole(
            ("the first after opening, shards not in the page cache", "first query from disk", 3),
            ("the first after opening", "first query"),
            ("any later one", "search"),
            ("the first after opening, where 1 % match", "first query where"),
            ("where all rows match: `number >= 0`", "where all"),
            ("where half of the rows match: `number < 500_000`", "where half"),
            ("where 1 % match: `number < 10_000`", "where hundredth"),
            ("where 10⁻⁶ match: `number == 7`", "where millionth"),
            ("where 1 % match: `share < 0.01`", "where float"),
            ("where 1.6 % match: `taken >= '2024-04-01'`", "where time"),
            ("where .1 % match: `folder == 'label-0007'`", "where label"),
            (f"`IDSelectorRange` of {hundredth} ids", "range"),
            (f"`IDSelectorBatch` of {hundredth} ids", "batch"),
        ),
        "Looking up": on_whole(
            ("`reconstruct` 1", "reconstruct"),
            (f"`reconstruct_batch` {thousand(rows)}", "reconstruct 1000"),
            ("`attributes_of` 1", "attributes"),
            (f"`attributes_of` {thousand(rows)}", "attributes 1000"),
        ),
        "Adding with given ids": [
            step
            for folder, n in small.items()
            for step in (
                Step(f"(fill an index of {n:,})", "fill", folder, n),
                Step(f"`add` 1 to {n:,}", "add", folder, n),
            )
        ]
        + on_whole(
            (f"`add` 1 to {rows:,}", "add"),
            (f"`encode` {hundredth} vectors", "encode many"),
            (f"`add` {hundredth}, encoding included", "add many"),
            ("`add` 1, many calls in a row, durability `full`", "add in a row"),
            ("`add` 1, many calls in a row, durability `fast`", "add in a row fast"),
        ),
        "Removing": on_whole(
            ("`remove_ids` 1", "remove"),
            (f"`remove_ids` {hundredth} by ids", "remove many"),
            ("`remove_ids` where 1 % match", "remove where"),
            ("`IndexStore.open` afterwards", "open"),
            ("the first query after opening afterwards", "first query"),
            ("any later query afterwards", "search"),
            ("a query where 1 % match afterwards", "where float"),
            ("`add` 1 afterwards", "add"),
        ),
        "Maintenance": on_whole(
            ("`refresh` after another process added", "refresh"),
            ("`verify`", "verify"),
            ("`compact`", "compact"),
            ("`verify` afterwards", "verify"),
        ),
        f"{rows // 10:,} rows with paths": [
            Step(title, name, "paths", rows // 10)
            for title, name in (
                ("append coded rows", "fill with paths"),
                ("`IndexStore.open`", "open"),
                ("a query where .1 % match: `startswith(path, ...)`", "where path"),
                (f"`attributes_of` {thousand(rows // 10)}", "attributes 1000"),
                ("`remove_ids` where 1 % match", "remove where"),
                ("`verify`", "verify"),
                ("`compact`", "compact"),
            )
        ],
    }


class _PeakOfOwnMemory(threading.Thread):
    """Follows `own_memory` of another process and keeps its largest value."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._largest = 0
        self._pid, self._ended = pid, threading.Event()

    def run(self) -> None:
        """Read the memory until `stop`."""
        while not self._ended.wait(INTERVAL):
            self._largest = max(self._largest, own_memory(self._pid))

    def stop(self) -> int:
        """Stop, and return the largest value in bytes."""
        self._ended.set()
        self.join()
        return self._largest


def measure(step: Step, work: Path) -> dict[str, Any]:
    """Run a step in processes of its own.

    Returns
    -------
    dict
        What `store_steps.run_step` returns, over all processes, and ``own``: the growth of
        `own_memory` after the preparations.
    """
    folder = (work / step.folder).resolve()
    command = [sys.executable, "-m", "benchmarks.store_steps", step.name, str(folder)]
    command.append(str(step.rows))
    found: dict[str, Any] = {"seconds": [], "cpu": [], "own": 0, "peak": 0}
    for _ in range(step.processes):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdout is not None
        ready = child.stdout.readline()
        peak = _PeakOfOwnMemory(child.pid)
        peak.start()
        rest = child.stdout.read()
        largest = peak.stop()
        if child.wait() or not rest:
            raise SystemExit(f"{step.name}: the process failed; its error is shown above.")
        result = json.loads(rest)
        found["seconds"] += result["seconds"]
        found["cpu"] += result["cpu"]
        found["own"] = max(found["own"], largest - json.loads(ready)["own"])
        found["peak"] = max(found["peak"], result["peak"])
        found |= {"written": result["written"], "remark": result["remark"]}
    return found


def table_line(step: Step, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    times = found["seconds"]
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    spread = f" ±{50 * (high - low) / middle:.0f} %" if len(times) > 2 else ""
    runs = f" of {len(times)}" if len(times) > 1 else ""
    memory = [_megabytes(found[name]) for name in ("peak", "own", "written")]
    cpu = _seconds(statistics.median(found["cpu"]))
    return [step.title, _seconds(middle) + spread + runs, cpu, *memory, found["remark"] or ""]


def _seconds(value: float) -> str:
    """A time with its unit."""
    return f"{value:,.1f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _megabytes(value: int) -> str:
    """Bytes as a number of megabytes."""
    return f"{value / 1e6:,.1f}" if abs(value) >= 1e6 else f"{value / 1e6:.2g}"


def write_store_page(out: Path, rows: int) -> Path:
    """Write ``store.md`` from the published runs with so many rows; returns its path."""
    runs = [r for r in RunLog(out / RUNS, FIELDS).runs.values() if r["rows"] == rows]
    sections: dict[str, list[list[str]]] = {}
    for run in runs:
        sections.setdefault(run["section"], [_TITLES]).append([run["step"], *run["cells"]])
    # The first step of that name is the one on the whole index.
    times: dict[str, str] = {}
    for run in runs:
        times.setdefault(run["step"], run["cells"][0].partition(" ±")[0].partition(" of ")[0])
    told = [
        f"{words} {times[step]}"
        for words, name in _TOLD.items()
        if (step := name.format(rows=rows)) in times
    ]
    found = (
        f"In an index of {rows:,} rows with codes of 8 bytes, {listed(told)}. Beside each "
        "time the tables give the processor time, which other work on the machine changes less."
    )
    first = runs[0]
    commit = at_commit([first.get(field) for field in COMMITS])
    made = [*_made(), f"Measured on {first['machine']}{commit}, with {first['load']}."]
    tables = {title: markdown_table(lines) for title, lines in sections.items()}
    return write_page(out / "store.md", f"The store at {rows:,} rows", found, tables, made)


def _made() -> list[str]:
    """How the page is made, and how its columns are to be read."""
    return [
        f"{origin('store', 'the-store')} "
        "Codes have 8 bytes and come from random codebooks (64 dimensions). Ids are "
        "int64, in random order and with gaps, so that the ids of every shard span nearly the "
        "whole range. Attributes are an int32, a float32, a time and a category of 1,000 labels. "
        "Each step ran in a process of its own, in the order of the tables, on an index in the "
        "page cache unless the table says otherwise. The column *time* has the median ± half the "
        "interquartile range of that many calls. The column *processor* has the processor time, "
        "which is the better measure where other work shares the machine.",
        "The column *resident* says how far the peak of resident memory rose above its value "
        "before the call, as the kernel counts it; it includes pages of mapped shards, which the "
        "system takes back when it needs them. The column *own* says how far memory that belongs "
        f"to no file rose after the preparations, read every {1e3 * INTERVAL:.0f} ms during all "
        "calls. The column *written* has the bytes written by a call. All are in MB.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder for the indexes; it must not exist, and is removed at the end",
    )
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of the index (default 10,000,000)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs/results"),
        help="folder of the page (default docs/results)",
    )
    args = parser.parse_args(argv)
    if args.rows < 2000:
        raise SystemExit(f"--rows is {args.rows}; expected at least 2,000.")
    others = {run["rows"] for run in RunLog(args.out / RUNS, FIELDS).runs.values()} - {args.rows}
    if others:
        raise SystemExit(
            f"{args.out / 'store.md'} is of {others.pop():,} rows; give that number with --rows, "
            "or the folder of another page with --out."
        )
    args.work.mkdir(parents=True)
    runs = []
    try:
        for title, steps in plan(args.rows).items():
            for step in steps:
                name, *cells = table_line(step, measure(step, args.work))
                runs.append({"rows": args.rows, "section": title, "step": name, "cells": cells})
                print(" | ".join([name, *cells]), flush=True)
    finally:
        shutil.rmtree(args.work)
    load = f"{os.getloadavg()[2]:.1f} processes running or waiting (mean of the last 15 minutes)"
    origin_ = {"machine": describe_machine(), "load": load, "commit": current_commit()}
    RunLog(args.out / RUNS, FIELDS).update(run | origin_ for run in runs)
    print(write_store_page(args.out, args.rows))


if __name__ == "__main__":
    main()
