"""Time and memory of a whole build.

    python -m benchmarks.build --images DIR [--queries 500] [-- OPTIONS OF hyperpq build]

How long does a build take as its user runs it, and how good is a search in its index? `hyperpq
build` runs on the images and prints the time of each phase. Then this script prints the time and
the peak memory of the whole build, the speed of the bare network in the same run, and precision@10
of queries. The images of one folder count as one class. Queries are images of the index; the query
image itself is not among the results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from hyperpq.backbones import BATCH_SIZE, load_backbone
from hyperpq.datasets.folder import list_images

HYPERPQ = [sys.executable, "-m", "hyperpq"]


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


def build(images: Path, index: Path, options: Sequence[str]) -> tuple[float, float]:
    """Build an index; returns the seconds and the peak memory in MB."""
    start = time.perf_counter()
    command = [*HYPERPQ, "build", "--images", str(images), "--index", str(index), *options]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def query(images: Path, index: Path, count: int) -> tuple[int, float, float]:
    """Search random images of the index; returns their number, the seconds and precision@10."""
    paths = [file.path for file in list_images([images])]
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(paths), min(count, len(paths)), replace=False)
    names = b"".join(paths[i] + b"\n" for i in sorted(chosen))
    options = ["query", "-", "-k", "10", "--exclude-self", "--format", "ndjson"]
    start = time.perf_counter()
    output = subprocess.run(
        [*HYPERPQ, *options, "--index", str(index)],
        input=names,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    seconds = time.perf_counter() - start
    answers = [json.loads(line) for line in output.splitlines()]
    same_folder = [
        os.path.dirname(result["path"]) == os.path.dirname(answer["query"])
        for answer in answers
        for result in answer["results"]
    ]
    return len(answers), seconds, float(np.mean(same_folder))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--queries", type=int, default=500, help="number of query images (default 500)"
    )
    parser.add_argument("--backbone", default="lite0", help="network (default lite0)")
    args = parser.parse_args(given[:split])
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        seconds, memory = build(args.images, index, given[split + 1 :])
        print(f"whole build {seconds:.0f} s, peak memory {memory:.0f} MB")
        n, seconds, precision = query(args.images, index, args.queries)
        print(f"network alone, same run: {network_rate(args.backbone):.0f} images/s")
        print(f"{n} queries in {seconds:.1f} s, precision@10 by folder {precision:.3f}")


if __name__ == "__main__":
    main()
