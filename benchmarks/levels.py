"""What hierarchy and hyperbolic geometry are worth at each level of a hierarchy of classes.

    python -m benchmarks.levels --dataset folder:GROCERIES --features CACHE

The classes of the data set are the leaves of a tree, and their folders are its paths: the Grocery
Store set (``KIND/COARSE[/FINE]``), or the drawn set. The recipes ``default`` and ``paper`` are
learned in hyperbolic and in flat space, with and without the hierarchical losses of the paper. A
result is relevant if it is of the query's fine class, of its coarse class, or of its kind.

Each run is appended to ``CACHE/DATASET-BACKBONE/levels.jsonl`` as soon as it is measured. It is not
measured again as long as features, protocol, recipe and code are the same (`provenance`). At the
end, the runs are added to those that are published beside the page ``levels.md`` (`levels_page`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import (
    BASELINES,
    FACTORY,
    LENGTHS,
    Vectors,
    exact,
    power_normalize,
    unit,
)
from benchmarks.class_tree import (
    LEVELS,
    TreeLabels,
    hierarchical_precision,
    labels_of,
    level_sizes,
)
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.levels_page import FIELDS, RUNS, TOP, write_levels_page
from benchmarks.levels_variants import VARIANTS, Variant
from benchmarks.machine import describe_machine
from benchmarks.options import (
    add_dataset_options,
    add_published_option,
    add_seed_options,
    code_lengths,
    results_folder,
)
from benchmarks.pages import import_pyplot
from benchmarks.provenance import (
    BASELINE_CODE,
    HYPERPQ_CODE,
    DataDigests,
    Digests,
    current_commit,
    recipe_fields,
)
from benchmarks.published import check_set, describe_set, publish, take_up_published
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from hyperpq import scan
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.evaluation import mean_average_precision, precision_at
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

_MEASURES = ("benchmarks/class_tree.py",)
# Strength of the views of both recipes: another one needs the images again.
VIEWS = "mild"

Ids = NDArray[np.int64]


class Task(NamedTuple):
    """What is learned once: a variant and a seed, and the lengths in bits of its codes."""

    variant: Variant
    seed: int
    bits: tuple[int, ...]


def recipe_of(variant: Variant, bits: int, labels: TreeLabels) -> Recipe:
    """The recipe of a variant of hyperpq; prototypes are as many as the tree has classes."""
    changes = dict(variant.changes)
    if variant.has_tree_levels:
        changes["levels"] = level_sizes(labels)
    return get_recipe(variant.group, bits, holdout_check=False, augmentation=VIEWS, **changes)


def describe(labels: TreeLabels, found: Ids) -> dict[str, Any]:
    """Measure the results (nq, k) of the queries.

    Returns
    -------
    dict
        ``map`` and ``precision``: mAP@100 and precision@10 by level, from the leaves to the roots.
        ``hierarchical``: `hierarchical_precision` of the first ten.
    """
    relevant = [
        labels.database[found, level] == labels.query[:, None, level] for level in range(LEVELS)
    ]
    return {
        "map": [mean_average_precision(one, TOP) for one in relevant],
        "precision": [precision_at(one, 10) for one in relevant],
        "hierarchical": hierarchical_precision(labels, found, 10),
    }


def search(features: FeatureSet, task: Task) -> Iterator[Ids]:
    """Rows (nq, 100) that a variant finds, with codes of one length after another."""
    variant, seed, lengths = task
    train, query, database = features.train, features.query, features.database
    if variant.baseline:
        normalize = partial(power_normalize, train=train) if variant.is_normalized else unit
        vectors = Vectors(normalize(train), normalize(query), normalize(database))
        for bits in lengths:
            if variant.is_exact:
                yield exact(vectors.query, vectors.database, TOP)
            else:
                yield BASELINES[variant.baseline](vectors, bits, TOP, seed).ids
        return
    learned = train_codec(
        train,
        features.views(VIEWS),
        view_rows=features.view_rows,
        M=lengths[0] // 8,
        recipe=recipe_of(variant, lengths[0], labels_of(features)),
        seed=seed,
    )
    for bits in lengths:
        codec = learned if bits == lengths[0] else learned.with_bits(bits, seed=seed)
        yield scan.search(codec.tables(query), codec.encode(database), TOP)[1]


def measure(features: FeatureSet, task: Task) -> list[dict[str, Any]]:
    """Search with a variant and a seed, and measure what it finds with codes of each length."""
    labels = labels_of(features)
    return [describe(labels, found) for found in search(features, task)]


class LevelBench:
    """Measures variants on one data set and writes their runs to the log.

    Parameters
    ----------
    features : FeatureSet
        Its class names are paths.

    Raises
    ------
    InvalidInputError
        If no class name is a path.
    """

    def __init__(self, features: FeatureSet) -> None:
        if not any("/" in name for name in features.protocol.names):
            raise InvalidInputError(
                f"{features.dataset} has the class folders "
                f"{', '.join(features.protocol.names[:3])}; expected folders in folders, such as "
                "Fruit/Apple/Granny-Smith; give a data set whose classes form a tree."
            )
        self.features = features
        # The views are extracted before several processes need them.
        features.views(VIEWS)
        self.log = RunLog(features.folder / RUNS, FIELDS)
        self.digests = DataDigests(features)

    def identity(self, variant: Variant, bits: int, seed: int) -> Digests:
        """What a run is measured on and with."""
        settings: dict[str, Any] = {"seed": seed, "top": TOP, "bits": bits}
        if variant.baseline:
            factory = FACTORY.get(variant.baseline)
            settings |= {"factory": factory, "normalized": variant.is_normalized}
            return self.digests.of(settings, (*BASELINE_CODE, *_MEASURES))
        recipe = recipe_of(variant, bits, labels_of(self.features))
        settings |= {"recipe": recipe_fields(recipe)}
        return self.digests.of(settings, (*HYPERPQ_CODE, *_MEASURES), VIEWS)

    def is_current(self, run: Run) -> bool:
        """Whether a recorded run is what this benchmark would measure now."""
        variant = next((one for one in VARIANTS if one.name == run["variant"]), None)
        if variant is None:
            return False
        return not self.identity(variant, run["bits"], run["seed"]).differences(run)

    def missing(self, seed: int, variant: Variant, lengths: Sequence[int]) -> list[Task]:
        """What of a variant and a seed the log does not hold yet."""
        if variant.is_exact:
            lengths = [0] if seed == 0 else []
        bits = []
        for length in lengths:
            recorded = self.log.runs.get((variant.name, length, seed))
            if recorded is None or not self.is_current(recorded):
                bits.append(length)
        if variant.learns_each_length:
            return [Task(variant, seed, (length,)) for length in bits]
        return [Task(variant, seed, tuple(bits))] if bits else []

    def run(self, seeds: int, lengths: Sequence[int], groups: Sequence[str], jobs: int) -> None:
        """Measure what the log does not hold yet, all variants of a seed before the next seed."""
        missing = [
            task
            for seed in range(seeds)
            for variant in VARIANTS
            if variant.group in groups
            for task in self.missing(seed, variant, lengths)
        ]
        for task, found in run_tasks(partial(measure, self.features), missing, jobs):
            for bits, figures in zip(task.bits, found, strict=True):
                self.log.append(
                    {
                        "variant": task.variant.name,
                        "bits": bits,
                        "seed": task.seed,
                        **figures,
                        "machine": describe_machine(),
                        "commit": current_commit(),
                        "digests": self.identity(task.variant, bits, task.seed)._asdict(),
                    }
                )
                values = " ".join(f"{value:.4f}" for value in figures["map"])
                title = f"{task.variant.name:<36} {bits:>2} bits  seed {task.seed}"
                print(f"{title}  mAP@{TOP} {values}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser)
    parser.add_argument(
        "--bits",
        type=code_lengths(LENGTHS),
        default=[16, 32, 64],
        help="code lengths in bits (default 16,32,64)",
    )
    add_seed_options(parser)
    add_published_option(parser)
    groups = list(dict.fromkeys(variant.group for variant in VARIANTS))
    parser.add_argument(
        "--only", nargs="+", choices=groups, default=groups, help="groups of variants (default all)"
    )
    args = parser.parse_args(argv)
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set(
            args.dataset, args.data, args.features, args.backbone, queries=args.queries
        )
        record = describe_set(features)
        args.out = results_folder(args)
        check_set(record, args.out)
        bench = LevelBench(features)
        if args.published:
            take_up_published(bench.log, record.folder, args.out, bench.is_current)
        bench.run(args.seeds, args.bits, args.only, args.jobs)
        publish(record, bench.log, args.out, bench.is_current)
        print(write_levels_page(args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
