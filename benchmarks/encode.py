"""Speed of feature extraction, beside the bare network and bare decoding.

    python -m benchmarks.encode --images DIR [-n 1000] [--rounds 5] [--device auto]
        [--precision float32 int8 ...] [--threads N ...] [--batch N ...]
        [--workers threads processes] [--compile default reduce-overhead] [--simplejpeg]

How much of the network's own speed does extraction from image files reach? In each round the
network alone on pixels in memory, decoding alone, views alone and the whole pipeline from files to
features take turns, in threads and in processes. The script prints the images a second of each (the
median of the rounds, with the smallest and largest), the ratio of the pipeline to the network, and
its ratio to what network and decoding allow together: on the same cores their times add up, and
beside a GPU the slower of the two decides.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.options import count
from hyperpq.backbones import load_backbone
from hyperpq.backbones.base import PRECISIONS
from hyperpq.datasets.augment import MILD
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.folder import list_images
from hyperpq.datasets.preprocessing import to_pixels
from hyperpq.errors import InvalidInputError
from hyperpq.images.decoders import Workers, make_decoder
from hyperpq.images.decoding import Decoding
from hyperpq.images.extract import ReadOptions, extract_features

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone

# Batches that are decoded at a time, as in a build.
_AHEAD = 3
_N_VIEWS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "-n", type=count, default=1000, help="number of images at most (default 1000)"
    )
    parser.add_argument("--rounds", type=count, default=5, help="number of rounds (default 5)")
    parser.add_argument("--backbone", default="lite0", help="network (default lite0)")
    parser.add_argument("--device", default="auto", help="device of the network (default auto)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument(
        "--threads", nargs="+", type=count, default=[None], help="of the network, on a CPU"
    )
    parser.add_argument("--batch", nargs="+", type=count, help="batches of the network alone")
    parser.add_argument("--workers", nargs="+", default=["threads", "processes"])
    parser.add_argument(
        "--compile",
        nargs="+",
        choices=["default", "reduce-overhead"],
        default=[],
        help="modes of torch.compile for a network that PyTorch runs; the second has CUDA graphs",
    )
    parser.add_argument("--no-network", action="store_true", help="decoding alone")
    parser.add_argument(
        "--simplejpeg", action="store_true", help="JPEG files by simplejpeg, too (pip install it)"
    )
    args = parser.parse_args(argv)
    paths = [file.path for file in list_images([args.images])][: args.n]
    networks = {
        _title(precision, threads): load_backbone(
            args.backbone, device=args.device, precision=precision, threads=threads
        )
        for threads in args.threads
        for precision in args.precision
    }
    for precision in args.precision:
        for mode in args.compile:
            compiled = load_backbone(args.backbone, device=args.device, precision=precision)
            networks[f"{precision}, compiled ({mode})"] = _compile(compiled, mode)
    methods: dict[str, Callable[[], object]] = {}
    if not args.no_network:
        for title, network in networks.items():
            for batch in args.batch or [network.batch_size]:
                methods[f"network alone, {title}, batches of {batch}"] = _network(
                    network, batch, len(paths)
                )
    first = next(iter(networks.values()))
    for workers in args.workers:
        methods[f"decoding alone, {workers}"] = _decoding(paths, first, workers)
        # A device leaves views of files to threads or processes.
        if Workers.of(workers).kind != "device":
            methods[f"decoding and {_N_VIEWS} views, {workers}"] = _decoding(
                paths, first, workers, _N_VIEWS
            )
    if args.simplejpeg:
        methods |= _decoders(paths, first)
    if not args.no_network:
        for title, network in networks.items():
            for workers in args.workers:
                methods[f"pipeline, {title}, {workers}"] = _pipeline(paths, network, workers)
    rates = measure(methods, len(paths), args.rounds)
    print(describe_machine(), f"{len(paths)} images, {args.rounds} rounds, {first.device}")
    for name, (middle, low, high) in rates.items():
        print(f"{name:<55} {middle:7.0f} images/s  ({low:.0f} to {high:.0f})")
    for title, network in networks.items():
        alone = f"network alone, {title}, batches of {network.batch_size}"
        for workers in args.workers:
            name, decoding = f"pipeline, {title}, {workers}", f"decoding alone, {workers}"
            if alone in rates and name in rates:
                print(f"{name} / {alone}: {rates[name][0] / rates[alone][0]:.3f}")
                most = allowed(rates[alone][0], rates[decoding][0], network.device)
                print(f"{name} / both together: {rates[name][0] / most:.3f}")
    usual, *others = args.precision
    for name, (middle, _, _) in rates.items():
        for other in others:
            if f", {other}, " in name:
                before = rates[name.replace(f", {other}, ", f", {usual}, ")][0]
                print(f"{name} / {usual}: {middle / before:.2f}")


def _compile(network: Backbone, mode: str) -> Backbone:
    """The network, compiled for batches of its own size, which takes up to some minutes."""
    from hyperpq.backbones.torch_modules import TorchBackbone

    if not isinstance(network, TorchBackbone):
        raise InvalidInputError(
            f"compile is given, but {network!r} is not run by PyTorch; expected a network of timm "
            "or OpenCLIP, or a GPU."
        )
    network.module.compile(mode=mode, dynamic=False)
    side = network.preprocessing.size
    network(np.zeros((network.batch_size, side, side, 3), np.uint8))
    return network


def allowed(network: float, decoding: float, device: str) -> float:
    """Most images a second of both together, whose rates are those on all cores or on the GPU."""
    return 1 / (1 / network + 1 / decoding) if device == "cpu" else min(network, decoding)


def _title(precision: str, threads: int | None) -> str:
    return precision if threads is None else f"{precision}, {threads} threads"


def measure(
    methods: dict[str, Callable[[], object]], n: int, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Median, least and largest rate of methods that each handle n images, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: (n / statistics.median(times), n / max(times), n / min(times))
        for name, times in seconds.items()
    }


def _network(network: Backbone, batch: int, n: int) -> Callable[[], object]:
    """The network on pixels in memory, in batches of another size than its own."""
    side = network.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    whole = np.broadcast_to(pixels, (-(-n // batch), *pixels.shape))

    def run() -> None:
        usual, network.batch_size = network.batch_size, batch
        try:
            waiting = []
            for part in whole:
                waiting.append(network.begin(part))
                if len(waiting) > network.batches_in_flight:
                    waiting.pop(0).features()
            for pending in waiting:
                pending.features()
        finally:
            network.batch_size = usual

    return run


def _decoding(
    paths: Sequence[bytes], network: Backbone, workers: str, n_views: int = 0
) -> Callable[[], object]:
    """The decoder of a build, without a network."""
    decoding = Decoding(network.preprocessing, 200.0, MILD if n_views else None, n_views)
    size = max(32, network.batch_size // decoding.passes)

    def run() -> None:
        decoder = make_decoder(
            Workers.of(workers),
            decoding,
            batch_size=size,
            ahead=_AHEAD,
            n_files=len(paths),
            device=network.device,
        )
        try:
            waiting = []
            for start in range(0, len(paths), size):
                waiting.append(decoder.submit(paths[start : start + size]))
                if len(waiting) > _AHEAD:
                    batch = waiting.pop(0)
                    batch.result()
                    batch.release()
            for batch in waiting:
                batch.result()
        finally:
            decoder.close()

    return run


def _pipeline(paths: Sequence[bytes], network: Backbone, workers: str) -> Callable[[], object]:
    return lambda: extract_features(list(paths), network, ReadOptions(workers))


def _decoders(paths: Sequence[bytes], network: Backbone) -> dict[str, Callable[[], object]]:
    """Each JPEG file by Pillow and by simplejpeg, one after the other in one thread."""
    from PIL import Image

    simplejpeg = importlib.import_module("simplejpeg")

    preprocessing = network.preprocessing
    side = preprocessing.decode_side

    def pillow() -> None:
        for path in paths:
            to_pixels(open_image(path, shrink_to=side), preprocessing)

    def simple() -> None:
        for path in paths:
            with open(path, "rb") as file:
                data = file.read()
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            # As Pillow's draft mode chooses its scale: no side becomes shorter than asked for.
            smaller = {"min_height": side, "min_width": side} if min(height, width) > side else {}
            array = simplejpeg.decode_jpeg(data, "RGB", **smaller)
            to_pixels(Image.fromarray(array), preprocessing)

    return {"files in one thread, Pillow": pillow, "files in one thread, simplejpeg": simple}


if __name__ == "__main__":
    main()
