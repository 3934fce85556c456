"""Degraded queries, and codecs that were trained on images of another data set.

    python -m benchmarks.robustness --dataset NAME --data DIR --features CACHE [--other NAME]

How much quality is lost if query images are degraded, or if a codec was trained on other images
than those it is used for? The query images are degraded (`benchmarks.degradations`), saved as files
and read like any query; the database stays as it is. With ``--other``, codecs and baselines are
also trained on the images of another data set and used on this one. hyperpq's codec is then shown
a second time with codebooks that are fitted to the features of this data set, while the head stays
as it was trained. The page ``robustness.md`` shows the mAP of hyperpq's default recipe, of
baselines with power-normalized features, and of exact search.

Every run measures anew. Its figures are written to ``CACHE/DATASET-BACKBONE/robustness.jsonl`` and
added to those that are published beside the page.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import BASELINES, LENGTHS, Vectors, exact, power_normalize
from benchmarks.degradations import DEGRADATIONS, Degradation
from benchmarks.featuresets import FeatureSet, extract, open_set
from benchmarks.machine import describe_machine
from benchmarks.options import add_dataset_options, results_folder
from benchmarks.pages import (
    format_number,
    listed,
    markdown_table,
    origin,
    with_kept_sections,
    write_page,
)
from benchmarks.provenance import (
    BASELINE_CODE,
    HYPERPQ_CODE,
    DataDigests,
    current_commit,
    recipe_fields,
)
from benchmarks.published import (
    COMMITS,
    SetRecord,
    at_commit,
    check_set,
    describe_set,
    publish,
    published_sets,
    runs_file,
)
from benchmarks.runlog import Run, RunLog
from benchmarks.training_sizes import check_training
from hyperpq import scan
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.protocols import Split
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.presets import get_recipe
from hyperpq.training.train import train_codec

RUNS, FIELDS = "robustness.jsonl", ("bits", "trained_on", "seed")
COMPARED = ("pq", "opq", "rq", "itq_adc")
ORIGINAL = "original"
DEFAULT, FITTED = "hyperpq default", "hyperpq default, codebooks fitted"
EXACT = ("exact normalized", "exact raw")
# What `trained_on` is where the training images are those of the set itself.
OWN = "its own images"
_MADE = (
    f"{origin('robustness', 'robustness')} "
    "It shows the mAP of queries that were degraded before they were read; the database "
    "is not degraded. Sizes are shares of the longer side, and the standard deviation of noise is "
    "on the scale of values from 0 to 255. Baselines have the same features, power-normalized. In "
    "the column *codebooks fitted* the head is as it was trained, and the codebooks are fitted to "
    "the features of the training images of this data set, which no other column has seen. Each "
    "figure is of one seed."
)

Floats = NDArray[np.float32]
# Method -> kind of queries -> mAP.
Table = dict[str, dict[str, float]]


def degraded_queries(features: FeatureSet, name: str, degrade: Degradation) -> Floats:
    """Features (nq, d) of the degraded queries, cached beside the others."""
    file = features.folder / f"query-{name.replace(' ', '_').replace('%', 'pc')}.npy"
    if file.exists():
        return np.asarray(np.load(file))
    paths = features.images().query.take(features.query_rows).paths
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for number, path in enumerate(paths):
            copy = Path(folder, f"{number:06d}.png")
            degrade(open_image(path)).save(copy, compress_level=1)
            written.append(bytes(copy))
        extract(Split(written, features.protocol.query.labels), file, features.backbone)
    return np.asarray(np.load(file))


def measure(
    features: FeatureSet, trained_on: FeatureSet, queries: dict[str, Floats], bits: int, seed: int
) -> Table:
    """MAP of each method for each kind of queries; all kinds are searched at once."""
    protocol, top = features.protocol, features.protocol.top
    stacked = np.concatenate(list(queries.values()))

    def by_kind(found: NDArray[np.int64]) -> dict[str, float]:
        return {
            kind: mean_average_precision(protocol.relevant(slice(None), rows), top)
            for kind, rows in zip(queries, np.split(found, len(queries)), strict=True)
        }

    codec = train_codec(
        trained_on.train,
        trained_on.views("mild"),
        view_rows=trained_on.view_rows,
        M=bits // 8,
        recipe=get_recipe("default", bits),
        seed=seed,
    )
    codecs = {DEFAULT: codec}
    if trained_on is not features:
        codecs[FITTED] = codec.with_bits(bits, x=features.train, seed=seed)
    out = {}
    for name, one in codecs.items():
        codes = one.encode(features.database)
        out[name] = by_kind(scan.search(one.tables(stacked), codes, top)[1])
    vectors = Vectors(
        *(
            power_normalize(x, trained_on.train)
            for x in (trained_on.train, stacked, features.database)
        )
    )
    for name in COMPARED:
        out[name] = by_kind(BASELINES[name](vectors, bits, top, seed).ids)
    normalized, raw = EXACT
    out[normalized] = by_kind(exact(vectors.query, vectors.database, top))
    out[raw] = by_kind(exact(stacked, features.database, top))
    return out


def write_robustness_page(out: Path) -> Path:
    """Write ``robustness.md`` for the sets with published runs; returns its path."""
    sections, found = {}, []
    for record in published_sets(RUNS, out):
        runs = RunLog(runs_file(record.folder, RUNS, out), FIELDS).runs.values()
        for run in sorted(runs, key=title_of):
            commit = at_commit([run.get(field) for field in COMMITS])
            sections[f"{record.name}, {record.folder}: {title_of(run)}"] = "\n\n".join(
                [
                    f"mAP@{record.top}, the best codes are bold, {run['machine']}{commit}:",
                    _table(run["map"]),
                ]
            )
        found += _findings(record, list(runs))
    page = out / "robustness.md"
    sections = with_kept_sections(page, sections)
    return write_page(page, "Degraded queries, other images", " ".join(found), sections, [_MADE])


def title_of(run: Run) -> str:
    """A run in words."""
    seed = f", seed {run['seed']}" if run["seed"] else ""
    return f"{run['bits']} bits, trained on {run['trained_on']}{seed}"


def _findings(record: SetRecord, runs: list[Run]) -> list[str]:
    """A sentence for the degraded queries, and one for codecs of other images."""
    out = []
    for run in sorted(runs, key=lambda run: run["trained_on"] != OWN):
        found: Table = run["map"]
        ours = found[DEFAULT]
        if run["trained_on"] == OWN and len(ours) > 1:
            baselines = [values for name, values in found.items() if name in COMPARED]
            kinds = [kind for kind in ours if kind != ORIGINAL]
            lost = [k for k in kinds if any(values[k] > ours[k] for values in baselines)]
            ahead = "in every case" if not lost else f"except for {listed(lost)}"
            worst = min(kinds, key=lambda kind: ours[kind])
            out.append(
                f"On {record.name}, degraded queries lower the mAP@{record.top} of the default "
                f"recipe from {format_number(ours[ORIGINAL])} to {format_number(ours[worst])} in "
                f"the worst case ({worst}); it stays above all baselines {ahead}."
            )
        elif run["trained_on"] != OWN:
            best = max(values[ORIGINAL] for name, values in found.items() if name in COMPARED)
            out.append(
                f"A codec that learned from {run['trained_on']} has "
                f"{format_number(ours[ORIGINAL])} on {record.name}, and "
                f"{format_number(found[FITTED][ORIGINAL])} if its codebooks are fitted there; the "
                f"best baseline that was trained in the same way has {format_number(best)}."
            )
    return out


def _table(found: Table) -> str:
    """A row for each kind of queries; the best codes that all saw the same images are bold."""
    methods = list(found)
    compared = [method for method in methods if method not in (FITTED, *EXACT)]
    lines = [["queries", *methods]]
    for kind in found[methods[0]]:
        best = max(found[method][kind] for method in compared)
        line = [kind]
        for method in methods:
            text = format_number(found[method][kind])
            is_best = method in compared and found[method][kind] == best
            line.append(f"**{text}**" if is_best else text)
        lines.append(line)
    return markdown_table(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser)
    parser.add_argument(
        "--other", help="a second data set to train on, whose features are cached already"
    )
    parser.add_argument(
        "--bits", type=int, choices=LENGTHS, default=32, help="code length in bits (default 32)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every training (default 0)")
    args = parser.parse_args(argv)
    try:
        features = open_set(
            args.dataset, args.data, args.features, args.backbone, queries=args.queries
        )
        record = describe_set(features)
        args.out = results_folder(args)
        check_set(record, args.out)
        queries = {ORIGINAL: features.query}
        for name, degrade in DEGRADATIONS.items():
            queries[name] = degraded_queries(features, name, degrade)
        log = RunLog(features.folder / RUNS, FIELDS)
        trainings = [(features, queries)]
        if args.other:
            other = open_set(args.other, None, args.features, args.backbone)
            trainings.append((other, {ORIGINAL: features.query}))
        measured = []
        for name in COMPARED:
            check_training(name, args.bits, min(len(one.train_rows) for one, _ in trainings))
        for trained_on, asked in trainings:
            own = OWN if trained_on is features else trained_on.protocol.name
            digests = DataDigests(trained_on).of(
                {"recipe": recipe_fields(get_recipe("default", args.bits)), "compared": COMPARED},
                HYPERPQ_CODE + BASELINE_CODE,
                "mild",
            )
            run = {
                "bits": args.bits,
                "trained_on": own,
                "seed": args.seed,
                "map": measure(features, trained_on, asked, args.bits, args.seed),
                "machine": describe_machine(),
                "commit": current_commit(),
                "digests": digests._asdict(),
            }
            log.append(run)
            measured.append(log.key_of(run))
            shown = {method: round(v[ORIGINAL], 4) for method, v in run["map"].items()}
            print(title_of(run), shown, flush=True)
        publish(record, log, args.out, lambda run: log.key_of(run) in measured)
        print(write_robustness_page(args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
