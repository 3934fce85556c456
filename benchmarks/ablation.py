"""What each part of the method is worth: the default recipe with one thing changed at a time.

    python -m benchmarks.ablation --dataset NAME --data DIR --features CACHE

Each variant learns once a seed; codebooks of each length are fitted to it, and mAP is measured. All
run without the guard, which would hide what a bad variant does. Runs are kept beside those of
`benchmarks.quality`; the page is made of all sets in ``CACHE``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.featuresets import FeatureSet, open_set, read_protocol
from benchmarks.geometries import geometry, straight_through
from benchmarks.jobs import count, measured
from benchmarks.machine import describe_machine
from benchmarks.results import RunLog, cell, import_pyplot, markdown, publish, spread_of, take_up
from hyperpq import scan
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.recipe import get_recipe
from hyperpq.training.train import train_codec

RUNS, FIELDS = "ablation.jsonl", ("group", "name", "seed")


@dataclass(frozen=True)
class Variant:
    """One change of the default recipe.

    Attributes
    ----------
    group, name : str
        What is varied, and to what.
    changes : dict
        Fields of the recipe.
    geometry : str
        See `benchmarks.geometries`.
    straight_through : bool
        Hard codewords with a passed gradient in the place of the attention's mean.
    image_views : bool
        False leaves views to the product, which makes them in feature space.
    metric : str
        See `lorentz.score_of`.
    nbits : int
        Of the codes; the representation is the same.
    """

    group: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    geometry: str = "hyperbolic"
    straight_through: bool = False
    image_views: bool = True
    metric: str = "l1"
    nbits: int = 8


def _fixed(c: float) -> dict[str, Any]:
    return {"train_curvature": False, "curvature": c}


def _prototypes(*levels: int) -> dict[str, Any]:
    return {"prototype_weight": 1.0, "levels": levels}


_JOINT = {"continuous_weight": 0.0, "quantized_weight": 1.0}
_ALONE = {"graph_neighbours": 0, "graph_steps": 0, "walk": 0, "partner_weight": 1.0}
_BRANCH = {"hidden": 1024}

DEFAULT = Variant("", "default")
VARIANTS = (
    DEFAULT,
    Variant("geometry", "c fixed at 1", _fixed(1.0)),
    Variant("geometry", "c fixed at 4", _fixed(4.0)),
    Variant("geometry", "Euclidean", _fixed(1.0), geometry="euclidean"),
    # At c = 1 long tangent vectors of short codes would leave the half of the sphere.
    Variant("geometry", "spherical, c fixed at 1/4", _fixed(0.25), geometry="spherical"),
    Variant("geometry", "c fixed at 1/4", _fixed(0.25)),
    Variant("contrast", "no graph: views of an image", _ALONE),
    Variant("contrast", "graph, walk alone", {"graph_steps": 0, "partner_weight": 1.0}),
    Variant("contrast", "diffusion alone", {"partner_weight": 0.0}),
    Variant("contrast", "views in feature space", image_views=False),
    Variant("contrast", "no graph, feature space", _ALONE, image_views=False),
    Variant("contrast", "an image weighs as a view", {"image_weight": 1.0}),
    Variant("contrast", "images alone on the graph", {"image_weight": 1e6}),
    Variant("contrast", "and continuous with quantized", {"cross_weight": 1.0}),
    Variant("codebooks", "learned by attention", _JOINT),
    Variant("codebooks", "learned straight-through", _JOINT, straight_through=True),
    Variant("codebooks", "k-means alone, not refined", {"distil_epochs": 0}),
    Variant("codebooks", "vectors not averaged", {"average_weight": 0.0}),
    Variant("codebooks", "neither", {"distil_epochs": 0, "average_weight": 0.0}),
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
    Variant("head", "unit length, no roots", {"conditioning": "unit"}),
    Variant("head", "learned on 1 subspace", {"subspaces": 1}),
    Variant("head", "learned on 4 subspaces", {"subspaces": 4}),
    Variant("score", "geodesic", metric="geodesic"),
    Variant("score", "chord", metric="chord"),
    Variant("nbits", "4", nbits=4),
)


def measure(
    features: FeatureSet, bits: Sequence[int], task: tuple[Variant, int]
) -> tuple[list[float], float]:
    """MAP of a variant and seed at each length, and seconds."""
    variant, seed = task
    begun = time.perf_counter()
    views = features.views("mild") if variant.image_views else None
    recipe = get_recipe("default", 32, guard=False, **variant.changes)
    top = features.protocol.top
    out = []
    with ExitStack() as inside:
        inside.enter_context(geometry(variant.geometry))
        if variant.straight_through:
            inside.enter_context(straight_through())
        learned = train_codec(
            features.train,
            views,
            view_rows=None if views is None else features.view_rows,
            M=4,
            metric=variant.metric,
            recipe=recipe,
            seed=seed,
        )
        for b in bits:
            codec = learned.with_bits(b, nbits=variant.nbits, seed=seed)
            codes = codec.encode(features.database)
            found = scan.search(codec.tables(features.query), codes, top)[1]
            relevant = features.protocol.relevant(slice(None), found)
            out.append(mean_average_precision(relevant, top))
    return out, time.perf_counter() - begun


def run(features: FeatureSet, args: argparse.Namespace) -> None:
    """Measure what isn't kept yet, all variants of a seed before the next seed."""
    # Made before processes ask for them side by side.
    features.views("mild")
    take_up(features.folder / RUNS, args.out)
    log = RunLog(features.folder / RUNS, FIELDS)
    todo = [
        (variant, seed)
        for seed in range(args.seeds)
        for variant in VARIANTS
        if not args.only or variant.group in args.only
        if (variant.group, variant.name, seed) not in log
    ]
    found = measured(partial(measure, features, args.bits), todo, args.jobs)
    for (variant, seed), (maps, seconds) in found:
        facts = {
            "group": variant.group,
            "name": variant.name,
            "seed": seed,
            "map": dict(zip(map(str, args.bits), maps, strict=True)),
            "machine": describe_machine(),
        }
        log.append(facts)
        values = "  ".join(f"{b}: {v:.4f}" for b, v in zip(args.bits, maps, strict=True))
        title = f"{variant.group} {variant.name}".strip()
        print(f"{title:<46} seed {seed}  {values}  ({seconds:.0f} s)", flush=True)


