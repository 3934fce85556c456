"""Quality of codes: our recipes beside the baselines of `benchmarks.baselines` and exact search.

    python -m benchmarks.quality --dataset NAME --data DIR --features CACHE

Each run (a method, a length, a seed) is a line of ``CACHE/DATASET-BACKBONE/runs.jsonl`` as soon as
it is measured, and isn't measured again. The page and the plots are made of all sets in ``CACHE``.

Baselines get features of unit length (``raw``) and features conditioned as ours are; the page counts
the better of the two.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines import BASELINES, LENGTHS, exact, lengths, unit
from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.jobs import count
from benchmarks.machine import describe_machine
from benchmarks.results import Key, RunLog, import_pyplot, take_up, write_page
from hyperpq import scan
from hyperpq.codec.hihpq import SAMPLE, HiHPQCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision, recall_at
from hyperpq.quantizers.kmeans import import_faiss
from hyperpq.training.recipe import PAPER_SETTINGS, PRESETS, Recipe, get_recipe, paper
from hyperpq.training.train import train_codec

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def condition(x: Floats, train: Floats) -> Floats:
    """Signed square root of the rows (n, d), minus that of the training mean, unit length."""

    def root(rows: Floats) -> Floats:
        return np.sign(rows) * np.sqrt(np.abs(rows))

    return unit(root(x) - root(train).mean(0))


class Bench:
    """What all methods of one set share: queries, what is exact, and where runs are written."""

    def __init__(self, features: FeatureSet, command: str, out: Path) -> None:
        self.features = features
        log = features.folder / "runs.jsonl"
        take_up(log, out)
        self.log = RunLog(log)
        versions = f"torch {torch.__version__}, faiss {import_faiss().__version__}"
        threads = torch.get_num_threads()
        machine = f"{describe_machine()}, {threads} thread{'s' * (threads > 1)} in torch"
        self.facts = {"machine": f"{machine}, {versions}", "command": command}
        self.k = min(max(features.protocol.top, 100), len(features.database))
        train, query, database = features.train, features.query, features.database
        self.inputs = {
            "raw": (unit(train), unit(query), unit(database)),
            "conditioned": tuple(condition(x, train) for x in (train, query, database)),
        }
        self.truth = exact(query, database, self.k)

    def score(self, found: Ids) -> dict[str, float]:
        """Quality of results (nq, k), nearest first."""
        protocol = self.features.protocol
        relevant = protocol.relevant(slice(None), found)
        return {
            "map": mean_average_precision(relevant, protocol.top),
            "map100": mean_average_precision(relevant, 100),
            "map10": mean_average_precision(relevant, 10),
            "recall10": recall_at(found[:, :10], self.truth[:, :10]),
            "recall100": recall_at(found[:, :100], self.truth[:, :100]),
        }

    def add(self, key: Key, found: Ids, **facts: Any) -> None:
        """Write one run down."""
        run = {**key._asdict(), **self.score(found), **facts, **self.facts}
        self.log.append(run)
        name = f"{key.method} {key.variant}"
        print(
            f"{name:<26} {key.bits:>3} bits  seed {key.seed}  "
            f"mAP@{self.features.protocol.top} {run['map']:.4f}  "
            f"recall 100@100 {run['recall100']:.4f}  trained {facts['train_seconds']:.1f} s",
            flush=True,
        )

    def exact(self, variant: str) -> None:
        """Search without codes."""
        _, query, database = self.inputs[variant]
        found = self.truth if variant == "raw" else exact(query, database, self.k)
        size = query.shape[1] * 4
        self.add(
            Key("exact", variant, 0, 0), found, train_seconds=0.0, encode_seconds=0.0, bytes=size
        )

    def baseline(self, key: Key) -> None:
        """One run of a baseline."""
        train, query, database = self.inputs[key.variant]
        found = BASELINES[key.method](train, query, database, key.bits, self.k, key.seed)
        self.add(
            key,
            found.ids,
            train_seconds=found.train_seconds,
            encode_seconds=found.encode_seconds,
            bytes=found.bytes,
        )

    def ours(self, preset: str, keys: Sequence[Key]) -> None:
        """The runs of one recipe and seed at several lengths."""
        for key, codec, seconds in _codecs(self.features, preset, keys):
            start = time.perf_counter()
            codes = codec.encode(self.features.database)
            encoded = time.perf_counter() - start
            found = scan.search(codec.tables(self.features.query), codes, self.k)[1]
            self.add(
                key,
                found,
                train_seconds=seconds,
                encode_seconds=encoded,
                bytes=codec.code_size,
            )


def _recipe(preset: str, bits: int, dataset: str) -> Recipe:
    """A preset; the published one with the settings of its data set if there are any."""
    if preset == "paper" and dataset in PAPER_SETTINGS:
        return paper(bits, dataset)
    return get_recipe(preset, bits)


def _codecs(
    features: FeatureSet, preset: str, keys: Sequence[Key]
) -> Iterator[tuple[Key, HiHPQCodec, float]]:
    """Trained codecs and the seconds of each; a recipe that can learns once for all lengths."""
    x = features.train
    learned: HiHPQCodec | None = None
    spent = 0.0
    for key in keys:
        recipe = _recipe(preset, key.bits, features.dataset)
        start = time.perf_counter()
        if learned is None or not recipe.subspaces:
            views = features.views(recipe.views)
            start = time.perf_counter()
            trace = features.folder / f"training-{preset}-{key.bits}-{key.seed}.jsonl"
            learned = train_codec(
                x,
                views,
                view_rows=features.view_rows,
                M=key.bits // 8,
                recipe=recipe,
                seed=key.seed,
                trace_path=trace,
            )
            spent = time.perf_counter() - start
            yield key, learned, spent
        else:
            # As `train_codec` does: the codec's sample, unless that is only a part.
            everything = x if len(x) > SAMPLE else None
            other = learned.with_bits(key.bits, x=everything, seed=key.seed)
            yield key, other, spent + time.perf_counter() - start


def run(bench: Bench, args: argparse.Namespace) -> None:
    """Measure what isn't in the log yet, seed by seed."""
    seeds = range(args.seeds)
    asked = [Key("exact", variant, 0, 0) for variant in bench.inputs]
    for seed in seeds:
        asked += [Key("hyperpq", name, b, seed) for name in args.recipes for b in args.bits]
        asked += [
            Key(name, variant, b, seed)
            for name in args.baselines
            for variant in bench.inputs
            for b in args.bits
            if b in lengths(name)
        ]
    if args.fresh:
        bench.log.forget(asked)
    todo = [key for key in asked if key not in bench.log]
    for key in todo:
        if key.method == "exact":
            bench.exact(key.variant)
    for seed in seeds:
        for preset in args.recipes:
            ours = [k for k in todo if k[:2] == ("hyperpq", preset) and k.seed == seed]
            bench.ours(preset, ours)
        for key in todo:
            if key.method in BASELINES and key.seed == seed:
                bench.baseline(key)


