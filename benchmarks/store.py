"""The store at a size: time and memory of every step, each in a process of its own."""

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
from benchmarks.results import markdown
from benchmarks.store_steps import PIECE, own_memory

_ROOT = Path(__file__).parents[1]
_EVERY = 0.002  # seconds between two looks at a process


class Step(NamedTuple):
    """A step on an index of the working folder: `name` in `STEPS`, `title` on the page."""

    title: str
    name: str
    folder: str
    rows: int
    processes: int = 1


def plan(rows: int) -> dict[str, list[Step]]:
    """All steps in their order, by sections of the page."""
    whole, few = "whole", f"{rows // 100:,}"
    small = {"small": max(rows // 1000, 100), "tenth": rows // 10}

    def some(rows: int) -> str:
        return f"{min(1000, rows // 100):,}"

    def of_whole(*steps: tuple[str, str] | tuple[str, str, int]) -> list[Step]:
        return [Step(step[0], step[1], whole, rows, *step[2:]) for step in steps]

    paths = "paths", rows // 10
    return {
        "Filling": of_whole((f"append coded rows, {min(rows, PIECE):,} at a time", "fill")),
        "Opening": of_whole(
            ("`IndexStore.open`", "open", 3),
            ("the codec", "codec", 3),
            ("`HiHPQIndex.load`: both", "load", 3),
        ),
        "One query, k = 10, one thread": of_whole(
            ("the first after opening, shards not in the page cache", "first query from disk", 3),
            ("the first after opening", "first query"),
            ("any later one", "search"),
            ("the first after opening, where 1 %", "first query where"),
            ("where all: `number >= 0`", "where all"),
            ("where half: `number < 500_000`", "where half"),
            ("where 1 %: `number < 10_000`", "where hundredth"),
            ("where 10⁻⁶: `number == 7`", "where millionth"),
            ("where 1 %: `share < 0.01`", "where float"),
            ("where: `taken >= '2024-04-01'`, 1.6 %", "where time"),
            ("where .1 %: `folder == 'label-0007'`", "where label"),
            (f"`IDSelectorRange` of {few} ids", "range"),
            (f"`IDSelectorBatch` of {few} ids", "batch"),
        ),
        "Looking up": of_whole(
            ("`reconstruct` 1", "reconstruct"),
            (f"`reconstruct_batch` {some(rows)}", "reconstruct 1000"),
            ("`attributes_of` 1", "attributes"),
            (f"`attributes_of` {some(rows)}", "attributes 1000"),
        ),
        "Adding, with ids of one's own": [
            step
            for folder, n in small.items()
            for step in (
                Step(f"(filling an index of {n:,})", "fill", folder, n),
                Step(f"`add` 1 to {n:,}", "add", folder, n),
            )
        ]
        + of_whole(
            (f"`add` 1 to {rows:,}", "add"),
            (f"`encode` {few} vectors", "encode many"),
            (f"`add` {few}, encoding included", "add many"),
            ("`add` 1 in a row, durability `full`", "add in a row"),
            ("`add` 1 in a row, durability `fast`", "add in a row fast"),
        ),
        "Removing": of_whole(
            ("`remove_ids` 1", "remove"),
            (f"`remove_ids` {few} by ids", "remove many"),
            ("`remove_ids` where 1 %", "remove where"),
            ("`IndexStore.open` then", "open"),
            ("the first query after opening then", "first query"),
            ("any later query then", "search"),
            ("a query where 1 % then", "where float"),
            ("`add` 1 then", "add"),
        ),
        "Upkeep": of_whole(
            ("`refresh` after another process added", "refresh"),
            ("`verify`", "verify"),
            ("`compact`", "compact"),
            ("`verify` after it", "verify"),
        ),
        f"{rows // 10:,} rows with paths": [
            Step(title, name, *paths)
            for title, name in (
                ("append coded rows", "fill with paths"),
                ("`IndexStore.open`", "open"),
                ("a query where `startswith(path, ...)`, .1 %", "where path"),
                (f"`attributes_of` {some(rows // 10)}", "attributes 1000"),
                ("`remove_ids` where 1 %", "remove where"),
                ("`verify`", "verify"),
                ("`compact`", "compact"),
            )
        ],
    }


class _Watch(threading.Thread):
    """The largest `own_memory` of a process, looked at again and again."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._pid, self._over = pid, threading.Event()

    def run(self) -> None:
        while not self._over.wait(_EVERY):
            self.most = max(self.most, own_memory(self._pid))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.most


def measure(step: Step, work: Path) -> dict[str, Any]:
    """What `store_steps.run_step` found in processes of its own, and ``own``: growth of memory."""
    command = [sys.executable, "-m", "benchmarks.store_steps", step.name]
    command += [str(work / step.folder), str(step.rows)]
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found: dict[str, Any] = {"seconds": [], "cpu": [], "own": 0, "peak": 0}
    for _ in range(step.processes):
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        assert child.stdout is not None
        ready = child.stdout.readline()
        watch = _Watch(child.pid)
        watch.start()
        rest = child.stdout.read()
        most = watch.stop()
        if child.wait() or not rest:
            raise SystemExit(f"{step.name}: the process failed, see above.")
        result = json.loads(rest)
        found["seconds"] += result["seconds"]
        found["cpu"] += result["cpu"]
        found["own"] = max(found["own"], most - json.loads(ready)["own"])
        found["peak"] = max(found["peak"], result["peak"])
        found |= {"written": result["written"], "remark": result["remark"]}
    return found


def line(step: Step, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    times = found["seconds"]
    low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    spread = f" ±{50 * (high - low) / middle:.0f} %" if len(times) > 2 else ""
    runs = f" of {len(times)}" if len(times) > 1 else ""
    memory = [_megabytes(found[name]) for name in ("peak", "own", "written")]
    cpu = _seconds(statistics.median(found["cpu"]))
    return [step.title, _seconds(middle) + spread + runs, cpu, *memory, found["remark"] or ""]


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def _megabytes(value: int) -> str:
    return f"{value / 1e6:,.1f}" if abs(value) >= 1e6 else f"{value / 1e6:.2g}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--work", type=Path, required=True, help="a folder for the indexes, made and removed")
    option("--rows", type=int, default=10_000_000, help="rows of the index (default 10,000,000)")
    option("--out", type=Path, default=Path("docs/results"), help="folder of the page")
    args = parser.parse_args(argv)
    if args.rows < 2000:
        raise SystemExit("--rows: expected at least 2,000.")
    args.work.mkdir(parents=True)
    parts = [
        f"# The store at {args.rows:,} rows",
        "Made by `python -m benchmarks.store`, see [its options](../../benchmarks/README.md#the-"
        "store). Codes of 8 bytes by plain random codebooks (64 dimensions), int64 ids in random "
        "order with gaps, so that the ids of every shard span nearly the whole range; attributes "
        "are an int32, a float32, a time and a category of 1,000 labels. Each step ran in a "
        "process of its own, in this order, on an index that lies in the page cache where nothing "
        "else is said. Times are medians ± half the middle half; processor is what the process "
        "worked of that, and tells more of what a step costs where other work shares the machine.",
        "resident: how far the peak of resident memory rose above what it was before the call, as "
        "the kernel counts it; pages of mapped shards are among it, and the system takes them back "
        "when it needs them. own: how far memory that lies in no file rose above what it was when "
        f"the preparations were over, looked at every {1e3 * _EVERY:.0f} ms over all calls. "
        "written: bytes of a call. All in MB.",
    ]
    try:
        for title, steps in plan(args.rows).items():
            lines = [["step", "time", "processor", "resident", "own", "written", ""]]
            for step in steps:
                lines.append(line(step, measure(step, args.work)))
                print(" | ".join(lines[-1]), flush=True)
            parts += [f"## {title}", markdown(lines)]
    finally:
        shutil.rmtree(args.work)
    load = os.getloadavg()[2]
    parts.append(
        f"Measured on {describe_machine()}, with {load:.1f} processes running or waiting (mean of "
        "the last 15 minutes)."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / "store.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    print(page)


if __name__ == "__main__":
    main()
