"""The page of `benchmarks.levels`: a table and a plot of the published runs of each set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.pages import (
    format_mean,
    format_number,
    listed,
    markdown_table,
    origin,
    spread_of,
    write_page,
)
from benchmarks.palette import SHADES, add_legend, new_figure, save
from benchmarks.published import (
    COMMITS,
    SetRecord,
    at_commit,
    published_sets,
    runs_file,
    shared_facts,
)
from benchmarks.runlog import Run, RunLog

RUNS, FIELDS = "levels.jsonl", ("variant", "seed")
# Bits of the codes, and k of mAP@k at every level.
BITS, TOP = 32, 100
LEVEL_NAMES = ("class", "parent", "root")


@dataclass(frozen=True)
class Variant:
    """What is searched with.

    Attributes
    ----------
    name : str
    changes : dict
        Fields of the default recipe and their values.
    levels : tuple of int or "tree", optional
        Clusters of the hierarchical prototypes; ``"tree"``: as many as the tree has classes.
    baseline : str, optional
        ``exact raw``, ``exact normalized`` or a baseline, in place of hyperpq.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    levels: tuple[int, ...] | Literal["tree"] | None = None
    baseline: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether no seed has an effect."""
        return self.baseline.startswith("exact")


_FLAT = {"geometry": "euclidean", "train_curvature": False, "curvature": 1.0}
_NO_GRAPH = {"graph_neighbours": 0, "graph_steps": 0, "walk_steps": 0, "positive_weight": 1.0}
_CLUSTERS = (100, 50, 25)
BASE = "hyperbolic"
VARIANTS = (
    Variant(BASE),
    Variant("hyperbolic, 100, 50 and 25 prototypes", levels=_CLUSTERS),
    Variant("hyperbolic, prototypes as the tree", levels="tree"),
    Variant("flat", _FLAT),
    Variant("flat, 100, 50 and 25 prototypes", _FLAT, _CLUSTERS),
    Variant("flat, prototypes as the tree", _FLAT, "tree"),
    Variant("no graph, hyperbolic", _NO_GRAPH),
    Variant("no graph, hyperbolic, 100, 50 and 25 prototypes", _NO_GRAPH, _CLUSTERS),
    Variant("no graph, flat", _NO_GRAPH | _FLAT),
    Variant("no graph, flat, 100, 50 and 25 prototypes", _NO_GRAPH | _FLAT, _CLUSTERS),
    Variant("rq, normalized", baseline="rq"),
    Variant("pq, normalized", baseline="pq"),
    Variant("exact normalized", baseline="exact normalized"),
    Variant("exact raw", baseline="exact raw"),
)
# What is compared in the sentences of the page: with and without one thing, all else the same.
_PAIRS = (
    ("hyperbolic geometry in place of flat", BASE, "flat"),
    ("prototypes in hyperbolic space", "hyperbolic, 100, 50 and 25 prototypes", BASE),
    (
        "prototypes without the neighbour graph",
        "no graph, hyperbolic, 100, 50 and 25 prototypes",
        "no graph, hyperbolic",
    ),
)
_MADE = (
    f"{origin('levels', 'levels-of-a-hierarchy')} Codes have {BITS} bits. A result is relevant if "
    "it is of the query's class, of the same parent (Apple), or of the same root (Fruit). "
    "Hierarchical precision is the mean similarity of the first ten results, over the most that "
    "the database allows; the similarity of two images is the share of the three levels at which "
    "they are of one class (Barz and Denzler, 2019). Prototypes are the hierarchical prototypes of "
    "the paper with the weight 1: so many at each level, or as many as the tree has classes. "
    "Without the graph, the positives of an image are its views, as published. All recipes run "
    "without the held-out acceptance check. Values are means over the seeds, with the standard "
    "deviation after ±."
)

Floats = NDArray[np.float64]
Found = dict[str, Floats]


def summarize(runs: Sequence[Run]) -> Found:
    """Figures of each variant, shape (seeds, 7): mAP and precision by level, and hierarchical."""
    out: dict[str, list[list[float]]] = {}
    for one in sorted(runs, key=lambda run: int(run["seed"])):
        values = [*one["map"], *one["precision"], one["hierarchical"]]
        out.setdefault(one["variant"], []).append(values)
    return {name: np.array(values) for name, values in out.items()}


def write_levels_page(out: Path) -> Path:
    """Write ``levels.md`` and a plot for each set with published runs; returns its path."""
    sections, findings, made = {}, [], [_MADE]
    for record in published_sets(RUNS, out):
        runs = list(RunLog(runs_file(record.folder, RUNS, out), FIELDS).runs.values())
        found = summarize(runs)
        plot = out / f"levels-{record.folder}.svg"
        plot_gains(found, plot)
        sections[record.name] = "\n\n".join(
            [
                f"{record.n_database:,} images of {record.n_classes} classes are searched, and "
                f"{record.n_query:,} others are queries.",
                _table(found),
                f"![mAP@{TOP} less that of the default, by level]({plot.name})",
            ]
        )
        findings.append(_sentences(record, found))
        machines = shared_facts(runs, ("machine", *COMMITS))
        made.append(
            f"{record.folder} was measured on "
            + "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
            + "."
        )
    title = "Levels of a hierarchy"
    return write_page(out / "levels.md", title, "\n\n".join(findings), sections, made)


def _sentences(record: SetRecord, found: Found) -> str:
    """What geometry and prototypes are worth at each level of one set."""
    texts = []
    for what, one, other in _PAIRS:
        if one in found and other in found:
            gains = _differences(found[one], found[other])[:, : len(LEVEL_NAMES)]
            shown = [_signed(float(mean)) for mean in gains.mean(0)]
            spreads = [format_number(float(s)) for s in np.nan_to_num(spread_of(gains))]
            texts.append(f"{what}: {listed(shown)} (± {listed(spreads)})")
    levels = listed([f"by {name}" for name in LEVEL_NAMES])
    base = [format_number(float(v)) for v in found[BASE].mean(0)[: len(LEVEL_NAMES)]]
    return (
        f"On {record.name}, the default recipe has an mAP@{TOP} of {listed(base)} {levels}. "
        f"Differences at these levels: {'; '.join(texts)}."
    )


def _differences(values: Floats, base: Floats) -> Floats:
    """Differences of two variants (seeds, figures), for the seeds of both."""
    both = min(len(values), len(base))
    return np.asarray(values[:both] - base[:both])


def _signed(value: float) -> str:
    """A difference with its sign, as in ``+.012``."""
    return ("-" if value < 0 else "+") + format_number(abs(value))


def _table(found: Found) -> str:
    """A row for each variant; the best codes of each column are bold."""
    names = [v for v in VARIANTS if v.name in found]
    figures = [f"mAP@{TOP}, {level}" for level in LEVEL_NAMES]
    figures += [f"precision@10, {level}" for level in LEVEL_NAMES] + ["hierarchical precision@10"]
    best = np.max([found[v.name].mean(0) for v in names if not v.is_exact], axis=0)
    lines = [["", *figures, "seeds"]]
    for variant in names:
        values = found[variant.name]
        row = [
            format_mean(float(m), float(s), bold=bool(m >= b) and not variant.is_exact)
            for m, s, b in zip(values.mean(0), spread_of(values), best, strict=True)
        ]
        lines.append([variant.name, *row, str(len(values))])
    return markdown_table(lines)


def plot_gains(found: Found, file: Path) -> None:
    """Plot mAP of each variant of hyperpq less that of the default: a bar for each level."""
    shown = [v for v in VARIANTS if v.name in found and not v.baseline and v.name != BASE]
    figure, [axis] = new_figure(height=0.6 + 0.36 * max(len(shown), 1))
    height = 0.8 / len(LEVEL_NAMES)
    for i, level in enumerate(LEVEL_NAMES):
        gains = [_differences(found[v.name], found[BASE])[:, i] for v in shown]
        axis.barh(
            [at - 0.4 + height * (i + 0.5) for at in range(len(shown))],
            [gain.mean() for gain in gains],
            height,
            xerr=[np.nan_to_num(spread_of(gain)) for gain in gains],
            error_kw={"linewidth": 0.7},
            color=SHADES[i],
            label=level,
        )
    names = [v.name.replace(", 100", ",\n100") for v in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=9.5, linespacing=0.9)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.axvline(0, color="#333", linewidth=0.8)
    axis.set_xlabel(f"mAP@{TOP} less that of the default")
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#ddd")
    axis.spines["left"].set_visible(False)
    add_legend(figure, [axis])
    save(figure, file)
