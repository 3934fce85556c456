"""Speed of encoding images: the product's pipeline beside the bare network.

    python -m benchmarks.encode --images DIR [-n 2000] [--rounds 5]

In each round, in turn: the network alone on pixels in memory, decoding alone, and the pipeline from
files to features. The ratio of the medians says how much of the network's own rate is reached.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from hyperpq.backbones import BATCH_SIZE, load_backbone
from hyperpq.datasets.decode import open_image, to_pixels
from hyperpq.images.extract import Reader, extract_features
from hyperpq.images.listing import list_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="lite0")
    args = parser.parse_args()
    network = load_backbone(args.backbone)
    paths = [file.path for file in list_images([args.images])[0]][: args.n]
    prep = network.preprocessing

    def decode(path: bytes) -> None:
        to_pixels(open_image(path, shrink_to=prep.decode_side), prep)

    def decode_all() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(decode, paths))

    shape = (BATCH_SIZE, prep.size, prep.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def bare() -> None:
        for _ in range(0, len(paths), BATCH_SIZE):
            network(pixels)

    runs: dict[str, Callable[[], object]] = {
        "network alone": bare,
        "decoding alone": decode_all,
        "pipeline": lambda: extract_features(paths, network, Reader()),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(describe_machine(), f"{len(paths)} images, {args.rounds} rounds in turn")
    rates = {name: len(paths) / statistics.median(spent) for name, spent in times.items()}
    for name, spent in times.items():
        low, high = len(paths) / max(spent), len(paths) / min(spent)
        print(f"{name:<15} {rates[name]:7.0f} images/s  ({low:.0f} to {high:.0f})")
    print(f"pipeline / network alone: {rates['pipeline'] / rates['network alone']:.3f}")


if __name__ == "__main__":
    main()
