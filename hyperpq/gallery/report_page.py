"""`write_report`: what an index is like inside, as one HTML file with charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperpq._version import __version__
from hyperpq.gallery import charts
from hyperpq.gallery.markup import Markup, asset, document_head, fact_list, fill
from hyperpq.utils.output_files import check_writable, written_aside

if TYPE_CHECKING:
    from hyperpq.explore import CodeDistances, CodewordDisk, Exploration, TrainingTrace, Tree

# Further subspaces are in the charts of all alone.
_MAX_DISKS = 32

Chart = tuple[str, Markup, str]
"""Title, drawing and explanation."""


def write_report(
    path: str | Path,
    exploration: Exploration,
    facts: Mapping[str, object],
    *,
    distances: CodeDistances | None = None,
    trace: TrainingTrace | None = None,
) -> None:
    """Write a page about an index: its codewords, curvatures, distances, groups and training.

    Parameters
    ----------
    path : path-like
        The file to write: completely, or not at all.
    exploration : Exploration
        What is shown.
    facts : mapping of str to object
        What is said at the beginning, such as `hyperpq.diagnostics.describe_index` returns.
    distances : CodeDistances, optional
        Distances of a sample.
    trace : TrainingTrace, optional
        What the training has written down.

    Raises
    ------
    NotTrainedError
        If the index has no codec.
    InvalidInputError
        If the index has no rows, or the path is a folder or its folder does not exist.
    StoreError
        If the system refuses to write the file.
    """
    path = Path(path)
    check_writable(path)
    # All of it before the file is begun.
    parts = list(_page(exploration, facts, distances, trace))
    with written_aside(path) as aside, open(aside, "x", encoding="utf-8") as file:
        file.writelines(parts)


def _page(
    exploration: Exploration,
    facts: Mapping[str, object],
    distances: CodeDistances | None,
    trace: TrainingTrace | None,
) -> Iterator[Markup]:
    title = "Report of an index"
    shown = [(name, _fact(value)) for name, value in facts.items()]
    yield document_head(
        title,
        fill("comparison_header", title=title, facts=fact_list(shown)),
        content="report",
        style=asset("page.css") + "\n" + asset("report.css"),
    )
    yield _section("Use of codewords", _codewords(exploration.disks))
    if exploration.disks[0].kind == "product" and any(d.curvature for d in exploration.disks):
        yield _section("Curvatures", _curvatures(exploration.disks, trace))
    if distances is not None:
        yield _section("Distances", _distances(distances))
    yield _section("Groups", _groups(exploration.tree))
    if trace is not None:
        yield _section("Training", _training(trace))
    yield fill("report_foot", version=__version__)


def _section(title: str, parts: Sequence[Markup]) -> Markup:
    return fill("report_section", title=title, parts=Markup.join_all(list(parts)))


def _chart(title: str, drawing: Markup, explanation: str) -> Markup:
    return fill("report_chart", title=title, drawing=drawing, explanation=explanation)


def _table(label: str, names: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    def line(cells: Sequence[object], cell: str) -> Markup:
        return fill(
            "report_line", cells=Markup.join_all([fill(cell, value=_fact(v)) for v in cells])
        )

    return fill(
        "report_table",
        label=label,
        head=line(names, "report_th"),
        rows=Markup.join_all([line(row, "report_td") for row in rows]),
    )


def _codewords(disks: Sequence[CodewordDisk]) -> list[Markup]:
    K, unused = len(disks[0].usage), sum(len(d.usage) - d.used for d in disks)
    least = min(disks, key=lambda disk: disk.perplexity)
    perplexity = charts.bars(
        [round(disk.perplexity, 2) for disk in disks],
        f"Perplexity of the codes of {len(disks)} subspaces; the least is {least.perplexity:.0f}",
        axis="subspace",
        top=K,
    )
    names = ("subspace", "space", "curvature", "used", "bits", "perplexity", "plane")
    rows = [
        (
            disk.m,
            disk.geometry,
            f"{disk.curvature:.3f}",
            disk.used,
            f"{disk.entropy:.2f}",
            f"{disk.perplexity:.1f}",
            f"{100 * disk.shown:.0f} %",
        )
        for disk in disks
    ]
    out = [
        _chart(
            "Perplexity",
            perplexity,
            f"How many of the {K} codewords of each subspace, all used equally often, would have "
            "the entropy of the codes, which the table has in bits. "
            f"{unused:,} of {K * len(disks):,} codewords are not used.",
        ),
        _table("Subspaces", names, rows),
    ]
    items = [
        fill(
            "report_disk",
            drawing=charts.disk(
                disk, f"{disk.used} of {K} codewords of subspace {disk.m} are used"
            ),
            caption=f"{disk.m}: curvature {disk.curvature:.3g}, plane {100 * disk.shown:.0f} %",
        )
        for disk in disks[:_MAX_DISKS]
    ]
    out.append(fill("report_disks", items=Markup.join_all(items), about=_about_disks(disks)))
    return out


def _about_disks(disks: Sequence[CodewordDisk]) -> str:
    kinds = {disk.geometry for disk in disks}
    said = "Each circle is a codeword; its area is in proportion to the rows that use it. "
    if "lorentz" in kinds:
        farthest = max(float(np.linalg.norm(disk.positions, axis=1).max()) for disk in disks)
        said += (
            "The distance to the centre is the hyperbolic one on the Poincaré disk; rings are "
            "labelled with it. A disk is drawn up to the farthest codeword; the edge of the disk, "
            f"which is infinitely far away, is {1 / max(farthest, 1e-9):.1f} times as far out. "
        )
    else:
        said += "The distance to the centre is exact, and the rings are labelled with it. "
    said += (
        "The angle is a projection on the two directions in which the codewords of a subspace "
        "differ most; the share of the variance that this plane has is given as plane."
    )
    if len(disks) > _MAX_DISKS:
        said += f" The first {_MAX_DISKS} of {len(disks)} subspaces are shown."
    return said


def _curvatures(disks: Sequence[CodewordDisk], trace: TrainingTrace | None) -> list[Markup]:
    values = [disk.curvature for disk in disks if disk.kind == "product"]
    out = [
        _chart(
            "Curvature of each subspace",
            charts.bars(
                values,
                f"Curvatures of subspaces from {min(values):.3f} to {max(values):.3f}",
                axis="subspace",
            ),
            f"From {min(values):.3f} to {max(values):.3f}; below 0 is hyperbolic, and 0 flat.",
        )
    ]
    if trace is not None and trace.curvatures and trace.curvatures[0]:
        whole = np.array(trace.curvatures)
        series = {
            "largest": whole.max(1).tolist(),
            "median": np.median(whole, 1).tolist(),
            "smallest": whole.min(1).tolist(),
        }
        out.append(
            _chart(
                "While it was trained",
                charts.lines(
                    series, trace.epochs, "Absolute curvatures after each epoch", axis="epoch"
                ),
                "Absolute curvatures of the subspaces after each epoch.",
            )
        )
    return out


def _distances(found: CodeDistances) -> list[Markup]:
    near, random = np.median(found.nearest), np.median(found.random)
    return [
        _chart(
            "Nearest rows and random rows",
            charts.histogram(
                {"to the nearest other row": found.nearest, "to a random row": found.random},
                f"Distances of {len(found.nearest)} rows: median {near:.4g} to the nearest and "
                f"{random:.4g} to a random row",
                axis=f"distance ({found.metric})",
            ),
            f"Distances between the codes of {len(found.nearest):,} rows in percent of the sample. "
            f"The median is {near:.4g} to the nearest other row and {random:.4g} to a random one. "
            f"{100 * found.shared:.0f} % of these rows have the code of their nearest one. The "
            "less the two overlap, the better distances tell what is near.",
        )
    ]


def _groups(tree: Tree) -> list[Markup]:
    rows = []
    for level, count in enumerate(tree.levels):
        sizes = sorted(c.size for c in tree.at_level(level))
        spread = sum(c.size * c.spread**2 for c in tree.at_level(level)) / max(1, sum(sizes))
        rows.append(
            (level, count, sizes[0], sizes[len(sizes) // 2], sizes[-1], f"{spread**0.5:.4g}")
        )
    drawing = charts.icicle(
        tree, f"Groups at {len(tree.levels)} levels, each as wide as it is large"
    )
    explanation = (
        "Each line is a level, and each group is as wide as it is large; the groups below it are "
        "its parts. The lighter, the nearer its vectors are to each other."
    )
    names = ("level", "groups", "smallest", "median size", "largest", "spread")
    return [
        fill("report_wide", drawing=drawing, explanation=explanation),
        _table("Levels", names, rows),
    ]


def _training(trace: TrainingTrace) -> list[Markup]:
    losses = dict(trace.losses)
    if losses.get("total") in [own for name, own in losses.items() if name != "total"]:
        # A single loss is the total.
        del losses["total"]
    out = [
        _chart(
            "Losses",
            charts.lines(losses, trace.epochs, "Mean losses of each epoch", axis="epoch"),
            f"Means of {len(trace.epochs)} epochs.",
        ),
        _chart(
            "Length of tangent vectors",
            charts.lines({"radius": trace.radius}, trace.epochs, "Median radius", axis="epoch"),
            "Median length of the tangent vectors of a subspace: how far out points lie.",
        ),
    ]
    if len(trace.entropy) == len(trace.epochs):
        out.append(
            _chart(
                "Entropy of codes",
                charts.lines({"entropy": trace.entropy}, trace.epochs, "Entropy", axis="epoch"),
                "Mean entropy of the codes of a subspace of the training images, in bits.",
            )
        )
    return out


def _fact(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
