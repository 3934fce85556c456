"""The page of `benchmarks.growth`: a plot and tables of its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from benchmarks.published import at_commit
from benchmarks.runlog import Run, RunLog
from hyperpq.images.relearning import POLICY

BYTES, TOP, QUERIES = 8, 10, 1000
STAYED, RELEARNED, ANEW = METHODS = ("not relearned", "relearned", "built anew")
# Published runs, and the fields that identify one.
PUBLISHED, FIELDS = Path("runs/growth.jsonl"), ("curve", "seed")
# The runs that are no curves.
KINDS, TIMES = "kinds of images", "times of learning again"
# What the policy must keep to.
TOLERANCE = 0.02

Step = Mapping[str, Any]


def write_growth_page(out: Path, curves: Sequence[str]) -> Path:
    """Write ``growth.md`` and its plot from the published runs; returns the page's path.

    Parameters
    ----------
    out : Path
        Folder of the page.
    curves : sequence of str
        Curves in the order of the page.
    """
    runs = RunLog(out / PUBLISHED, FIELDS).runs
    seeds: dict[str, list[Run]] = {
        name: [run for (curve, _), run in sorted(runs.items()) if curve == name]
        for name in curves
        if (name, 0) in runs
    }
    lost = {
        method: max(
            step["precision"][ANEW] - step["precision"][method]
            for found in seeds.values()
            for run in found
            for step in run["steps"]
        )
        for method in (STAYED, RELEARNED)
    }
    plot = plot_curves(seeds, out / "growth.svg")
    found = (
        "An index that keeps its first codec while it grows loses up to "
        f"{format_number(lost[STAYED])} of its precision@{TOP}: the codec has not learned what "
        "came later. With the automatic policy the index was never more than "
        f"{format_number(max(lost[RELEARNED], 0.0))} below one that is built anew from the same "
        f"images, after every step of every curve (accepted: {format_number(TOLERANCE)})."
    )
    sections = {f"Precision@{TOP} after each step": f"![Precision by images]({plot.name})"}
    sections |= {name: _curve_table(found) for name, found in seeds.items()}
    sections["When an update learns again"] = policy_text(runs)
    if (KINDS, 0) in runs:
        sections["Images of another kind"] = (
            _KINDS_TEXT + "\n\n" + kinds_table(runs[KINDS, 0]["steps"])
        )
    made = (
        f"{origin('growth', 'an-index-that-grows')} Codes have {BYTES * 8} bits. Where an index "
        f"has fewer than {TOP} images of the class of a query, that many results count, and "
        f"queries of classes that it has no image of are left out; up to {QUERIES:,} queries of "
        "each kind are searched, and kinds weigh as much as they have images. Learning again uses "
        "the kept features (int8), without views; an index that is built anew learns with four "
        "augmented views of each photograph, as a build with `--n-views 4` does. "
        f"{_seeds_text(seeds)}",
        "Measured on "
        + "; ".join(dict.fromkeys(map(_measured_on, runs.values())))
        + ". The runs are in `docs/results/runs/growth.jsonl`.",
    )
    return write_page(out / "growth.md", "An index that grows", found, sections, made)


def _measured_on(run: Run) -> str:
    threads = run["threads"]
    thread = f"{threads} thread{'s' * (threads > 1)}"
    return f"{run['machine']}, {thread}{at_commit((run['commit'], None))}"


def _seeds_text(seeds: Mapping[str, Sequence[Run]]) -> str:
    """How many runs each curve has, in words."""
    by_number: dict[int, list[str]] = {}
    for name, runs in seeds.items():
        by_number.setdefault(len(runs), []).append(name)
    if list(by_number) == [1]:
        return "Each curve was run once, with seed 0, so the figures have no spread."
    parts = [
        f"{'once' if n == 1 else f'with {n} seeds'}: {listed(names)}"
        for n, names in sorted(by_number.items())
    ]
    return f"Curves were run {'; '.join(parts)}. Figures with ± are means and standard deviations."


def _curve_table(runs: Sequence[Run]) -> str:
    lines = [["images", *METHODS, "new images of another kind", "learned from", "learned again"]]
    for step, rows in enumerate(zip(*(run["steps"] for run in runs), strict=True)):
        values = np.array([[row["precision"][method] for method in METHODS] for row in rows])
        cells = [format_mean(*both) for both in zip(values.mean(0), spread_of(values), strict=True)]
        numbers = " + ".join(f"{n:,}" for n in rows[0]["numbers"])
        unlike = f"{np.mean([row['unlike'] for row in rows]):.0%}" if step else ""
        again = _listed(_why(row["reason"]) for row in rows) if step else ""
        learned = _listed(f"{row['learned from']:,}" for row in rows)
        lines.append([numbers, *cells, unlike, learned, again])
    return markdown_table(lines)


def _listed(words: Iterable[str]) -> str:
    """The different words, as in ``no or growth``."""
    return " or ".join(dict.fromkeys(words))


def _why(reason: str | None) -> str:
    if reason is None:
        return "no"
    # Runs before 2026-11-29 say "unlike".
    return "another kind" if "kind" in reason or "unlike" in reason else "growth"


def policy_text(runs: Mapping[tuple[Any, ...], Run]) -> str:
    """The policy in words, with its present numbers, and what the runs say of it."""
    costs = [
        f"{what} cost {format_number(found)}"
        for what, found in (
            (
                "four images of other classes among 400 of one class of CIFAR-10",
                _cost(runs.get(("CIFAR-10, one class, then ten", 0)), [400, 4]),
            ),
            (
                "8 of other scenes among 800 of five",
                _cost(runs.get(("Five scenes, then 15", 0)), [800, 8]),
            ),
        )
        if found is not None
    ]
    lines = [["learned from", "learned again with more than", "or with so many of another kind"]]
    before = 0.0
    for one in POLICY.limits:
        size = f"up to {one.up_to:,.0f}" if one.up_to < math.inf else f"more than {before:,.0f}"
        growth = f"{one.growth:.2f} times as many" if one.growth > 1 else "as many"
        lines.append([f"{size} images", growth, f"{one.unlike:.0%}"])
        before = one.up_to
    return (
        "An update stores its images first, and then learns again if the index has more images "
        "than its codec was learned from, or images of another kind:\n\n"
        + markdown_table(lines)
        + "\n\n"
        "Images beyond the largest sample (`train_size`, 25,000) do not count, so an index that "
        "has reached it learns again for images of another kind only. The limits are narrow for "
        "small indexes. Images that a codec has not seen lie near the middle of its space and so "
        "near every query. "
        + (f"Of the precision@{TOP} of queries, {listed(costs)}. " if costs else "")
        + "A large sample gains little from more: with 25,000 images instead of 5,000 the mAP@10 "
        "of CIFAR-10 at 64 bits is .735 instead of .718 ([quality](quality.md))."
        + (times_text(runs[TIMES, 0]) if (TIMES, 0) in runs else "")
        + "\n\n"
        '`--no-relearn` (`relearn="never"`) switches it off. A warning then names the remedy if '
        'there are twice as many images, or 5% of another kind. `--relearn` (`relearn="now"`) '
        "learns again in any case."
    )


def _cost(run: Run | None, numbers: list[int]) -> float | None:
    """What the images of a step cost an index that did not learn again."""
    steps = run["steps"] if run else []
    lost = [
        step["precision"][ANEW] - step["precision"][STAYED]
        for step in steps
        if step["numbers"] == numbers
    ]
    return lost[0] if lost else None


def times_text(times: Run) -> str:
    """What learning again takes, in words."""
    steps, threads = times["steps"], times["threads"]
    figures = listed([f"{one['processor']:g} s with {one['n']:,}" for one in steps])
    return (
        f" On {threads} thread{'s' * (threads > 1)}, learning again took {figures} images "
        "(CIFAR-10, features in memory; seconds of the processor, as other work shared the "
        "machine)."
    )


_KINDS_TEXT = (
    "An index keeps a summary of the features that its codec was learned from: 8 centroids of one "
    "half of them, and the distance from these that a tenth of the other half exceeds. Features of "
    "the same kind exceed it as often; what exceeds it beyond that is of another kind. The table "
    "has this share. Of a class that is among the learned ones nothing is new, however many of its "
    "images come. Quantization errors and distances in the space of the codec were tried, and do "
    "not tell the two apart: with codecs of 250 to 1,000 images, new images of the same kind have "
    "1.6 to 3 times the quantization error of the learned ones, as codebooks are fitted to these; "
    "and a codec of one class places drawings no farther from its sample than further images of "
    "the class."
)


def kinds_table(found: Sequence[Step]) -> str:
    """Shares of images of another kind, by what was learned from and what is new."""
    columns = ["more of the same", "one of the classes", "other classes", "other photographs"]
    columns.append("drawings")
    lines = [["learned from", *columns]]
    for one in found:
        shares = [f"{one['shares'][name]:.0%}" if name in one["shares"] else "" for name in columns]
        lines.append([f"{one['n']:,}: {one['learned']}", *shares])
    return markdown_table(lines)


def plot_curves(seeds: Mapping[str, Sequence[Run]], file: Path) -> Path:
    """Plot precision@10 by number of images, a panel for each curve; means of its seeds."""
    figure, panels = new_figure(len(seeds), 2.0)
    for panel, (name, runs) in zip(panels, seeds.items(), strict=True):
        rows = runs[0]["steps"]
        # The steps side by side: some add four images, some a thousand.
        x = list(range(len(rows)))
        for method in METHODS:
            found = [[row["precision"][method] for row in run["steps"]] for run in runs]
            draw_line(panel, method, x, np.mean(found, 0))
        panel.set_xticks(x, [f"{sum(row['numbers']):,}" for row in rows])
        panel.set_ylim(0, 1.05)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_ylabel(f"precision@{TOP}")
    panels[-1].set_xlabel("images in the index after each step")
    add_legend(figure, panels)
    save(figure, file)
    return file
