"""A whole build as its user runs it, then queries: time a phase, peak memory, precision@10.

    python -m benchmarks.build --images DIR [--queries 500] [-- OPTIONS OF hyperpq build]

Images of one folder count as one class. Queries are images of the index, themselves left out.
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
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from hyperpq.backbones import BATCH_SIZE, load_backbone
from hyperpq.images.listing import list_images


def network_rate(name: str, batches: int = 30) -> float:
    """Images a second of the bare network on pixels in memory; the median batch."""
    network = load_backbone(name)
    side = network.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, side, side, 3), np.uint8)
    spent = []
    for _ in range(batches + 2):
        start = time.perf_counter()
        network(pixels)
        spent.append(time.perf_counter() - start)
    return BATCH_SIZE / statistics.median(spent[2:])


def main() -> None:
    own, _, passed = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--backbone", default="lite0")
    args = parser.parse_args(own.split())
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        command = [sys.executable, "-m", "hyperpq"]
        start = time.perf_counter()
        subprocess.run(
            [
                *command,
                "build",
                "--images",
                str(args.images),
                "--index",
                str(index),
                *passed.split(),
            ],
            check=True,
        )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"whole build {time.perf_counter() - start:.0f} s, peak memory {peak:.0f} MB")
        paths = [file.path for file in list_images([args.images])[0]]
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(paths), min(args.queries, len(paths)), replace=False)
        names = b"".join(paths[i] + b"\n" for i in sorted(chosen))
        start = time.perf_counter()
        query = ["query", "-", "-k", "10", "--exclude-self", "--format", "ndjson"]
        output = subprocess.run(
            [*command, *query, "--index", str(index)],
            input=names,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        spent = time.perf_counter() - start
        print(f"network alone, same run: {network_rate(args.backbone):.0f} images/s")
        answers = [json.loads(line) for line in output.splitlines()]
        hits = [
            os.path.dirname(result["path"]) == os.path.dirname(answer["query"])
            for answer in answers
            for result in answer["results"]
        ]
        print(
            f"{len(answers)} queries in {spent:.1f} s, precision@10 by folder {np.mean(hits):.3f}"
        )


if __name__ == "__main__":
    main()
