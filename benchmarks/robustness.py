"""Queries that were damaged on their way, and codes that were trained on other images.

    python -m benchmarks.robustness --dataset NAME --data DIR --features CACHE [--other NAME]

The images of the queries are degraded (`benchmarks.degradations`), saved as files and read as any
query is; the database stays as it is. With ``--other``, codecs and baselines also learn from the
training images of that data set and are used on this one; ours also with codebooks fitted to this
one's features, its head as it was learned. mAP of ours, of the baselines (features conditioned as
ours) and of exact search, on one page for all sets in ``CACHE``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import BASELINES, exact
from benchmarks.degradations import DEGRADATIONS, Degradation
from benchmarks.featuresets import (
    DATASETS,
    FeatureSet,
    extract,
    images_of,
    open_set,
    read_protocol,
)
from benchmarks.machine import describe_machine
from benchmarks.quality import condition
from benchmarks.results import markdown
from hyperpq import scan
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.protocols import Split
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.recipe import get_recipe
from hyperpq.training.train import train_codec

RUNS = "robustness.json"
RIVALS = ("pq", "opq", "rq", "itq_adc")
AS_IT_IS = "as it is"
FITTED = "hyperpq default, fitted here"

Floats = NDArray[np.float32]


def degraded_queries(features: FeatureSet, name: str, change: Degradation) -> Floats:
    """Features (nq, d) of the degraded queries, kept like the others."""
    file = features.source / f"query-{name.replace(' ', '_').replace('%', 'pc')}.npy"
    if file.exists():
        return np.asarray(np.load(file))
    paths = images_of(features.dataset, features.data, features.source).query.paths
    with tempfile.TemporaryDirectory() as folder:
        written = []
        for number, path in enumerate(paths):
            place = Path(folder, f"{number:06d}.png")
            change(open_image(path)).save(place, compress_level=1)
            written.append(bytes(place))
        extract(Split(written, features.protocol.query.labels), file, features.backbone)
    return np.asarray(np.load(file))


def measure(
    features: FeatureSet, trained_on: FeatureSet, queries: dict[str, Floats], bits: int, seed: int
) -> dict[str, dict[str, float]]:
    """For each method the mAP of each kind of query; all kinds are asked at once."""
    protocol, top = features.protocol, features.protocol.top
    stacked = np.concatenate(list(queries.values()))

    def by_kind(found: NDArray[np.int64]) -> dict[str, float]:
        parts = np.split(found, len(queries))
        return {
            kind: mean_average_precision(protocol.relevant(slice(None), part), top)
            for kind, part in zip(queries, parts, strict=True)
        }

    codec = train_codec(
        trained_on.train,
        trained_on.views("mild"),
        view_rows=trained_on.view_rows,
        M=bits // 8,
        recipe=get_recipe("default", bits),
        seed=seed,
    )
    codecs = {"hyperpq default": codec}
    if trained_on is not features:
        codecs[FITTED] = codec.with_bits(bits, x=features.train, seed=seed)
    out = {}
    for name, one in codecs.items():
        codes = one.encode(features.database)
        out[name] = by_kind(scan.search(one.tables(stacked), codes, top)[1])
    train, query, database = (
        condition(x, trained_on.train) for x in (trained_on.train, stacked, features.database)
    )
    for name in RIVALS:
        out[name] = by_kind(BASELINES[name](train, query, database, bits, top, seed).ids)
    out["exact conditioned"] = by_kind(exact(query, database, top))
    out["exact raw"] = by_kind(exact(stacked, features.database, top))
    return out


def write_page(cache: Path, out: Path) -> Path:
    """Write ``robustness.md`` of all sets of ``cache`` that were measured; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Damaged queries, other images",
        "Made by `python -m benchmarks.robustness`, see "
        "[its options](../../benchmarks/README.md#robustness). mAP of queries that were degraded "
        "before they were read; the database is as it is. Sizes are shares of the longer side, "
        "noise has that standard deviation out of 255. Baselines have the same features, conditioned. "
        "Fitted here: the head as it was learned, codebooks of the features of this set's training "
        "images, which no other column has seen.",
    ]
    for file in sorted(cache.glob(f"*/{RUNS}")):
        protocol, _ = read_protocol(file.parent)
        for title, run in sorted(json.loads(file.read_text("utf-8")).items()):
            methods = list(run["map"])
            lines = [["queries", *methods]]
            for kind in run["map"][methods[0]]:
                values = [run["map"][method][kind] for method in methods]
                cells = [f"{v:.3f}".removeprefix("0") for v in values]
                compared = [i for i, method in enumerate(methods[:-2]) if method != FITTED]
                best = max(values[i] for i in compared)
                for i in compared:
                    cells[i] = f"**{cells[i]}**" if values[i] == best else cells[i]
                lines.append([kind, *cells])
            parts += [
                f"## {protocol.name}, {file.parent.name}: {title}",
                f"mAP@{protocol.top}, best codes bold, {run['machine']}:",
                markdown(lines),
            ]
    page = out / "robustness.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", required=True, help=f"{', '.join(DATASETS)} or folder:PATH")
    add("--data", type=Path, help="where the images lie; not needed once features are kept")
    add("--features", type=Path, required=True, help="folder where features and results are kept")
    add("--other", help="data set to train on as well, its features are kept already")
    add("--backbone", default="lite0", help="network (default lite0)")
    add("--bits", type=int, default=32, help="length of the codes (default 32)")
    add("--seed", type=int, default=0, help="of every training (default 0)")
    add("--out", type=Path, default=Path("docs/results"), help="folder of the page")
    args = parser.parse_args(argv)
    try:
        features = open_set(args.dataset, args.data, args.features, args.backbone)
        queries = {AS_IT_IS: features.query}
        for name, change in DEGRADATIONS.items():
            queries[name] = degraded_queries(features, name, change)
        file = features.folder / RUNS
        runs = json.loads(file.read_text("utf-8")) if file.exists() else {}
        sources = [(features, queries)]
        if args.other:
            other = open_set(args.other, None, args.features, args.backbone)
            sources.append((other, {AS_IT_IS: features.query}))
        for trained_on, asked in sources:
            own = "its own images" if trained_on is features else trained_on.protocol.name
            title = f"{args.bits} bits, trained on {own}"
            found = measure(features, trained_on, asked, args.bits, args.seed)
            runs[title] = {"map": found, "machine": describe_machine()}
            file.write_text(json.dumps(runs, indent=1), "utf-8")
            print(title, {m: round(v[AS_IT_IS], 4) for m, v in found.items()}, flush=True)
        print(write_page(args.features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