def _command(args: argparse.Namespace) -> str:
    """The command as the page shows it, without places of this machine."""
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


def _names(choices: Sequence[str]) -> Any:
    """Parser of ``all``, ``none`` or some of the choices, with commas between them."""

    def parse(text: str) -> list[str]:
        found = {"all": list(choices), "none": []}.get(text, text.split(","))
        if wrong := [name for name in found if name not in choices]:
            raise argparse.ArgumentTypeError(
                f"there is no {', '.join(wrong)}; choose all, none or some of {', '.join(choices)}"
            )
        return found

    return parse


def _lengths(text: str) -> list[int]:
    able = [str(bits) for bits in LENGTHS]
    if wrong := [word for word in text.split(",") if word not in able]:
        raise argparse.ArgumentTypeError(
            f"there are no codes of {', '.join(wrong)} bits; choose some of {', '.join(able)}"
        )
    return sorted({int(word) for word in text.split(",")})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--dataset",
        required=True,
        help="cifar10-ii, cifar10-i, flickr25k, nuswide, drawn or folder:PATH (class folders)",
    )
    add("--data", type=Path, help="where the images lie; not needed once features are kept")
    add("--features", type=Path, required=True, help="folder where features and runs are kept")
    add("--backbone", default="lite0", help="network (default lite0)")
    add(
        "--more",
        type=int,
        default=0,
        metavar="N",
        help="N images of the database train too, ours and the baselines, without views (default 0)",
    )
    add("--bits", type=_lengths, default=[16, 32, 64], help="lengths (default 16,32,64)")
    add("--seeds", type=count, default=3, help="how many, counted from 0 (default 3)")
    add(
        "--baselines",
        type=_names(list(BASELINES)),
        default=list(BASELINES),
        help="all, none or pq,opq,...",
    )
    add("--recipes", type=_names(PRESETS), default=list(PRESETS), help="all, none or default,...")
    add("--out", type=Path, default=Path("docs/results"), help="folder of the page and its plots")
    add("--fresh", action="store_true", help="measure again what is asked for")
    args = parser.parse_args(argv)
    try:
        # Before hours of work.
        import_pyplot()
        features = open_set(args.dataset, args.data, args.features, args.backbone, args.more)
        run(Bench(features, _command(args), args.out), args)
        print(write_page(args.features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
