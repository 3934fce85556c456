"""Contribution of each part of the method.

    python -m benchmarks.ablation --dataset NAME --data DIR --features CACHE

What is each part of the default recipe worth? Each variant changes one thing. It learns once for
each seed; codebooks of each code length are fitted to what it learned, and mAP is measured. All
variants run without the held-out acceptance check, which would replace a bad variant by its start.

Each run is appended to ``CACHE/DATASET-BACKBONE/ablation.jsonl`` as soon as it is measured. At the
end, the page ``ablation.md`` and its plots are written from the runs of all data sets in ``CACHE``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import LENGTHS
from benchmarks.featuresets import FeatureSet, open_set, read_protocol
from benchmarks.machine import describe_machine
from benchmarks.options import add_dataset_options, add_seed_options, code_lengths
from benchmarks.pages import format_mean, import_pyplot, markdown_table, origin, spread_of
from benchmarks.runlog import Run, RunLog, publish, restore_published
from benchmarks.tasks import run_tasks
from hyperpq import scan
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.presets import get_recipe
from hyperpq.training.train import train_codec

RUNS, FIELDS = "ablation.jsonl", ("group", "name", "seed")
_INTRODUCTION = (
    f"{origin('ablation', 'ablations')} "
    "It shows the mAP of the default recipe with one thing changed, without the held-out "
    "acceptance check: the mean over the seeds, with the standard deviation after ±. The number in "
    "brackets is the difference from the default in thousandths, over the seeds that both have."
)


@dataclass(frozen=True)
class Variant:
    """One change of the default recipe.

    Attributes
    ----------
    group, name : str
        What is changed, and to what.
    changes : dict
        Fields of the recipe and their values.
    image_views : bool
        Whether the views are those of augmented images; otherwise they are made of the features.
    metric : str
        Metric of the codec.
    nbits : int
        Bits of a subquantizer when codebooks are fitted; the representation is the same.
    """

    group: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    image_views: bool = True
    metric: str = "l1"
    nbits: int = 8


def _fixed(c: float) -> dict[str, Any]:
    """A curvature that is not learned."""
    return {"train_curvature": False, "curvature": c}


def _prototypes(*levels: int) -> dict[str, Any]:
    """Hierarchical prototypes of so many clusters."""
    return {"prototype_weight": 1.0, "levels": levels}


_JOINT = {"continuous_weight": 0.0, "quantized_weight": 1.0}
_NO_GRAPH = {"graph_neighbours": 0, "graph_steps": 0, "walk_steps": 0, "positive_weight": 1.0}
_UNREFINED, _UNSMOOTHED = {"distil_epochs": 0}, {"smoothing_weight": 0.0}
_BRANCH = {"hidden": 1024}
_ORTHOGONAL = {"head": "orthogonal"}

DEFAULT = Variant("", "default")
VARIANTS = (
    DEFAULT,
    Variant("geometry", "c fixed at 1", _fixed(1.0)),
    Variant("geometry", "c fixed at 4", _fixed(4.0)),
    Variant("geometry", "Euclidean", _fixed(1.0) | {"geometry": "euclidean"}),
    # At c = 1 long tangent vectors of short codes would leave the hemisphere.
    Variant("geometry", "spherical, c fixed at 1/4", _fixed(0.25) | {"geometry": "sphere"}),
    Variant("geometry", "c fixed at 1/4", _fixed(0.25)),
    Variant("contrast", "no graph, positives are views", _NO_GRAPH),
    Variant(
        "contrast", "graph, positives of the walk only", {"graph_steps": 0, "positive_weight": 1.0}
    ),
    Variant("contrast", "graph, diffusion only", {"positive_weight": 0.0}),
    Variant("contrast", "views in feature space", image_views=False),
    Variant("contrast", "no graph, feature space", _NO_GRAPH, image_views=False),
    Variant("contrast", "an image weighs as much as a view", {"image_weight": 1.0}),
    Variant("contrast", "graph of images without views", {"image_weight": 1e6}),
    Variant("contrast", "continuous with quantized as well", {"cross_weight": 1.0}),
    Variant("codebooks", "learned by attention", _JOINT),
    Variant("codebooks", "learned straight-through", _JOINT | {"straight_through": True}),
    Variant("codebooks", "k-means, not refined", _UNREFINED),
    Variant("codebooks", "no smoothing", _UNSMOOTHED),
    Variant("codebooks", "not refined, no smoothing", _UNREFINED | _UNSMOOTHED),
    Variant("hierarchy", "1 level: 50", _prototypes(50)),
    Variant("hierarchy", "2 levels: 100, 50", _prototypes(100, 50)),
    Variant("hierarchy", "3 levels: 100, 50, 25", _prototypes(100, 50, 25)),
    Variant("hierarchy", "4 levels: 200 to 25", _prototypes(200, 100, 50, 25)),
    Variant("hierarchy", "5 levels: 400 to 25", _prototypes(400, 200, 100, 50, 25)),
    Variant(
        "hierarchy", "3 levels and neighbours", _prototypes(100, 50, 25) | {"neighbour_weight": 0.1}
    ),
    Variant("head", "residual branch, dropout .5", _BRANCH | {"dropout": 0.5}),
    Variant("head", "residual branch, no dropout", _BRANCH),
    # geoopt's RiemannianAdam divides by the norm of the whole gradient, where AdamW divides by that
    # of each entry: a step is as long as the learning rate, so it needs a larger one. The curvature
    # would get the same learning rate, so it is fixed.
    Variant("head", "orthogonal", _ORTHOGONAL),
    Variant(
        "head", "orthogonal, learning rate 1, c fixed at 1", _ORTHOGONAL | {"lr": 1.0} | _fixed(1.0)
    ),
    Variant("head", "unit length, no power normalization", {"normalization": "unit"}),
    Variant("head", "learned on 1 subspace", {"subspaces": 1}),
    Variant("head", "learned on 4 subspaces", {"subspaces": 4}),
    Variant("metric", "geodesic", metric="geodesic"),
    Variant("metric", "chord", metric="chord"),
    Variant("nbits", "4", nbits=4),
)


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
        recipe=get_recipe("default", 32, holdout_check=False, **variant.changes),
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


def run(features: FeatureSet, args: argparse.Namespace) -> None:
    """Measure what the log does not hold yet, all variants of a seed before the next seed."""
    # The views are extracted before several processes need them.
    features.views("mild")
    restore_published(features.folder / RUNS, args.out)
    log = RunLog(features.folder / RUNS, FIELDS)
    missing = [
        (variant, seed)
        for seed in range(args.seeds)
        for variant in VARIANTS
        if not args.only or variant.group in args.only
        if (variant.group, variant.name, seed) not in log
    ]
    measured = run_tasks(partial(measure, features, args.bits), missing, args.jobs)
    for (variant, seed), (maps, seconds) in measured:
        log.append(
            {
                "group": variant.group,
                "name": variant.name,
                "seed": seed,
                "map": dict(zip(map(str, args.bits), maps, strict=True)),
                "machine": describe_machine(),
            }
        )
        values = "  ".join(f"{b}: {v:.4f}" for b, v in zip(args.bits, maps, strict=True))
        title = f"{variant.group} {variant.name}".strip()
        print(f"{title:<46} seed {seed}  {values}  ({seconds:.0f} s)", flush=True)


Floats = NDArray[np.float64]


def summarize(runs: list[Run]) -> tuple[list[str], dict[tuple[str, str], Floats]]:
    """Code lengths that all runs have, and mAP of each variant, shape (seeds, lengths)."""
    lengths = [b for b in runs[0]["map"] if all(b in run["map"] for run in runs)]
    out: dict[tuple[str, str], list[list[float]]] = {}
    for one in runs:
        key = (one["group"], one["name"])
        out.setdefault(key, []).append([one["map"][b] for b in lengths])
    return lengths, {key: np.array(values) for key, values in out.items()}


def difference(values: Floats, base: Floats) -> Floats:
    """Mean difference (lengths,) of two variants (seeds, lengths), over the seeds of both."""
    both = min(len(values), len(base))
    return np.asarray((values[:both] - base[:both]).mean(0))


def write_page(cache: Path, out: Path) -> Path:
    """Write ``ablation.md`` and a plot for each data set of the cache; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    sections = ["# What each part is worth", _INTRODUCTION]
    for file in sorted(cache.glob(f"*/{RUNS}")):
        if runs := list(RunLog(file, FIELDS).runs.values()):
            sections.append(_section(file.parent, runs, out))
            publish(file, out)
    page = out / "ablation.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def _section(folder: Path, runs: list[Run], out: Path) -> str:
    """The table and the plot of one data set."""
    lengths, found = summarize(runs)
    protocol, _ = read_protocol(folder)
    plot = out / f"ablation-{folder.name}.svg"
    plot_differences(lengths, found, plot)
    base = found["", DEFAULT.name]
    lines = [["", "", *(f"{bits} bits" for bits in lengths), "seeds"]]
    for variant in VARIANTS:
        values = found.get((variant.group, variant.name))
        if values is None:
            continue
        row = [
            format_mean(float(m), float(s)) + ("" if variant is DEFAULT else f" ({1000 * d:+.0f})")
            for m, s, d in zip(
                values.mean(0), spread_of(values), difference(values, base), strict=True
            )
        ]
        lines.append([variant.group, variant.name, *row, str(len(values))])
    machines = dict.fromkeys(one["machine"] for one in runs)
    return "\n\n".join(
        [
            f"## {protocol.name}, {folder.name}",
            f"mAP@{protocol.top}:",
            markdown_table(lines),
            f"![difference from the default]({plot.name})",
            "Measured on " + "; ".join(machines) + ".",
        ]
    )


