"""The page of `benchmarks.growth`: a plot and tables of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import format_number, markdown_table, origin, write_page
from benchmarks.palette import add_legend, draw_line, new_figure, save
from benchmarks.runlog import RunLog
from hyperpq.images.relearning import POLICY

BYTES, TOP, QUERIES = 8, 10, 1000
STAYED, RELEARNED, ANEW = METHODS = ("not relearned", "relearned", "built anew")
# The run that is no curve.
KINDS = "kinds of images"
# What the policy must keep to.
TOLERANCE = 0.02

Step = Mapping[str, Any]


def write_growth_page(log: RunLog, curves: Sequence[str], out: Path) -> Path:
    """Write ``growth.md`` and its plot; returns the page's path.

    Parameters
    ----------
    log : RunLog
        The runs of `benchmarks.growth`.
    curves : sequence of str
        Curves in the order of the page.
    out : Path
        Folder of the page.
    """
    steps: dict[str, list[Step]] = {
        name: log.runs[name,]["steps"] for name in curves if (name,) in log
    }
    lost = {
        method: max(
            step["precision"][ANEW] - step["precision"][method]
            for found in steps.values()
            for step in found
        )
        for method in (STAYED, RELEARNED)
    }
    plot = plot_curves(steps, out / "growth.svg")
    found = (
        "An index that keeps its first codec while it grows loses up to "
        f"{format_number(lost[STAYED])} of its precision@{TOP}: the codec has not learned what "
        "came later. With the automatic policy the index is never more than "
        f"{format_number(max(lost[RELEARNED], 0.0))} below one that is built anew from the same "
        f"images, after every step of every curve (accepted: {format_number(TOLERANCE)})."
    )
    sections = {f"Precision@{TOP} after each step": f"![Precision by images]({plot.name})"}
    sections |= {name: _curve_table(rows) for name, rows in steps.items()}
    sections["When an update learns again"] = policy_text()
    if (KINDS,) in log:
        sections["Images of another kind"] = (
            _KINDS_TEXT + "\n\n" + kinds_table(log.runs[KINDS,]["steps"])
        )
    machines = dict.fromkeys(run["machine"] for run in log.runs.values())
    made = (
        f"{origin('growth', 'an-index-that-grows')} Codes have {BYTES * 8} bits. Where an index "
        f"has fewer than {TOP} images of the class of a query, that many results count, and "
        f"queries of classes that it has no image of are left out; up to {QUERIES:,} queries of "
        "each kind are searched, and kinds weigh as much as they have images. Learning again uses "
        "the kept features (int8), without views; an index that is built anew learns with four "
        "augmented views of each photograph, as a build does. One seed.",
        "Measured on " + "; ".join(machines) + ".",
    )
    return write_page(out / "growth.md", "An index that grows", found, sections, made)


def _curve_table(rows: Sequence[Step]) -> str:
    lines = [["images", *METHODS, "new images of another kind", "learned from", "learned again"]]
    for row in rows:
        values = [format_number(row["precision"][method]) for method in METHODS]
        numbers = " + ".join(f"{n:,}" for n in row["numbers"])
        unlike = "" if row is rows[0] else f"{row['unlike']:.0%}"
        again = "" if row is rows[0] else _why(row["reason"])
        lines.append([numbers, *values, unlike, f"{row['learned from']:,}", again])
    return markdown_table(lines)


def _why(reason: str | None) -> str:
    if reason is None:
        return "no"
    return "another kind" if "unlike" in reason else "growth"


def policy_text() -> str:
    """The policy in words, with its present numbers."""
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
        "near every query: four images of other classes among 400 of one class of CIFAR-10 cost "
        "its queries .094 precision@10, and 8 of other scenes among 800 of five cost .022. From "
        "5,000 to 25,000 images the mAP@10 of CIFAR-10 rises by no more than .018. Up to 160 "
        "images learning again takes a second, with 1,000 about 15 s on one core, with 5,000 a "
        "minute, and with 25,000 three.\n\n"
        '`--no-relearn` (`relearn="never"`) switches it off. A warning then names the remedy if '
        'there are twice as many images, or 5% of another kind. `--relearn` (`relearn="now"`) '
        "learns again in any case."
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


def plot_curves(steps: Mapping[str, Sequence[Step]], file: Path) -> Path:
    """Plot precision@10 by number of images, a panel for each curve."""
    figure, panels = new_figure(len(steps), 2.0)
    for panel, (name, rows) in zip(panels, steps.items(), strict=True):
        # The steps side by side: some add four images, some a thousand.
        x = list(range(len(rows)))
        for method in METHODS:
            draw_line(panel, method, x, [row["precision"][method] for row in rows])
        panel.set_xticks(x, [f"{sum(row['numbers']):,}" for row in rows])
        panel.set_ylim(0, 1.05)
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_ylabel(f"precision@{TOP}")
    panels[-1].set_xlabel("images in the index after each step")
    add_legend(figure, panels)
    save(figure, file)
    return file
