"""The page of `benchmarks.trees`: tables and a plot of its published runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.pages import (
    format_mean,
    format_number,
    listed,
    markdown_table,
    origin,
    spread_of,
    write_page,
)
from benchmarks.palette import add_legend, draw_line, new_figure, save
from benchmarks.published import COMMITS, at_commit, published_sets, runs_file, shared_facts
from benchmarks.runlog import Run, RunLog


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
FLAT = "Euclidean"
SPACES = (
    Space("hyperbolic, c learned", "lorentz", 1.0, True),
    Space("hyperbolic, c = 1", "lorentz", 1.0, False),
    Space("hyperbolic, c = 0.1", "lorentz", 0.1, False),
    Space(FLAT, "euclidean", 1.0, False),
    Space("spherical, c = 0.1", "sphere", 0.1, False),
)
LEARNED = SPACES[0].name
HYPERBOLIC = [space.name for space in SPACES if space.geometry == "lorentz"]
# k of mAP@k at every level.
TOP = 100

Groups = dict[tuple[str, int], list[Run]]


def write_trees_page(out: Path) -> Path:
    """Write ``trees.md`` and its plot from the published runs of the drawn set."""
    (record,) = published_sets(RUNS, out)
    runs = list(RunLog(runs_file(record.folder, RUNS, out), FIELDS).runs.values())
    groups: Groups = {}
    for one in runs:
        groups.setdefault((one["space"], one["D"]), []).append(one)
    plot = out / "trees.svg"
    plot_gains(groups, plot)
    bends = {s: np.mean([one["bend"] for one in runs if one["space"] == s]) for s in HYPERBOLIC}
    found = [
        f"![mAP by dimensions, less that of flat space]({plot.name})",
        _table(groups, "map", [f"mAP@{TOP}, {level}" for level in LEVELS]),
        "The root of c times the mean distance of the images from the origin says how far space "
        "bends where they lie: " + "; ".join(f"{s}: {bend:.2f}" for s, bend in bends.items()) + ".",
    ]
    distances = [
        "Mean distance to images whose nearest common ancestor is the species, the family or the "
        "kingdom, as a share of the distance to images of other kingdoms:",
        _table(groups, "ancestor", ["same species", "same family", "same kingdom"]),
    ]
    depths = [
        "Mean distance from the origin of images, and of the means of species and families, over "
        "that of the means of kingdoms. The mean of many vectors is shorter than the vectors in "
        "every geometry, so only differences between the geometries are informative:",
        _table(groups, "depth", ["images", "species", "families"]),
    ]
    machines = shared_facts(runs, ("machine", *COMMITS))
    made = (
        f"{origin('trees', 'a-true-tree')} The drawn set has "
        f"{record.n_database:,} images of {record.n_classes} species, which form families and "
        f"kingdoms; {record.n_query:,} other images are queries. Points are continuous and lie in "
        "one subspace, prototypes stand at the three levels of the tree, and long vectors are not "
        "shortened. Values are means over the seeds; the standard deviation follows after ±."
    )
    sections = {
        "mAP by level of the tree": "\n\n".join(found),
        "Distances in the tree": "\n\n".join(distances),
        "Distance from the origin": "\n\n".join(depths),
    }
    measured = "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
    ends = [made, f"Measured on {measured}."]
    return write_page(out / "trees.md", "A true tree", findings(groups), sections, ends)


def findings(groups: Groups) -> str:
    """MAP by species of hyperbolic, flat and spherical space, and the learned curvature."""
    shown = [D for D in DIMENSIONS if (LEARNED, D) in groups and (FLAT, D) in groups]
    maps = {
        space.name: [
            format_number(float(np.mean([run["map"][0] for run in groups[space.name, D]])))
            for D in shown
        ]
        for space in SPACES
        if all((space.name, D) in groups for D in shown)
    }
    learned = [run["c"] for (space, _), runs in groups.items() if space == LEARNED for run in runs]
    others = "; ".join(f"{n}: {listed(v)}" for n, v in maps.items() if n not in (LEARNED, FLAT))
    return (
        f"In {listed(list(map(str, shown)))} dimensions, hyperbolic space with a learned curvature "
        f"has an mAP@{TOP} by species of {listed(maps[LEARNED])}, and flat space has "
        f"{listed(maps[FLAT])}. The other spaces have: {others}. The learned curvature ends at c = "
        f"{min(learned):.2f} to {max(learned):.2f}."
    )


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
    figure, axes = new_figure(len(LEVELS), 1.9)
    for level, axis in enumerate(axes):
        for i, space in enumerate(SPACES):
            at = [D for D in DIMENSIONS if (space.name, D) in groups and (FLAT, D) in groups]
            values = {D: np.array([r["map"][level] for r in groups[space.name, D]]) for D in at}
            flat = {D: np.mean([r["map"][level] for r in groups[FLAT, D]]) for D in at}
            draw_line(
                axis,
                space.name,
                [DIMENSIONS.index(D) + 0.05 * (i - 2) for D in at],
                [values[D].mean() - flat[D] for D in at],
                [float(spread_of(values[D])) for D in at],
            )
        axis.set_xticks(range(len(DIMENSIONS)), [str(D) for D in DIMENSIONS])
        axis.set_ylabel(f"by {LEVELS[level]}")
    limits = np.array([axis.get_ylim() for axis in axes])
    for axis in axes:
        axis.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    axes[-1].set_xlabel("dimensions")
    figure.supylabel(f"mAP@{TOP} less that of flat space", fontsize="medium")
    add_legend(figure, axes, columns=2)
    save(figure, file)
