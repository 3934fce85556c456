"""Speed of feature extraction, beside the bare network.

    python -m benchmarks.encode --images DIR [-n 1000] [--rounds 5]

How much of the network's own speed does extraction from image files reach? In each round the
network alone on pixels in memory, decoding alone, and the whole pipeline from files to features
take turns. The script prints the images a second of each (the median of the rounds), and the ratio
of the pipeline to the network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.options import count
from hyperpq.backbones import BATCH_SIZE, load_backbone
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.folder import list_images
from hyperpq.datasets.preprocessing import to_pixels
from hyperpq.images.extract import ReadOptions, extract_features
from hyperpq.utils.devices import default_threads

NETWORK, DECODING, PIPELINE = "network alone", "decoding alone", "pipeline"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "-n", type=count, default=1000, help="number of images at most (default 1000)"
    )
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds (default 5)")
    parser.add_argument("--backbone", default="lite0", help="network (default lite0)")
    args = parser.parse_args(argv)
    network = load_backbone(args.backbone)
    paths = [file.path for file in list_images([args.images])][: args.n]
    preprocessing = network.preprocessing
    side = preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, side, side, 3), np.uint8)

    def run_network() -> None:
        for _ in range(0, len(paths), BATCH_SIZE):
            network(pixels)

    def decode(path: bytes) -> None:
        to_pixels(open_image(path, shrink_to=preprocessing.decode_side), preprocessing)

    def decode_all() -> None:
        with ThreadPoolExecutor(default_threads()) as pool:
            list(pool.map(decode, paths))

    methods: dict[str, Callable[[], object]] = {
        NETWORK: run_network,
        DECODING: decode_all,
        PIPELINE: lambda: extract_features(paths, network, ReadOptions()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - start)
    print(describe_machine(), f"{len(paths)} images, {args.rounds} rounds")
    rates = {name: len(paths) / statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        low, high = len(paths) / max(times), len(paths) / min(times)
        print(f"{name:<15} {rates[name]:7.0f} images/s  ({low:.0f} to {high:.0f})")
    print(f"{PIPELINE} / {NETWORK}: {rates[PIPELINE] / rates[NETWORK]:.3f}")


if __name__ == "__main__":
    main()