def plot_differences(lengths: list[str], found: dict[tuple[str, str], Floats], file: Path) -> None:
    """Plot the difference of each variant from the default, a bar for each code length."""
    plt = import_pyplot()
    base = found["", DEFAULT.name]
    shown = [v for v in VARIANTS if v is not DEFAULT and (v.group, v.name) in found]
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.34 * max(len(shown), 1)), layout="constrained")
    height = 0.8 / len(lengths)
    for i, bits in enumerate(lengths):
        widths = [float(difference(found[v.group, v.name], base)[i]) for v in shown]
        positions = np.arange(len(shown)) - 0.4 + height * (i + 0.5)
        shade = plt.get_cmap("Reds")(0.35 + 0.5 * i / max(len(lengths) - 1, 1))
        axis.barh(positions, widths, height, color=shade, label=f"{bits} bits")
    axis.set_yticks(range(len(shown)), [f"{v.group}: {v.name}" for v in shown])
    axis.invert_yaxis()
    axis.axvline(0, color="#333", linewidth=0.8)
    axis.set_xlabel("difference of mAP from the default recipe")
    axis.grid(axis="x", color="#ddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(file, metadata={"Date": None}, dpi=150)
    plt.close(figure)


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
        run(open_set(args.dataset, args.data, args.features, args.backbone), args)
        print(write_page(args.features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
