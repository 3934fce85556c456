"""Quality of codes, beside baselines and exact search.

    python -m benchmarks.quality --dataset NAME --data DIR --features CACHE

How good are the results of a search in codes? The recipes of hyperpq, the baselines of
`benchmarks.baselines` and `benchmarks.learned_baselines`, and exact search are measured at several
code lengths and with several seeds: mAP and precision of the first results, recall of the exact
neighbours, and the time of training and encoding.

Each run is appended to ``CACHE/DATASET-BACKBONE/runs.jsonl`` as soon as it is measured. It is not
measured again as long as features, protocol, recipe and code are the same (`provenance`). At the
end, the runs are added to those that are published beside the page ``quality.md``, and the page and
its plots are written from all of these. Published runs are only taken up with ``--published``.

Baselines get features of unit length (``raw``) and power-normalized features, which hyperpq's
recipes use as well (``normalized``); the page shows the better of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines import (
    BASELINES,
    FACTORY,
    LENGTHS,
    Floats,
    Result,
    Vectors,
    exact,
    lengths,
    power_normalize,
    unit,
)
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.learned_baselines import LEARNED, LEARNED_LENGTHS, VIEWS
from benchmarks.machine import describe_machine
from benchmarks.options import (
    add_dataset_options,
    add_published_option,
    code_lengths,
    count,
    results_folder,
    some_of,
)
from benchmarks.pages import import_pyplot
from benchmarks.provenance import (
    BASELINE_CODE,
    HYPERPQ_CODE,
    LEARNED_CODE,
    DataDigests,
    Digests,
    current_commit,
    recipe_fields,
)
from benchmarks.published import check_set, describe_set, publish, runs_file, take_up
from benchmarks.quality_page import RUNS, write_quality_page
from benchmarks.runlog import Key, Run, RunLog
from benchmarks.training_sizes import min_training
from hyperpq import scan
from hyperpq.codec.learned import SAMPLE_SIZE, LearnedCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision, precision_at, recall_at
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.training.presets import PAPER_SETTINGS, PRESETS, get_recipe, paper
from hyperpq.training.recipe import Recipe
from hyperpq.training.task import TrainingRun
from hyperpq.training.train import train_codec

METHODS = (*BASELINES, *LEARNED)
# Bits of the shortest codes of a recipe with two parts.
SHORTEST = {"balanced": 16}
# mAP@k is recorded for these k and for that of the protocol.
DEPTHS = {"map10": 10, "map100": 100, "map1000": 1000}


class QualityBench:
    """Measures methods on one data set and writes their runs to the log.

    Parameters
    ----------
    features : FeatureSet
        The data set.
    command : str
        The command as the page shows it.
    """

    def __init__(self, features: FeatureSet, command: str) -> None:
        self.features = features
        self.log = RunLog(features.folder / RUNS)
        self.digests = DataDigests(features)
        threads = torch.get_num_threads()
        machine = (
            f"{describe_machine()}, {threads} thread{'s' * (threads > 1)} in torch, "
            f"torch {torch.__version__}, faiss {import_faiss().__version__}"
        )
        self.origin = {"machine": machine, "commit": current_commit(), "command": command}
        self.k = min(max(features.protocol.top, *DEPTHS.values()), len(features.database))
        train, query, database = features.train, features.query, features.database
        self.inputs = {
            "raw": Vectors(unit(train), unit(query), unit(database)),
            "normalized": Vectors(*(power_normalize(x, train) for x in (train, query, database))),
        }
        self.exact_neighbours = exact(query, database, self.k)

    def identity(self, key: Key) -> Digests:
        """What a run with this key is measured on and with."""
        settings = {**key._asdict(), "k": self.k}
        if key.method == "hyperpq":
            recipe = _recipe(key.variant, key.bits, self.features.dataset)
            settings["recipe"] = recipe_fields(recipe)
            return self.digests.of(settings, HYPERPQ_CODE, recipe.views.augmentation)
        if key.method in LEARNED:
            return self.digests.of(settings, LEARNED_CODE, VIEWS)
        settings["factory"] = FACTORY.get(key.method)
        # The other baselines are made of parts of hyperpq.
        is_faiss = key.method == "exact" or key.method in FACTORY
        return self.digests.of(settings, BASELINE_CODE + (() if is_faiss else HYPERPQ_CODE))

    def is_current(self, run: Run) -> bool:
        """Whether a recorded run is what this benchmark would measure now."""
        return not self.outdated(run)

    def outdated(self, run: Run) -> list[str]:
        """What of a recorded run is not as it is now."""
        key = Key(*(run[field] for field in Key._fields))
        known = {"exact": self.inputs, "hyperpq": PRESETS} | dict.fromkeys(METHODS, self.inputs)
        if key.variant not in known.get(key.method, ()):
            return ["method"]
        return self.identity(key).differences(run)

    def evaluate(self, found: NDArray[np.int64]) -> dict[str, float]:
        """Quality of the results (nq, k), nearest first."""
        protocol = self.features.protocol
        relevant = protocol.relevant(slice(None), found)
        nearest = self.exact_neighbours
        return {
            "map": mean_average_precision(relevant, protocol.top),
            **{name: mean_average_precision(relevant, k) for name, k in DEPTHS.items()},
            "precision10": precision_at(relevant, 10),
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
            "digests": self.identity(key)._asdict(),
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
        vectors, size = self.inputs[key.variant], (key.bits, self.k, key.seed)
        if key.method in LEARNED:
            result = LEARNED[key.method](vectors, self.views(key.variant), *size)
        else:
            result = BASELINES[key.method](vectors, *size)
        self.record(key, result)

    def views(self, variant: str) -> Floats:
        """Views of the training images (V, n_viewed, d), normalized as the features are."""
        by_power = partial(power_normalize, train=self.features.train)
        normalize = unit if variant == "raw" else by_power
        return np.stack([normalize(view) for view in self.features.views(VIEWS)])

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
        keys += [
            Key("hyperpq", recipe, b, seed)
            for recipe in args.recipes
            for b in args.bits
            if b >= SHORTEST.get(recipe, 0)
        ]
        keys += [
            Key(name, variant, b, seed)
            for name in args.baselines
            for variant in inputs
            for b in args.bits
            if b in (LEARNED_LENGTHS if name in LEARNED else lengths(name))
        ]
    return keys


def without_too_few(keys: Sequence[Key], n: int) -> list[Key]:
    """Leave out baselines that cannot learn from n images, and say so."""
    needed: dict[str, int] = {}
    kept = []
    for key in keys:
        least = min_training(key.method, key.bits)
        if n >= least:
            kept.append(key)
        else:
            needed[f"{key.method} at {key.bits} bits"] = least
    if needed:
        words = [f"{name} (needs {least})" for name, least in needed.items()]
        print(f"left out, as only {n} images train: {', '.join(words)}", flush=True)
    return kept


def run(bench: QualityBench, args: argparse.Namespace) -> None:
    """Measure the requested runs that the log does not hold as they would be now, seed by seed."""
    requested = requested_runs(args, list(bench.inputs))
    requested = without_too_few(requested, len(bench.features.train))
    missing, changed = [], set()
    for key in requested:
        recorded = bench.log.runs.get(key)
        outdated = bench.outdated(recorded) if recorded else []
        if args.fresh or recorded is None or outdated:
            missing.append(key)
            changed |= set(outdated)
    if changed:
        print(
            f"measuring again what {bench.log.file} holds of other {', '.join(sorted(changed))}",
            flush=True,
        )
    for key in missing:
        if key.method == "exact":
            bench.measure_exact(key)
    for seed in range(args.seeds):
        for recipe in args.recipes:
            keys = [k for k in missing if k[:2] == ("hyperpq", recipe) and k.seed == seed]
            bench.measure_recipe(recipe, keys)
        for key in missing:
            if key.method in METHODS and key.seed == seed:
                bench.measure_baseline(key)


def take_up_published(bench: QualityBench, recipes: Sequence[str], out: Path) -> None:
    """Copy published runs into the log that are as they would be measured now, and say so."""
    for name in recipes:
        # Without its views nothing can be said of a recipe.
        bench.features.views(get_recipe(name, LENGTHS[0]).views.augmentation)
    published = RunLog(runs_file(bench.features.folder.name, RUNS, out)).runs.values()
    taken, left = take_up(bench.log, published, bench.is_current)
    print(
        f"took up {taken} published runs; {left} others are of other features, protocol, recipe or "
        "code, or have no record of them",
        flush=True,
    )


def shown_command(args: argparse.Namespace) -> str:
    """The command as the page shows it, without the paths of this machine."""
    kind, _, path = args.dataset.partition(":")
    dataset = f"{kind}:{Path(path).name}" if path else kind
    words = ["python -m benchmarks.quality --dataset", dataset, "--data DIR --features CACHE"]
    for option in ("queries", "more"):
        if value := getattr(args, option):
            words += [f"--{option}", str(value)]
    if args.backbone != "lite0":
        words += ["--backbone", args.backbone.rpartition("/")[2]]
    bits = ",".join(map(str, args.bits))
    baselines = "all" if args.baselines == list(METHODS) else ",".join(args.baselines) or "none"
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
        type=some_of(list(METHODS)),
        default=list(METHODS),
        help="all, none or some of them, such as pq,cibhash (default all)",
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
    add_published_option(parser)
    args = parser.parse_args(argv)
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set(
            args.dataset, args.data, args.features, args.backbone, args.more, args.queries
        )
        record = describe_set(features)
        args.out = results_folder(args)
        check_set(record, args.out)
        bench = QualityBench(features, shown_command(args))
        if args.published:
            take_up_published(bench, args.recipes, args.out)
        run(bench, args)
        publish(record, bench.log, args.out, bench.is_current)
        print(write_quality_page(args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
