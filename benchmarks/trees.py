"""Where the geometry could pay: the drawn set, whose classes are the leaves of a true tree.

    python -m benchmarks.trees --data DIR --features CACHE

The head is learned on one subspace of few dimensions, with prototypes at the three levels of the
tree, in hyperbolic space (curvature learned, or fixed), flat space and on the sphere; long vectors
are not cut, so radius and curvature are free. For each: mAP of the continuous points by species,
family and kingdom; distances between images by their nearest common ancestor; and how far from
the origin the nodes of each level lie.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.geometries import geometry
from benchmarks.jobs import count, measured
from benchmarks.machine import describe_machine
from benchmarks.results import RunLog, cell, import_pyplot, markdown, spread_of
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.initialize import tangents
from hyperpq.training.recipe import get_recipe
from hyperpq.training.train import train_codec

RUNS, FIELDS = "trees.jsonl", ("space", "D", "seed")
# From 4 on every space finds the whole tree.
DIMENSIONS = (2, 3, 4)
LEVELS = ("species", "family", "kingdom")
# Clip radius. On the sphere points stay on one half: sqrt(c) times it is below pi / 2.
REACH = 4.0
FLAT = "Euclidean"
# Name, geometry, curvature at the start, whether it is learned.
Space = tuple[str, str, float, bool]
SPACES: tuple[Space, ...] = (
    ("hyperbolic, c learned", "hyperbolic", 1.0, True),
    ("hyperbolic, c = 1", "hyperbolic", 1.0, False),
    ("hyperbolic, c = 0.1", "hyperbolic", 0.1, False),
    (FLAT, "euclidean", 1.0, False),
    ("spherical, c = 0.1", "spherical", 0.1, False),
)
# mAP@k: all levels are asked for the same number of results.
TOP = 100

Labels = NDArray[np.int64]
Facts = dict[str, Any]


def tree_labels(names: Sequence[str], leaves: Labels) -> Labels:
    """Labels (n, 3) by species, family, kingdom of leaf labels (n,) whose names are paths."""
    columns = []
    for depth in (3, 2, 1):
        paths = ["/".join(name.split("/")[:depth]) for name in names]
        columns.append(np.unique(paths, return_inverse=True)[1][leaves])
    return np.stack(columns, 1)


def labels_of(features: FeatureSet) -> tuple[Labels, Labels]:
    """`tree_labels` of queries and database."""
    protocol = features.protocol
    return (
        tree_labels(protocol.names, protocol.query.labels),
        tree_labels(protocol.names, protocol.database.labels),
    )


@torch.no_grad()
def describe(codec: HiHPQCodec, features: FeatureSet, asked: Labels, stored: Labels) -> Facts:
    """What is reported of one codec; run inside its geometry."""
    q = codec.quantizer
    query, database = (q.points(tangents(codec, x)) for x in (features.query, features.database))
    distances = torch.cat([q.product_score(part, database) for part in query.split(200)])
    found = distances.topk(TOP, 1, largest=False)[1].numpy()
    maps = [
        mean_average_precision(stored[found, level] == asked[:, None, level], TOP)
        for level in range(3)
    ]
    # 3 for the same species, 2 for the same family, 1 for the same kingdom, 0 for none.
    common = (asked[:, None] == stored[None]).sum(2)
    by_ancestor = [float(distances[torch.from_numpy(common == c)].mean()) for c in (3, 2, 1, 0)]
    v = torch.from_numpy(codec.embed(features.database))
    depth = []
    for level in range(3):
        count = int(stored[:, level].max()) + 1
        means = torch.stack(
            [v[torch.from_numpy(stored[:, level] == node)].mean(0) for node in range(count)]
        )
        depth.append(float(means.norm(dim=1).mean()))
    images = float(v.norm(dim=1).mean())
    return {
        "map": maps,
        "ancestor": [d / by_ancestor[-1] for d in by_ancestor[:-1]],
        "depth": [images / depth[-1], *(d / depth[-1] for d in depth[:-1])],
        "c": float(q.c.mean()),
        "radius": images,
        "bend": float((q.c.mean() ** 0.5) * images),
    }


def measure(features: FeatureSet, task: tuple[Space, int, int]) -> Facts:
    """What is reported of one space, number of dimensions and seed."""
    (_, kind, c, learned), D, seed = task
    asked, stored = labels_of(features)
    recipe = get_recipe(
        "default",
        8,
        width=D,
        subspaces=1,
        curvature=c,
        train_curvature=learned,
        max_norm=REACH,
        radius=1.0,
        prototype_weight=1.0,
        levels=tuple(int(column.max()) + 1 for column in stored.T),
        guard=False,
        average_weight=0.0,
    )
    with geometry(kind):
        codec = train_codec(features.train, features.views("mild"), M=1, recipe=recipe, seed=seed)
        return describe(codec, features, asked, stored)


def run(features: FeatureSet, log: RunLog, seeds: int, jobs: int) -> None:
    """Measure what isn't kept yet."""
    # Made before processes ask for them side by side.
    features.views("mild")
    todo = [
        (space, D, seed)
        for seed in range(seeds)
        for D in DIMENSIONS
        for space in SPACES
        if (space[0], D, seed) not in log
    ]
    for (space, D, seed), facts in measured(partial(measure, features), todo, jobs):
        entry = {"space": space[0], "D": D, "seed": seed, **facts}
        log.append({**entry, "machine": describe_machine()})
        values = " ".join(f"{value:.4f}" for value in facts["map"])
        print(f"{space[0]:<24} D {D:>2}  seed {seed}  mAP {values}", flush=True)


