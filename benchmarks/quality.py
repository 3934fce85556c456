"""Quality of codes, beside baselines and exact search.

    python -m benchmarks.quality --dataset NAME --data DIR --features CACHE

How good are the results of a search in codes? The recipes of hyperpq, the baselines of
`benchmarks.baselines` and exact search are measured at several code lengths and with several seeds:
mAP, recall of the exact neighbours, and the time of training and encoding.

Each run is appended to ``CACHE/DATASET-BACKBONE/runs.jsonl`` as soon as it is measured, and is not
measured again. At the end, the page ``quality.md`` and its plots are written from the runs of all
data sets in ``CACHE``.

Baselines get features of unit length (``raw``) and power-normalized features, which hyperpq's
recipes use as well (``normalized``); the page shows the better of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines import (
    BASELINES,
    LENGTHS,
    Result,
    Vectors,
    exact,
    lengths,
    power_normalize,
    unit,
)
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.machine import describe_machine
from benchmarks.options import add_dataset_options, code_lengths, count, some_of
from benchmarks.pages import import_pyplot
from benchmarks.quality_page import RUNS, write_page
from benchmarks.runlog import Key, RunLog, restore_published
from hyperpq import scan
from hyperpq.codec.learned import SAMPLE_SIZE, LearnedCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision, recall_at
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.training.presets import PAPER_SETTINGS, PRESETS, get_recipe, paper
from hyperpq.training.recipe import Recipe
from hyperpq.training.task import TrainingRun
from hyperpq.training.train import train_codec


class QualityBench:
    """Measures methods on one data set and writes their runs to the log.

    Parameters
    ----------
    features : FeatureSet
        The data set.
    command : str
        The command as the page shows it.
    out : Path
        Folder of the page, from whose published runs an empty log is restored.
    """

    def __init__(self, features: FeatureSet, command: str, out: Path) -> None:
        self.features = features
        file = features.folder / RUNS
        restore_published(file, out)
        self.log = RunLog(file)
        threads = torch.get_num_threads()
        machine = (
            f"{describe_machine()}, {threads} thread{'s' * (threads > 1)} in torch, "
            f"torch {torch.__version__}, faiss {import_faiss().__version__}"
        )
        self.origin = {"machine": machine, "command": command}
        self.k = min(max(features.protocol.top, 100), len(features.database))
        train, query, database = features.train, features.query, features.database
        self.inputs = {
            "raw": Vectors(unit(train), unit(query), unit(database)),
            "normalized": Vectors(*(power_normalize(x, train) for x in (train, query, database))),
        }
        self.exact_neighbours = exact(query, database, self.k)

    def evaluate(self, found: NDArray[np.int64]) -> dict[str, float]:
        """Quality of the results (nq, k), nearest first."""
        protocol = self.features.protocol
        relevant = protocol.relevant(slice(None), found)
        nearest = self.exact_neighbours
        return {
            "map": mean_average_precision(relevant, protocol.top),
            "map100": mean_average_precision(relevant, 100),
            "map10": mean_average_precision(relevant, 10),
            "recall10": recall_at(found[:, :10], nearest[:, :10]),
            "recall100": recall_at(found[:, :100], nearest[:, :100]),
        }

    def record(self, key: Key, result: Result) -> None:
        """Evaluate the result of a run, write it to the log and print it."""
        run = {
            **key._asdict(),
            **self.evaluate(result.ids),
            "train_seconds": result.train_seconds,
            "encode_seconds": result.encode_seconds,
            "bytes": result.bytes,
            **self.origin,
        }
        self.log.append(run)
        name = f"{key.method} {key.variant}"
        print(
            f"{name:<26} {key.bits:>3} bits  seed {key.seed}  "
            f"mAP@{self.features.protocol.top} {run['map']:.4f}  "
            f"recall 100@100 {run['recall100']:.4f}  trained {result.train_seconds:.1f} s",
            flush=True,
        )

    def measure_exact(self, key: Key) -> None:
        """Search without codes."""
        _, query, database = self.inputs[key.variant]
        is_raw = key.variant == "raw"
        found = self.exact_neighbours if is_raw else exact(query, database, self.k)
        self.record(key, Result(found, 0.0, 0.0, query.shape[1] * 4))

    def measure_baseline(self, key: Key) -> None:
        """Train, encode and search with a baseline."""
        baseline = BASELINES[key.method]
        self.record(key, baseline(self.inputs[key.variant], key.bits, self.k, key.seed))

    def measure_recipe(self, preset: str, keys: Sequence[Key]) -> None:
        """Train, encode and search with a recipe and one seed at several code lengths."""
        for key, codec, seconds in _train_codecs(self.features, preset, keys):
            start = time.perf_counter()
            codes = codec.encode(self.features.database)
            encoded = time.perf_counter() - start
            found = scan.search(codec.tables(self.features.query), codes, self.k)[1]
            self.record(key, Result(found, seconds, encoded, codec.code_size))


def _recipe(preset: str, bits: int, dataset: str) -> Recipe:
    """A preset; ``paper`` with the settings published for the data set if there are any."""
    if preset == "paper" and dataset in PAPER_SETTINGS:
        return paper(bits, dataset)
    return get_recipe(preset, bits)


def _train_codecs(
    features: FeatureSet, preset: str, keys: Sequence[Key]
) -> Iterator[tuple[Key, LearnedCodec, float]]:
    """Yield a codec for each key, and the seconds that it took.

    A recipe whose representation does not depend on the code length is trained once; the codebooks
    of the other lengths are fitted to it.
    """
    x = features.train
    first: LearnedCodec | None = None
    seconds = 0.0
    for key in keys:
        recipe = _recipe(preset, key.bits, features.dataset)
        start = time.perf_counter()
        if first is None or not recipe.representation.subspaces:
            views = features.views(recipe.views.augmentation)
            start = time.perf_counter()
            trace = features.folder / f"training-{preset}-{key.bits}-{key.seed}.jsonl"
            first = train_codec(
                x,
                views,
                view_rows=features.view_rows,
                M=key.bits // 8,
                recipe=recipe,
                seed=key.seed,
                run=TrainingRun(trace_path=trace),
            )
            seconds = time.perf_counter() - start
            yield key, first, seconds
        else:
            # The codec holds a sample of at most SAMPLE_SIZE features. `train_codec` fits
            # codebooks to all features, so they are given if the sample does not hold them all.
            everything = x if len(x) > SAMPLE_SIZE else None
            other = first.with_bits(key.bits, x=everything, seed=key.seed)
            yield key, other, seconds + time.perf_counter() - start


def requested_runs(args: argparse.Namespace, inputs: Sequence[str]) -> list[Key]:
    """All runs that the command asks for: exact search, then seed by seed."""
    keys = [Key("exact", variant, 0, 0) for variant in inputs]
    for seed in range(args.seeds):
        keys += [Key("hyperpq", recipe, b, seed) for recipe in args.recipes for b in args.bits]
        keys += [
            Key(name, variant, b, seed)
            for name in args.baselines
            for variant in inputs
            for b in args.bits
            if b in lengths(name)
        ]
    return keys


def run(bench: QualityBench, args: argparse.Namespace) -> None:
    """Measure the requested runs that the log does not hold yet, seed by seed."""
    requested = requested_runs(args, list(bench.inputs))
    if args.fresh:
        bench.log.remove(requested)
    missing = [key for key in requested if key not in bench.log]
    for key in missing:
        if key.method == "exact":
            bench.measure_exact(key)
    for seed in range(args.seeds):
        for recipe in args.recipes:
            keys = [k for k in missing if k[:2] == ("hyperpq", recipe) and k.seed == seed]
            bench.measure_recipe(recipe, keys)
        for key in missing:
            if key.method in BASELINES and key.seed == seed:
                bench.measure_baseline(key)


def shown_command(args: argparse.Namespace) -> str:
    """The command as the page shows it, without the paths of this machine."""
    kind, _, path = args.dataset.partition(":")
    dataset = f"{kind}:{Path(path).name}" if path else kind
    words = ["python -m benchmarks.quality --dataset", dataset, "--data DIR --features CACHE"]
    if args.more:
        words += ["--more", str(args.more)]
    if args.backbone != "lite0":
        words += ["--backbone", args.backbone.rpartition("/")[2]]
    bits = ",".join(map(str, args.bits))
    baselines = "all" if args.baselines == list(BASELINES) else ",".join(args.baselines) or "none"
    words += ["--bits", bits, "--seeds", str(args.seeds), "--baselines", baselines]
    return " ".join([*words, "--recipes", ",".join(args.recipes) or "none"])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser)
    parser.add_argument(
        "--more",
        type=int,
        default=0,
        metavar="N",
        help="train recipes and baselines on N further images of the database, without views "
        "(default 0)",
    )
    parser.add_argument(
        "--bits",
        type=code_lengths(LENGTHS),
        default=[16, 32, 64],
        help="code lengths in bits (default 16,32,64)",
    )
    parser.add_argument(
        "--seeds", type=count, default=3, help="number of seeds, counted from 0 (default 3)"
    )
    parser.add_argument(
        "--baselines",
        type=some_of(list(BASELINES)),
        default=list(BASELINES),
        help="all, none or some of them, such as pq,opq (default all)",
    )
    parser.add_argument(
        "--recipes",
        type=some_of(PRESETS),
        default=list(PRESETS),
        help="all, none or some of them, such as default (default all)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="measure the requested runs again if they exist"
    )
    args = parser.parse_args(argv)
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set(args.dataset, args.data, args.features, args.backbone, args.more)
        run(QualityBench(features, shown_command(args), args.out), args)
        print(write_page(args.features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
