"""Hyperbolic, flat and spherical space on classes that form a true tree.

    python -m benchmarks.trees --data DIR --features CACHE

Where could hyperbolic geometry pay? The classes of the drawn set are the leaves of a tree. The head
is learned on one subspace of few dimensions, with prototypes at the three levels of the tree, in
hyperbolic space (curvature learned or fixed), in flat space and on the sphere. The clip radius is
so large that hardly any vector is shortened. For each space the page ``trees.md`` shows the mAP of
the continuous points by species, family and kingdom, the distances between images by their nearest
common ancestor, and how far from the origin the nodes of each level lie.

Each run is appended to ``CACHE/drawn-lite0/trees.jsonl`` as soon as it is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.machine import describe_machine
from benchmarks.options import add_cache_options, add_seed_options
from benchmarks.pages import format_mean, import_pyplot, markdown_table, origin, spread_of
from benchmarks.runlog import Run, RunLog
from benchmarks.tasks import run_tasks
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.training.features import tangent_vectors
from hyperpq.training.presets import get_recipe
from hyperpq.training.train import train_codec


class Space(NamedTuple):
    """A space that the head is learned in."""

    name: str
    geometry: str
    curvature: float
    train_curvature: bool


RUNS, FIELDS = "trees.jsonl", ("space", "D", "seed")
# From 4 dimensions on, every space finds the whole tree.
DIMENSIONS = (2, 3, 4)
LEVELS = ("species", "family", "kingdom")
# On the sphere, points stay on a hemisphere: sqrt(c) times the clip radius is below pi / 2.
MAX_NORM = 4.0
FLAT = "Euclidean"
SPACES = (
    Space("hyperbolic, c learned", "lorentz", 1.0, True),
    Space("hyperbolic, c = 1", "lorentz", 1.0, False),
    Space("hyperbolic, c = 0.1", "lorentz", 0.1, False),
    Space(FLAT, "euclidean", 1.0, False),
    Space("spherical, c = 0.1", "sphere", 0.1, False),
)
HYPERBOLIC = [space.name for space in SPACES if space.geometry == "lorentz"]
# k of mAP@k at every level.
TOP = 100

Labels = NDArray[np.int64]


class TreeLabels(NamedTuple):
    """Labels of queries (nq, 3) and database (N, 3) by species, family and kingdom."""

    query: Labels
    database: Labels


def tree_labels(names: Sequence[str], leaves: Labels) -> Labels:
    """Labels (n, 3) by species, family and kingdom of leaf labels (n,), whose names are paths."""
    columns = []
    for depth in (3, 2, 1):
        paths = ["/".join(name.split("/")[:depth]) for name in names]
        columns.append(np.unique(paths, return_inverse=True)[1][leaves])
    return np.stack(columns, 1)


def labels_of(features: FeatureSet) -> TreeLabels:
    """The tree labels of a feature set."""
    protocol = features.protocol
    return TreeLabels(
        tree_labels(protocol.names, protocol.query.labels),
        tree_labels(protocol.names, protocol.database.labels),
    )


@torch.no_grad()
def describe(codec: HiHPQCodec, features: FeatureSet, labels: TreeLabels) -> dict[str, Any]:
    """Measure the points of a codec.

    Returns
    -------
    dict
        ``map``: by species, family and kingdom. ``ancestor``: mean distance to images whose nearest
        common ancestor is the species, family or kingdom, over that to images of other kingdoms.
        ``depth``: mean distance from the origin of images, species and families, over that of
        kingdoms. ``c``: mean curvature. ``radius``: mean distance of images from the origin.
        ``bend``: that times the root of c.
    """
    quantizer = codec.quantizer
    query, database = (
        quantizer.points(tangent_vectors(codec, x)) for x in (features.query, features.database)
    )
    distances = torch.cat(
        [quantizer.pairwise_distances(rows, database) for rows in query.split(200)]
    )
    found = distances.topk(TOP, 1, largest=False)[1].numpy()
    maps = [
        mean_average_precision(labels.database[found, level] == labels.query[:, None, level], TOP)
        for level in range(len(LEVELS))
    ]
    # 3 levels in common for the same species, 2 for the same family, 1 for the same kingdom.
    common = (labels.query[:, None] == labels.database[None]).sum(2)
    by_ancestor = [float(distances[torch.from_numpy(common == n)].mean()) for n in (3, 2, 1, 0)]
    v = torch.from_numpy(codec.embed(features.database))
    depth = []
    for level in range(len(LEVELS)):
        nodes = labels.database[:, level]
        means = torch.stack(
            [v[torch.from_numpy(nodes == node)].mean(0) for node in range(int(nodes.max()) + 1)]
        )
        depth.append(float(means.norm(dim=1).mean()))
    radius = float(v.norm(dim=1).mean())
    c = quantizer.c.mean()
    return {
        "map": maps,
        "ancestor": [d / by_ancestor[-1] for d in by_ancestor[:-1]],
        "depth": [radius / depth[-1], *(d / depth[-1] for d in depth[:-1])],
        "c": float(c),
        "radius": radius,
        "bend": float((c**0.5) * radius),
    }


def measure(features: FeatureSet, task: tuple[Space, int, int]) -> dict[str, Any]:
    """Train and describe a codec of one space, number of dimensions and seed."""
    space, D, seed = task
    labels = labels_of(features)
    recipe = get_recipe(
        "default",
        8,
        width=D,
        subspaces=1,
        geometry=space.geometry,
        curvature=space.curvature,
        train_curvature=space.train_curvature,
        max_norm=MAX_NORM,
        radius=1.0,
        prototype_weight=1.0,
        levels=tuple(int(column.max()) + 1 for column in labels.database.T),
        holdout_check=False,
        smoothing_weight=0.0,
    )
    codec = train_codec(features.train, features.views("mild"), M=1, recipe=recipe, seed=seed)
    assert isinstance(codec, HiHPQCodec)
    return describe(codec, features, labels)


def run(features: FeatureSet, log: RunLog, seeds: int, jobs: int) -> None:
    """Measure what the log does not hold yet."""
    # The views are extracted before several processes need them.
    features.views("mild")
    missing = [
        (space, D, seed)
        for seed in range(seeds)
        for D in DIMENSIONS
        for space in SPACES
        if (space.name, D, seed) not in log
    ]
    for (space, D, seed), found in run_tasks(partial(measure, features), missing, jobs):
        entry = {"space": space.name, "D": D, "seed": seed, **found}
        log.append({**entry, "machine": describe_machine()})
        values = " ".join(f"{value:.4f}" for value in found["map"])
        print(f"{space.name:<24} D {D:>2}  seed {seed}  mAP {values}", flush=True)


Groups = dict[tuple[str, int], list[Run]]


def write_page(runs: list[Run], features: FeatureSet, out: Path) -> Path:
    """Write ``trees.md`` and its plot; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    groups: Groups = {}
    for one in runs:
        groups.setdefault((one["space"], one["D"]), []).append(one)
    plot = out / "trees.svg"
    plot_gains(groups, plot)
    learned = [one["c"] for one in runs if one["space"] == SPACES[0].name]
    bends = {s: np.mean([one["bend"] for one in runs if one["space"] == s]) for s in HYPERBOLIC}
    sections = [
        "# A true tree",
        f"{origin('trees', 'a-true-tree')} The drawn set has "
        f"{len(features.database):,} images of {len(features.protocol.names)} species, which form "
        f"families and kingdoms; {len(features.query):,} other images are queries. Points are "
        "continuous and lie in one subspace, prototypes stand at the three levels of the tree, and "
        "long vectors are not shortened. Values are means over the seeds; the standard deviation "
        "follows after ±.",
        f"![mAP by dimensions, less that of flat space]({plot.name})",
        _table(groups, "map", [f"mAP@{TOP}, {level}" for level in LEVELS]),
        f"The learned curvature ends at c = {min(learned):.2f} to {max(learned):.2f}. The root of "
        "c times the mean distance of the images from the origin says how far space bends where "
        "they lie: " + "; ".join(f"{s}: {bend:.2f}" for s, bend in bends.items()) + ".",
        "Mean distance to images whose nearest common ancestor is the species, the family or the "
        "kingdom, as a share of the distance to images of other kingdoms:",
        _table(groups, "ancestor", ["same species", "same family", "same kingdom"]),
        "Mean distance from the origin of images, and of the means of species and families, over "
        "that of the means of kingdoms. The mean of many vectors is shorter than the vectors in "
        "every geometry, so only differences between the geometries are informative:",
        _table(groups, "depth", ["images", "species", "families"]),
        "Measured on " + "; ".join(dict.fromkeys(one["machine"] for one in runs)) + ".",
    ]
    page = out / "trees.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def _table(groups: Groups, measure: str, titles: list[str]) -> str:
    """A row for each number of dimensions and space, a column for each value of the measure."""
    lines = [["dimensions", "space", *titles]]
    for D in DIMENSIONS:
        for space in SPACES:
            if runs := groups.get((space.name, D)):
                values = np.array([one[measure] for one in runs], float)
                cells = [
                    format_mean(float(mean), float(spread))
                    for mean, spread in zip(values.mean(0), spread_of(values), strict=True)
                ]
                lines.append([str(D), space.name, *cells])
    return markdown_table(lines)


