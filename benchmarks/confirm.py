"""Find out whether published runs of earlier code still hold.

    python -m benchmarks.confirm --dataset NAME --features CACHE

Any change of the code that makes codes gives it another digest, and published runs are then no
longer taken up, although most changes move no code. For each method of `benchmarks.quality` whose
published runs differ from the present ones in the code alone, the run of the first seed and the
shortest codes is measured again, that of a recipe without and with refinement from one training.
If every figure is the same, the published runs of the method get the digest of the present code,
and each of them records by which run, and at which commit, it was confirmed. If not, they stay as
they are. Runs of other features, such as those of another processor, cannot be confirmed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.featuresets import open_set
from benchmarks.options import RESULTS, add_dataset_options, count
from benchmarks.provenance import current_commit
from benchmarks.published import check_set, describe_set, read_set, runs_file
from benchmarks.quality import METHODS, QualityBench
from benchmarks.quality_page import RUNS, write_quality_page
from benchmarks.quality_recipes import REFINED
from benchmarks.quality_rows import MEASURES
from benchmarks.runlog import Key, Run, RunLog
from hyperpq.errors import HyperPQError, InvalidInputError

# The same codes give the same figures but for the order of sums.
TOLERANCE = 1e-9


def measure_again(bench: QualityBench, keys: Sequence[Key]) -> None:
    """Measure runs; the variants of a recipe with one seed share a training."""
    trained: dict[tuple[str, int], list[Key]] = {}
    for key in keys:
        if key.method == "exact":
            bench.measure_exact(key)
        elif key.method in METHODS:
            bench.measure_baseline(key)
        else:
            trained.setdefault((key.variant.removesuffix(REFINED), key.seed), []).append(key)
    for (name, seed), own in trained.items():
        bench.measure_recipe(name, seed, own)


def confirm(bench: QualityBench, published: RunLog) -> dict[str, list[str]]:
    """Confirm what can be confirmed.

    Parameters
    ----------
    bench : QualityBench
        Measures on the present features with the present code.
    published : RunLog
        The published runs of its data set; rewritten if any are confirmed.

    Returns
    -------
    dict
        For each method that was measured again, the measures that are not the same.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in published.runs.values():
        if bench.outdated(run) == ["code"]:
            groups.setdefault((run["method"], run["variant"]), []).append(run)
    # One training serves all lengths of a recipe, and it is that of the shortest.
    firsts = {
        name: min(runs, key=lambda run: (run["seed"], run["bits"])) for name, runs in groups.items()
    }
    keys = {name: Key(*(run[field] for field in Key._fields)) for name, run in firsts.items()}
    measure_again(bench, list(keys.values()))
    out = {}
    for (method, variant), runs in groups.items():
        first, key = firsts[method, variant], keys[method, variant]
        now = bench.log.runs[key]
        changed = [m for m in MEASURES if abs(now[m] - first[m]) > TOLERANCE]
        out[f"{method} {variant}"] = changed
        if not changed:
            by = {"commit": current_commit(), "bits": key.bits, "seed": key.seed}
            code = now["digests"]["code"]
            published.update(
                run | {"digests": run["digests"] | {"code": code}, "confirmed": by} for run in runs
            )
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser)
    parser.add_argument("--more", type=count, default=0, help="as of benchmarks.quality")
    args = parser.parse_args(argv)
    try:
        features = open_set(
            args.dataset, args.data, args.features, args.backbone, args.more, args.queries
        )
        out = args.out or RESULTS
        record = describe_set(features)
        if read_set(record.folder, out) is None:
            raise InvalidInputError(
                f"{out} has no published runs of {record.folder}; name a published data set with "
                "--dataset, or the folder of its page with --out."
            )
        check_set(record, out)
        bench = QualityBench(features, "python -m benchmarks.confirm")
        published = RunLog(runs_file(features.folder.name, RUNS, out))
        for name, changed in confirm(bench, published).items():
            print(f"{name}: {'other ' + ', '.join(changed) if changed else 'confirmed'}")
        print(write_quality_page(out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