def write_page(runs: list[dict[str, Any]], features: FeatureSet, out: Path) -> Path:
    """Write ``trees.md`` and its plot; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for one in runs:
        groups.setdefault((one["space"], one["D"]), []).append(one)

    def row(D: int, space: str, fact: str) -> list[str]:
        values = np.array([one[fact] for one in groups[space, D]], float)
        pairs = zip(values.mean(0), spread_of(values), strict=True)
        return [cell(float(mean), float(spread)) for mean, spread in pairs]

    spaces = [space[0] for space in SPACES]
    keys = [(D, space) for D in DIMENSIONS for space in spaces if (space, D) in groups]
    heads = {
        "map": [f"mAP@{TOP}, {level}" for level in LEVELS],
        "ancestor": ["same species", "same family", "same kingdom"],
        "depth": ["images", "species", "families"],
    }
    tables = {
        fact: markdown(
            [["dimensions", "space", *head], *([str(D), s, *row(D, s, fact)] for D, s in keys)]
        )
        for fact, head in heads.items()
    }
    plot = out / "trees.svg"
    plot_gains(groups, spaces, plot)
    learned = [one["c"] for one in runs if one["space"] == spaces[0]]
    bends = {s: np.mean([one["bend"] for one in runs if one["space"] == s]) for s in spaces[:3]}
    parts = [
        "# A true tree",
        "Made by `python -m benchmarks.trees`. The drawn set: "
        f"{len(features.database):,} images of {len(features.protocol.names)} species in "
        f"families and kingdoms, {len(features.query):,} ask. Continuous points of one subspace, "
        "prototypes at the tree's three levels, nothing cut; mean of the seeds, ± standard "
        "deviation.",
        f"![mAP by dimensions, less that of flat space]({plot.name})",
        tables["map"],
        "The learned curvature ends at c = "
        f"{min(learned):.2f} to {max(learned):.2f}. How far space bends where the images lie, "
        "root of c times their mean distance from the origin: "
        + ", ".join(f"{s} {bend:.2f}" for s, bend in bends.items())
        + ".",
        "Mean distance to images whose nearest common ancestor is the species, the family or the "
        "kingdom, as a share of the distance to images of other kingdoms:",
        tables["ancestor"],
        "Mean distance from the origin of images, and of the means of species and families, over "
        "that of the means of kingdoms. A mean of many vectors is shorter than they are in every "
        "geometry, so only differences between the geometries say something:",
        tables["depth"],
        "Measured on " + "; ".join(dict.fromkeys(one["machine"] for one in runs)) + ".",
    ]
    page = out / "trees.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def plot_gains(
    groups: dict[tuple[str, int], list[dict[str, Any]]], spaces: list[str], file: Path
) -> None:
    """A panel a level: mAP less that of flat space against dimensions, a line a space."""
    plt = import_pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    colours = ("#d62728", "#ff9e4a", "#e7c22b", "#1f77b4", "#2ca02c")
    for level, panel in enumerate(panels):
        for i, (space, colour) in enumerate(zip(spaces, colours, strict=True)):
            at = [D for D in DIMENSIONS if (space, D) in groups and (FLAT, D) in groups]
            values = {D: np.array([one["map"][level] for one in groups[space, D]]) for D in at}
            flat = {D: np.mean([one["map"][level] for one in groups[FLAT, D]]) for D in at}
            panel.errorbar(
                [DIMENSIONS.index(D) + 0.05 * (i - 2) for D in at],
                [values[D].mean() - flat[D] for D in at],
                [np.nan_to_num(spread_of(values[D])) for D in at],
                fmt="o-",
                color=colour,
                label=space,
            )
        panel.set_xticks(range(len(DIMENSIONS)), [str(D) for D in DIMENSIONS])
        panel.set_xlabel("dimensions")
        panel.set_title(f"by {LEVELS[level]}")
        panel.grid(axis="y", color="#ddd")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"mAP@{TOP} less that of flat space")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(file, metadata={"Date": None}, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, help="where the drawn set lies, or is drawn")
    add("--features", type=Path, required=True, help="folder where features and runs are kept")
    add("--seeds", type=count, default=3, help="how many, counted from 0 (default 3)")
    add("--jobs", type=count, default=1, help="processes side by side (default 1)")
    add("--out", type=Path, default=Path("docs/results"), help="folder of the page and its plot")
    args = parser.parse_args(argv)
    try:
        import_pyplot()
        features = open_set("drawn", args.data, args.features)
        log = RunLog(features.folder / RUNS, FIELDS)
        run(features, log, args.seeds, args.jobs)
        print(write_page(list(log.runs.values()), features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