def plot_gains(groups: Groups, file: Path) -> None:
    """Plot mAP less that of flat space: a panel for each level, a line for each space."""
    plt = import_pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    colours = ("#d62728", "#ff9e4a", "#e7c22b", "#1f77b4", "#2ca02c")
    for level, panel in enumerate(panels):
        for i, (space, colour) in enumerate(zip(SPACES, colours, strict=True)):
            at = [D for D in DIMENSIONS if (space.name, D) in groups and (FLAT, D) in groups]
            values = {D: np.array([r["map"][level] for r in groups[space.name, D]]) for D in at}
            flat = {D: np.mean([r["map"][level] for r in groups[FLAT, D]]) for D in at}
            panel.errorbar(
                [DIMENSIONS.index(D) + 0.05 * (i - 2) for D in at],
                [values[D].mean() - flat[D] for D in at],
                [np.nan_to_num(spread_of(values[D])) for D in at],
                fmt="o-",
                color=colour,
                label=space.name,
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
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the drawn set, drawn if missing")
    add_cache_options(parser)
    add_seed_options(parser)
    args = parser.parse_args(argv)
    try:
        # A missing matplotlib is reported now, not after hours of work.
        import_pyplot()
        features = open_set("drawn", args.data, args.features)
        log = RunLog(features.folder / RUNS, FIELDS)
        run(features, log, args.seeds, args.jobs)
        print(write_page(list(log.runs.values()), features, args.out))
    except HyperPQError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
