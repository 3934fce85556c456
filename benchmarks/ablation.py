"""Contribution of each part of the method.

    python -m benchmarks.ablation --dataset NAME --data DIR --features CACHE

What is each part of the default recipe worth? Each variant changes one thing. It learns once for
each seed; codebooks of each code length are fitted to what it learned, and mAP is measured. All
variants run without the held-out acceptance check, which would replace a bad variant by its start.

Each run is appended to ``CACHE/DATASET-BACKBONE/ablation.jsonl`` as soon as it is measured. It is
not measured again as long as features, protocol, recipe and code are the same (`provenance`). At
the end, the runs are added to those that are published beside the page ``ablation.md``, and the
page and its plots are written from all of these (`ablation_page`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.ablation_page import FIELDS, RUNS, write_ablation_page
from benchmarks.ablation_variants import DEFAULT, VARIANTS, Variant
from benchmarks.baselines import LENGTHS
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.machine import describe_machine
from benchmarks.options import (
    add_dataset_options,
    add_published_option,
    add_seed_options,
    code_lengths,
    results_folder,
)
from benchmarks.pages import import_pyplot
from benchmarks.provenance import HYPERPQ_CODE, DataDigests, Digests, current_commit, recipe_fields
from benchmarks.published import check_set, describe_set, publish, runs_file, take_up_published
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from hyperpq import scan
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.presets import get_recipe
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


def recipe_of(variant: Variant) -> Recipe:
    """The default recipe with the change of a variant."""
    return get_recipe("default", 32, holdout_check=False, **variant.changes)


def measure(
    features: FeatureSet, bits: Sequence[int], task: tuple[Variant, int]
) -> tuple[list[float], float]:
    """MAP of a variant and seed at each code length, and the seconds that it took."""
    variant, seed = task
    start = time.perf_counter()
    views = features.views("mild") if variant.image_views else None
    learned = train_codec(
        features.train,
        views,
        view_rows=None if views is None else features.view_rows,
        M=4,
        metric=variant.metric,
        recipe=recipe_of(variant),
        seed=seed,
    )
    top = features.protocol.top
    maps = []
    for b in bits:
        codec = learned.with_bits(b, nbits=variant.nbits, seed=seed)
        codes = codec.encode(features.database)
        found = scan.search(codec.tables(features.query), codes, top)[1]
        relevant = features.protocol.relevant(slice(None), found)
        maps.append(mean_average_precision(relevant, top))
    return maps, time.perf_counter() - start


class Ablation:
    """Measures variants on one data set and writes their runs to the log.

    Parameters
    ----------
    features : FeatureSet
        The data set.
    out : Path
        Folder of the page. Whatever lengths its runs have are measured, too, so that every row of
        a table has the same lengths.
    bits : sequence of int
        Lengths of codes.
    """

    def __init__(self, features: FeatureSet, out: Path, bits: Sequence[int]) -> None:
        self.features = features
        # The views are extracted before several processes need them.
        features.views("mild")
        self.log = RunLog(features.folder / RUNS, FIELDS)
        self.digests = DataDigests(features)
        published = RunLog(runs_file(features.folder.name, RUNS, out), FIELDS).runs.values()
        lengths = set(bits).union(*(map(int, run["map"]) for run in published))
        self.bits = sorted(lengths)

    def identity(self, variant: Variant, seed: int) -> Digests:
        """What a run is measured on and with."""
        settings = {"recipe": recipe_fields(recipe_of(variant)), "seed": seed}
        settings |= {"metric": variant.metric, "nbits": variant.nbits}
        return self.digests.of(settings, HYPERPQ_CODE, "mild" if variant.image_views else None)

    def is_current(self, run: Run) -> bool:
        """Whether a recorded run is what this benchmark would measure now."""
        variant = next(
            (v for v in VARIANTS if (v.group, v.name) == (run["group"], run["name"])), None
        )
        has_lengths = set(map(str, self.bits)) <= set(run["map"])
        if variant is None or not has_lengths:
            return False
        return not self.identity(variant, run["seed"]).differences(run)

    def run(self, seeds: int, jobs: int, groups: Sequence[str]) -> None:
        """Measure what the log does not hold yet, all variants of a seed before the next seed."""
        missing = []
        for seed in range(seeds):
            for variant in VARIANTS:
                if not groups or variant.group in groups:
                    recorded = self.log.runs.get((variant.group, variant.name, seed))
                    if recorded is None or not self.is_current(recorded):
                        missing.append((variant, seed))
        measured = run_tasks(partial(measure, self.features, self.bits), missing, jobs)
        for (variant, seed), (maps, seconds) in measured:
            self.log.append(
                {
                    "group": variant.group,
                    "name": variant.name,
                    "seed": seed,
                    "map": dict(zip(map(str, self.bits), maps, strict=True)),
                    "machine": describe_machine(),
                    "commit": current_commit(),
                    "digests": self.identity(variant, seed)._asdict(),
                }
            )
            values = "  ".join(f"{b}: {v:.4f}" for b, v in zip(self.bits, maps, strict=True))
            title = f"{variant.group} {variant.name}".strip()
            print(f"{title:<46} seed {seed}  {values}  ({seconds:.0f} s)", flush=True)


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
    groups = list(dict.fromkeys(variant.group for variant in VARIANTS if variant.group))
    parser.add_argument(
        "--only", nargs="*", choices=groups, default=[], help="groups of variants (default all)"
    )
    args = parser.parse_args(argv)
    if args.only:
        args.only = [DEFAULT.group, *args.only]
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set(
            args.dataset, args.data, args.features, args.backbone, queries=args.queries
        )
        record = describe_set(features)
        args.out = results_folder(args)
        check_set(record, args.out)
        bench = Ablation(features, args.out, args.bits)
        if args.published:
            take_up_published(bench.log, record.folder, args.out, bench.is_current)
        bench.run(args.seeds, args.jobs, args.only)
        publish(record, bench.log, args.out, bench.is_current)
        print(write_ablation_page(args.out, VARIANTS))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