def summarize(runs: list[dict[str, Any]]) -> tuple[list[str], dict[tuple[str, str], np.ndarray]]:
    """Lengths that all runs have, and mAP (seeds, lengths) of each variant."""
    lengths = [b for b in runs[0]["map"] if all(b in run["map"] for run in runs)]
    out: dict[tuple[str, str], list[list[float]]] = {}
    for one in runs:
        key = (one["group"], one["name"])
        out.setdefault(key, []).append([one["map"][b] for b in lengths])
    return lengths, {key: np.array(values) for key, values in out.items()}


def difference(values: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Mean difference (lengths,) of two variants (seeds, lengths), over the seeds of both."""
    both = min(len(values), len(base))
    return np.asarray((values[:both] - base[:both]).mean(0))


def write_page(cache: Path, out: Path) -> Path:
    """Write ``ablation.md`` and a plot for each set of ``cache`` that has runs; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [
        "# What each part is worth",
        "Made by `python -m benchmarks.ablation`, see "
        "[its options](../../benchmarks/README.md#ablations). mAP of the default recipe with one "
        "thing changed, without the guard: mean over the seeds, standard deviation after ±. In "
        "brackets the difference to the default, in thousandths, over the seeds that both have.",
    ]
    for file in sorted(cache.glob(f"*/{RUNS}")):
        if runs := list(RunLog(file, FIELDS).runs.values()):
            parts.append(_section(file.parent, runs, out))
            publish(file, out)
    page = out / "ablation.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def _section(folder: Path, runs: list[dict[str, Any]], out: Path) -> str:
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
            cell(float(m), float(s)) + ("" if variant is DEFAULT else f" ({1000 * d:+.0f})")
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
            markdown(lines),
            f"![difference to the default]({plot.name})",
            "Measured on " + "; ".join(machines) + ".",
        ]
    )


def plot_differences(
    lengths: list[str], found: dict[tuple[str, str], np.ndarray], file: Path
) -> None:
    """Bars: difference of each variant to the default, a bar a length."""
    plt = import_pyplot()
    base = found["", DEFAULT.name]
    shown = [v for v in VARIANTS if v is not DEFAULT and (v.group, v.name) in found]
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.34 * max(len(shown), 1)), layout="constrained")
    height = 0.8 / len(lengths)
    for i, bits in enumerate(lengths):
        widths = []
        for variant in shown:
            widths.append(float(difference(found[variant.group, variant.name], base)[i]))
        places = np.arange(len(shown)) - 0.4 + height * (i + 0.5)
        shade = plt.get_cmap("Reds")(0.35 + 0.5 * i / max(len(lengths) - 1, 1))
        axis.barh(places, widths, height, color=shade, label=f"{bits} bits")
    axis.set_yticks(range(len(shown)), [f"{v.group}: {v.name}" for v in shown])
    axis.invert_yaxis()
    axis.axvline(0, color="#333", linewidth=0.8)
    axis.set_xlabel("difference of mAP to the default recipe")
    axis.grid(axis="x", color="#ddd")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(file, metadata={"Date": None}, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    groups = list(dict.fromkeys(variant.group for variant in VARIANTS if variant.group))
    add("--dataset", required=True, help="as in benchmarks.quality")
    add("--data", type=Path, help="where the images lie; not needed once features are kept")
    add("--features", type=Path, required=True, help="folder where features and runs are kept")
    add("--backbone", default="lite0", help="network (default lite0)")
    add("--bits", type=lambda t: [int(b) for b in t.split(",")], default=[16, 32, 64])
    add("--seeds", type=count, default=3, help="how many, counted from 0 (default 3)")
    add("--jobs", type=count, default=1, help="processes side by side (default 1)")
    add("--only", nargs="*", choices=groups, default=[], help="groups of variants (default all)")
    add("--out", type=Path, default=Path("docs/results"), help="folder of the page and its plots")
    args = parser.parse_args(argv)
    if args.only:
        args.only = ["", *args.only]
    try:
        import_pyplot()
        run(open_set(args.dataset, args.data, args.features, args.backbone), args)
        print(write_page(args.features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
