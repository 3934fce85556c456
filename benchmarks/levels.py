"""What hierarchy and hyperbolic geometry are worth at each level of a hierarchy of classes.

    python -m benchmarks.levels --dataset folder:GROCERIES --features CACHE

The classes of the data set are the leaves of a tree, and their folders are its paths: the Grocery
Store set (``KIND/COARSE[/FINE]``), or the drawn set. The default recipe of hyperpq is learned in
hyperbolic and in flat space, without and with hierarchical prototypes, with and without the
neighbour graph. A result is relevant if it is of the query's class, of its parent, or of its root.

Each run is appended to ``CACHE/DATASET-BACKBONE/levels.jsonl`` as soon as it is measured. It is not
measured again as long as features, protocol, recipe and code are the same (`provenance`). At the
end, the runs are added to those that are published beside the page ``levels.md`` (`levels_page`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import BASELINES, FACTORY, Vectors, exact, power_normalize, unit
from benchmarks.class_tree import (
    LEVELS,
    TreeLabels,
    hierarchical_precision,
    labels_of,
    level_sizes,
)
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.levels_page import BITS, FIELDS, RUNS, TOP, VARIANTS, Variant, write_levels_page
from benchmarks.machine import describe_machine
from benchmarks.options import (
    add_dataset_options,
    add_published_option,
    add_seed_options,
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
from benchmarks.published import check_set, describe_set, publish, runs_file, take_up
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from hyperpq import scan
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.evaluation import mean_average_precision, precision_at
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

CODE = (*HYPERPQ_CODE, "benchmarks/class_tree.py")


def recipe_of(variant: Variant, labels: TreeLabels) -> Recipe:
    """The recipe of a variant of hyperpq; ``"tree"`` levels are those of the labels."""
    changes: dict[str, Any] = dict(variant.changes)
    if variant.levels:
        levels = level_sizes(labels) if variant.levels == "tree" else variant.levels
        changes |= {"prototype_weight": 1.0, "levels": levels}
    return get_recipe("default", BITS, holdout_check=False, **changes)


def describe(labels: TreeLabels, found: NDArray[np.int64]) -> dict[str, Any]:
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


def search(features: FeatureSet, variant: Variant, seed: int) -> NDArray[np.int64]:
    """Rows (nq, 100) that a variant finds."""
    train, query, database = features.train, features.query, features.database
    if variant.baseline:
        normalize = (
            unit if variant.baseline == "exact raw" else partial(power_normalize, train=train)
        )
        vectors = Vectors(normalize(train), normalize(query), normalize(database))
        if variant.baseline in BASELINES:
            return BASELINES[variant.baseline](vectors, BITS, TOP, seed).ids
        return exact(vectors.query, vectors.database, TOP)
    codec = train_codec(
        train,
        features.views("mild"),
        view_rows=features.view_rows,
        M=BITS // 8,
        recipe=recipe_of(variant, labels_of(features)),
        seed=seed,
    )
    found: NDArray[np.int64] = scan.search(codec.tables(query), codec.encode(database), TOP)[1]
    return found


def measure(features: FeatureSet, task: tuple[Variant, int]) -> dict[str, Any]:
    """Search with a variant and a seed, and measure what it finds."""
    return describe(labels_of(features), search(features, *task))


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
        features.views("mild")
        self.log = RunLog(features.folder / RUNS, FIELDS)
        self.digests = DataDigests(features)

    def identity(self, variant: Variant, seed: int) -> Digests:
        """What a run is measured on and with."""
        settings: dict[str, Any] = {"seed": seed, "top": TOP, "bits": BITS}
        names = self.features.protocol.names
        if variant.baseline:
            settings |= {"factory": FACTORY.get(variant.baseline), "names": names}
            return self.digests.of(settings, (*BASELINE_CODE, "benchmarks/class_tree.py"))
        recipe = recipe_of(variant, labels_of(self.features))
        settings |= {"recipe": recipe_fields(recipe), "names": names}
        return self.digests.of(settings, CODE, "mild")

    def is_current(self, run: Run) -> bool:
        """Whether a recorded run is what this benchmark would measure now."""
        variant = next((one for one in VARIANTS if one.name == run["variant"]), None)
        return variant is not None and not self.identity(variant, run["seed"]).differences(run)

    def run(self, seeds: int, jobs: int) -> None:
        """Measure what the log does not hold yet, all variants of a seed before the next seed."""
        missing = []
        for seed in range(seeds):
            for variant in VARIANTS:
                recorded = self.log.runs.get((variant.name, seed))
                is_wanted = seed == 0 or not variant.is_exact
                if is_wanted and (recorded is None or not self.is_current(recorded)):
                    missing.append((variant, seed))
        for (variant, seed), found in run_tasks(partial(measure, self.features), missing, jobs):
            self.log.append(
                {
                    "variant": variant.name,
                    "seed": seed,
                    **found,
                    "machine": describe_machine(),
                    "commit": current_commit(),
                    "digests": self.identity(variant, seed)._asdict(),
                }
            )
            values = " ".join(f"{value:.4f}" for value in found["map"])
            print(f"{variant.name:<44} seed {seed}  mAP@{TOP} {values}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser)
    add_seed_options(parser)
    add_published_option(parser)
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
            published = RunLog(runs_file(record.folder, RUNS, args.out), FIELDS).runs.values()
            taken, left = take_up(bench.log, published, bench.is_current)
            print(f"took up {taken} published runs; {left} others are not as they would be now")
        bench.run(args.seeds, args.jobs)
        publish(record, bench.log, args.out, bench.is_current)
        print(write_levels_page(args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
