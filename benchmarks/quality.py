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
recipes use as well (``normalized``); the page shows the better of the two. Baselines that learn
only get normalized ones. The recipes ``default`` and ``balanced`` are searched without and with
refinement, from one training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from benchmarks.quality_recipes import (
    CANDIDATES,
    KEPT,
    RECIPES,
    REFINED_CODE,
    SHORTEST,
    CodeSearch,
    is_refined,
    recipe_of,
    train_codecs,
    variants,
)
from benchmarks.runlog import Key, Run, RunLog
from benchmarks.training_sizes import min_training
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision, precision_at, recall_at
from hyperpq.quantizers.kmeans import import_faiss

METHODS = (*BASELINES, *LEARNED)
INPUTS = ("raw", "normalized")
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
            recipe = recipe_of(key.variant, key.bits, self.features.dataset)
            settings["recipe"] = recipe_fields(recipe)
            code = HYPERPQ_CODE
            if is_refined(key.variant):
                settings |= {"candidates": CANDIDATES, "kept": KEPT}
                code = REFINED_CODE
            return self.digests.of(settings, code, recipe.views.augmentation)
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
        ours = [variant for name in RECIPES for variant in variants(name)]
        known = {"exact": self.inputs, "hyperpq": ours} | {m: inputs_of(m) for m in METHODS}
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

    def measure_recipe(self, name: str, seed: int, keys: Sequence[Key]) -> None:
        """Train, encode and search with a recipe and one seed at several code lengths.

        The keys are those of its variants with this seed.
        """
        lengths = sorted({key.bits for key in keys})
        for bits, codec, seconds in train_codecs(self.features, name, lengths, seed):
            coded = CodeSearch(codec, self.features.database)
            for key in keys:
                if key.bits == bits:
                    refined = is_refined(key.variant)
                    find = coded.find_refined if refined else coded.find
                    found = find(self.features.query, self.k)
                    result = Result(found, seconds, coded.seconds, coded.bytes(refined))
                    self.record(key, result)


def inputs_of(method: str) -> tuple[str, ...]:
    """The inputs of a baseline: one that learns is only given normalized features."""
    return ("normalized",) if method in LEARNED else INPUTS


def requested_runs(args: argparse.Namespace) -> list[Key]:
    """All runs that the command asks for: exact search, then seed by seed."""
    keys = [Key("exact", variant, 0, 0) for variant in INPUTS]
    for seed in range(args.seeds):
        keys += [
            Key("hyperpq", variant, b, seed)
            for recipe in args.recipes
            for variant in variants(recipe)
            for b in args.bits
            if b >= SHORTEST.get(recipe, 0)
        ]
        keys += [
            Key(name, variant, b, seed)
            for name in args.baselines
            for variant in inputs_of(name)
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
    requested = requested_runs(args)
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
            own = [("hyperpq", variant) for variant in variants(recipe)]
            keys = [key for key in missing if key[:2] in own and key.seed == seed]
            bench.measure_recipe(recipe, seed, keys)
        for key in missing:
            if key.method in METHODS and key.seed == seed:
                bench.measure_baseline(key)


def take_up_published(bench: QualityBench, recipes: Sequence[str], out: Path) -> None:
    """Copy published runs into the log that are as they would be measured now, and say so."""
    for name in recipes:
        # Without its views nothing can be said of a recipe.
        recipe = recipe_of(name, LENGTHS[0], bench.features.dataset)
        bench.features.views(recipe.views.augmentation)
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
        type=some_of(RECIPES),
        default=list(RECIPES),
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
