"""Time, memory and quality of whole builds: of this tree, and of another one or of other options.

    python -m benchmarks.build --images DIR [--against CLONE] [--other "OPTIONS"] [--rounds 1]
        [--queries 500] [--log FILE] [-- OPTIONS OF hyperpq build]

How long does a build take as its user runs it, and how good is a search in its index? `hyperpq
build` runs on the images: of this tree; with ``--against`` of the clone of another commit, too; and
with ``--other`` of this tree with other options. In each round all of them take turns. The script
prints the seconds of each phase, the time of the whole build, the CPU time (of all cores together)
and the peak memory. Queries say how good the codes are: mAP@1000 without refinement, precision@10
as `hyperpq query` answers. The images of one folder count as one class. Queries are images of the
index; the query image itself is not among the results.

With ``--log`` each build is a line of JSON in a file, and what the file holds is not built again. A
clone needs its compiled scan: `python setup.py build_ext --inplace` there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.options import count
from benchmarks.pages import markdown_table
from benchmarks.provenance import current_commit
from benchmarks.runlog import Run, RunLog
from hyperpq.backbones import BATCH_SIZE, load_backbone
from hyperpq.datasets.folder import list_images
from hyperpq.evaluation import mean_average_precision, precision_at

HERE = Path(__file__).resolve().parent.parent
# Runs the command line of the tree in its first argument, whatever is installed: cli/ and datasets/
# at the top of a tree are packages of hyperpq.
_COMMAND = """
import sys
tree = sys.argv.pop(1)
sys.path.insert(0, tree)
import hyperpq
hyperpq.__path__.append(tree)
from hyperpq.cli.main import main
main()
"""
# mAP counts so many results.
_DEPTH = 1000
_FIELDS = ("images", "count", "variant", "commit", "options", "queries", "round")


@dataclass(frozen=True)
class Variant:
    """What builds an index: a tree, and options of `hyperpq build`.

    Attributes
    ----------
    name : str
        ``here``, ``against`` or ``other``.
    tree : Path
        Top of the repository.
    options : tuple of str
        Options of the build.
    """

    name: str
    tree: Path
    options: tuple[str, ...]

    def command(self, *arguments: str) -> list[str]:
        """A command line of hyperpq that runs in this tree."""
        return [sys.executable, "-c", _COMMAND, str(self.tree), *arguments]


@dataclass(frozen=True)
class Spent:
    """What a process took: wall and CPU seconds, and peak memory in MB."""

    seconds: float
    cpu: float
    memory: float


def network_rate(name: str, batches: int = 30) -> float:
    """Images a second of the bare network on pixels in memory; the median batch."""
    network = load_backbone(name)
    side = network.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, side, side, 3), np.uint8)
    seconds = []
    for _ in range(batches + 2):
        start = time.perf_counter()
        network(pixels)
        seconds.append(time.perf_counter() - start)
    # The first two batches warm up.
    return BATCH_SIZE / statistics.median(seconds[2:])


def run(command: Sequence[str], given: bytes = b"") -> tuple[str, Spent]:
    """Run a command with something on its standard input; its standard output, and what it took."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(given)
        source.seek(0)
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=source, stdout=target)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{shlex.join(command[4:])} failed with {process.returncode}")
        target.seek(0)
        spent = Spent(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
        return target.read().decode(), spent


def phases(output: str) -> dict[str, float]:
    """Seconds of the phases, from what `hyperpq build` prints at its end."""
    (line,) = re.findall(r"^seconds +(.*)$", output, re.MULTILINE)
    return {name: float(value) for name, value in re.findall(r"([^,]+?) ([\d.]+) s(?:, )?", line)}


def search(variant: Variant, index: Path, names: bytes, k: int, *options: str) -> NDArray[np.bool_]:
    """Whether each of k results of query images, one a line, is in the folder of its query."""
    shape = ["query", "-", "-k", str(k), "--exclude-self", "--format", "ndjson", *options]
    output, _ = run(variant.command(*shape, "--index", str(index)), names)
    answers = [json.loads(line) for line in output.splitlines()]
    relevant = np.zeros((len(answers), k), bool)
    for row, answer in enumerate(answers):
        for rank, result in enumerate(answer["results"]):
            same = os.path.dirname(result["path"]) == os.path.dirname(answer["query"])
            relevant[row, rank] = same
    return relevant


def build(variant: Variant, images: Path, names: bytes, n: int) -> Run:
    """Build an index of n images and search it for the images in ``names``; what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        built = ["build", "--images", str(images), "--index", str(index), *variant.options]
        output, spent = run(variant.command(*built))
        codes = search(variant, index, names, min(_DEPTH, n - 1), "--no-refine")
        answers = search(variant, index, names, min(10, n - 1))
    return {
        "seconds": spent.seconds,
        "cpu": spent.cpu,
        "memory": spent.memory,
        "phases": phases(output),
        "map": mean_average_precision(codes),
        "precision10": precision_at(answers, 10),
        "machine": describe_machine(),
    }


def table(runs: Sequence[Run]) -> str:
    """Medians of the builds of each variant, and the ratios of this tree to the other one."""
    by_name: dict[str, list[Run]] = {}
    for one in runs:
        by_name.setdefault(one["variant"], []).append(one)
    names = list(dict.fromkeys(phase for one in runs for phase in one["phases"]))

    def middle(name: str, field: str) -> float:
        return statistics.median(one[field] for one in by_name[name])

    def phase(name: str, which: str) -> float:
        return statistics.median(one["phases"].get(which, 0.0) for one in by_name[name])

    lines = [["build", *(f"{name}, s" for name in names), "whole, s", "CPU, s", "peak memory, MB"]]
    lines[0] += [f"mAP@{_DEPTH}", "precision@10"]
    for name in by_name:
        lines.append([name, *(f"{phase(name, which):.1f}" for which in names)])
        lines[-1] += [f"{middle(name, field):.0f}" for field in ("seconds", "cpu", "memory")]
        lines[-1] += [f"{middle(name, field):.4f}" for field in ("map", "precision10")]
    text = markdown_table(lines)
    for name in by_name:
        if name != "here" and "here" in by_name:
            ratios = [middle("here", field) / middle(name, field) for field in ("seconds", "cpu")]
            gained = middle("here", "map") - middle(name, "map")
            text += (
                f"\n\nhere / {name}: {ratios[0]:.3f} of the time, {ratios[1]:.3f} of the CPU time, "
                f"mAP@{_DEPTH} {gained:+.4f}"
            )
    return text


def measure(
    variants: Sequence[Variant], images: Path, queries: int, rounds: int, log: RunLog | None
) -> list[Run]:
    """All builds in turn, round by round; those that a log holds are taken from it."""
    paths = [file.path for file in list_images([images])]
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(paths), min(queries, len(paths)), replace=False))
    names = b"".join(paths[i] + b"\n" for i in chosen)
    runs = []
    for number in range(rounds):
        for variant in variants:
            key = {
                "images": images.name,
                "count": len(paths),
                "variant": variant.name,
                "commit": current_commit(variant.tree),
                "options": shlex.join(variant.options),
                "queries": len(chosen),
                "round": number,
            }
            known = log.runs.get(tuple(key.values())) if log is not None else None
            if known is None:
                known = {**key, **build(variant, images, names, len(paths))}
                if log is not None:
                    log.append(known)
            runs.append(known)
            print(f"{variant.name}, round {number}: {known['seconds']:.0f} s", flush=True)
    return runs


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--against", type=Path, metavar="CLONE", help="another tree of hyperpq")
    parser.add_argument(
        "--other", type=shlex.split, metavar="OPTIONS", help="other options, in one argument"
    )
    parser.add_argument("--rounds", type=count, default=1, help="builds of each (default 1)")
    parser.add_argument(
        "--queries", type=count, default=500, help="number of query images (default 500)"
    )
    parser.add_argument("--log", type=Path, help="file of finished builds, to resume from")
    parser.add_argument("--backbone", default="lite0", help="network (default lite0)")
    args = parser.parse_args(given[:split])
    options = tuple(given[split + 1 :])
    if args.backbone != "lite0":
        options = ("--backbone", args.backbone, *options)
    variants = []
    if args.against is not None:
        variants.append(Variant("against", args.against.resolve(), options))
    variants.append(Variant("here", HERE, options))
    if args.other is not None:
        variants.append(Variant("other", HERE, tuple(args.other)))
    log = RunLog(args.log, _FIELDS) if args.log is not None else None
    print(describe_machine(), flush=True)
    print(table(measure(variants, args.images.resolve(), args.queries, args.rounds, log)))
    print(f"network alone, same run: {network_rate(args.backbone):.0f} images/s")


if __name__ == "__main__":
    main()
