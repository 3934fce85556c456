"""The page of `benchmarks.quality`: tables and plots of its published runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.pages import (
    format_mean,
    format_number,
    listed,
    markdown_table,
    origin,
    with_kept_sections,
    write_page,
)
from benchmarks.palette import draw_level, draw_line, name_lines, new_grid, save
from benchmarks.published import (
    COMMITS,
    SetRecord,
    at_commit,
    published_sets,
    runs_file,
    shared_facts,
)
from benchmarks.quality_findings import LENGTHS, findings, summary
from benchmarks.quality_recipes import REFINED
from benchmarks.quality_rows import (
    DEPTHS,
    OURS,
    TITLES,
    Row,
    best_of,
    groups_of,
    summarize,
)
from benchmarks.runlog import Run, RunLog

RUNS = "runs.jsonl"
_MADE = (
    f"{origin('quality', 'quality-of-codes')} "
    "Values are means over the seeds; the standard deviation follows after ±. mAP@k is the mean "
    "average precision of the first k results; the average precision of a query divides by the "
    "number of relevant images among its first k results. precision@10 is the share of relevant "
    "images among the first ten results. recall@k is the share of the k exact cosine neighbours "
    "(of the network's features) among the first k results. Runs before 2026-11-28 did not record "
    "precision@10, nor mAP@1000 where the protocol has another k: their means are over the seeds "
    "that have them. Each baseline was measured with features of unit length (raw) and with "
    "power-normalized features, which hyperpq's recipes use as well (normalized: signed square "
    "root, minus the mean of the training images, unit length), and those that learn only with "
    "normalized ones. Tables show the input with the better mAP and name it in brackets. Plots "
    "show hyperpq, exact search and the best baselines: two that don't learn, by the mAP of the "
    "protocol and by mAP@10, and one that learns, by the mAP of the protocol."
)
_READING = (
    "Each cell of this table has the figures at {lengths} bits; those of the best baseline are the "
    "largest of all baselines, one by one, and those of exact search the larger of the two inputs, "
    "raw and power-normalized features. Refined: the index also keeps the features as int8, and "
    "these rank the best codes of a query again, 50 to 400 of them, as the index chooses "
    "([Refinement](../method/refine.md)). "
    "In the tables below, the best codes of each column are bold, and so are the best refined "
    "ones, and the last column has the number of seeds; baselines are "
    "[named here](../../benchmarks/README.md#quality-of-codes)."
)
# The published figures of HiHPQ on CIFAR-10 II, mAP@1000 by bits.
PUBLISHED = {16: 0.633, 32: 0.652, 64: 0.665}
_BESIDE_PUBLISHED = (
    "For comparison, HiHPQ as published has an mAP@1000 of {published} at {lengths} on CIFAR-10 II "
    "(as quoted by a later paper, CQH, 2026). It fine-tunes a VGG16 network on the training images "
    "and asks with all 10,000 test images; here the network is frozen, and the figures above show "
    "{here} queries. So the two differ in network, training and queries, not in the codes alone."
)


def write_quality_page(out: Path) -> Path:
    """Write ``quality.md`` and a plot for each data set with published runs; returns its path."""
    sections, found, measured = {}, [], []
    for record, runs in published_runs(out):
        rows = summarize(runs, record.top)
        plot = out / f"quality-{record.folder}.svg"
        if any(row.bits for row in rows):
            plot_quality(rows, plot)
        sections[f"{record.name}, {record.folder}"] = _section(record, rows, plot.name)
        found.append((record, rows))
        measured += [f"{record.folder}:", _measured_by(runs)]
    made = [_MADE, "Measured by, in the order of the sets:", *measured]
    page = out / "quality.md"
    sections = with_kept_sections(page, sections)
    told = [findings(found)]
    if table := summary(found):
        told += [_READING.format(lengths=listed([str(bits) for bits in LENGTHS])), table]
    return write_page(page, "Quality of codes", "\n\n".join(told), sections, made)


def published_runs(out: Path) -> list[tuple[SetRecord, list[Run]]]:
    """The sets whose runs are published in a folder of pages, with these runs."""
    return [
        (record, list(RunLog(runs_file(record.folder, RUNS, out)).runs.values()))
        for record in published_sets(RUNS, out)
    ]


def read_summary(out: Path) -> str:
    """The table of all published sets, which the page and the README show."""
    return summary([(record, summarize(runs, record.top)) for record, runs in published_runs(out)])


def _section(record: SetRecord, rows: list[Row], plot: str) -> str:
    """Description, plot, overviews, and a table for each code length of one data set."""
    lengths = sorted({row.bits for row in rows if row.bits})
    n, n_train = record.n_database, record.n_train - record.more
    trained = "which all" if n_train == n else f"and {n_train:,} of them"
    description = (
        f"The database has {n:,} images, {trained} train without their labels. "
        f"{record.n_query:,} other images are queries."
    )
    if record.missing:
        description += f" {record.missing} images of the published list are missing."
    if record.more:
        description += (
            f" {record.more:,} more images of the database train our recipe and all baselines, by "
            "their features alone, without labels and without views."
        )
    parts = [description]
    if lengths:
        parts.append(f"![Each depth by code length]({plot})")
    parts += [_depths(rows, bits) for bits in sorted(LENGTHS, reverse=True) if bits in lengths]
    if record.name == "CIFAR-10 II" and not record.more:
        parts.append(
            _BESIDE_PUBLISHED.format(
                published=listed([format_number(v) for v in PUBLISHED.values()]),
                lengths=listed([str(bits) for bits in PUBLISHED]) + " bits",
                here=f"{record.n_query:,}",
            )
        )
    for bits in lengths:
        parts += [f"### {record.folder}, {bits} bits", _table(rows, bits, record.top)]
    return "\n\n".join(parts)


def _measured_by(runs: list[Run]) -> str:
    """Machine, commit and command of the runs, and how many of them can be taken up again."""
    recorded = sum("digests" in run for run in runs)
    lines = [
        f"- {machine}{at_commit(one)}: `{command}`"
        for machine, command, *one in shared_facts(runs, ("machine", "command", *COMMITS))
    ]
    shared = [run["times_from"] for run in runs if "times_from" in run]
    lines += [
        f"- {shared.count(origin)} of these runs shared the machine with other work. Their times "
        f"of training and encoding were taken on {origin}."
        for origin in dict.fromkeys(shared)
    ]
    lines.append(
        f"- {recorded} of {len(runs)} runs have digests of features, protocol, recipe and code. "
        "The others are shown as they were published, and are never taken up again."
    )
    return "\n".join(lines)


def _depths(rows: list[Row], bits: int) -> str:
    """One line a method and one column a depth, at one length."""
    lines = [[f"{bits} bits", *(TITLES[measure] for measure in DEPTHS), "seeds"]]
    for group in groups_of(rows, bits):
        for row in group:
            cells = [_cell(row, measure, group, with_spread=False) for measure in DEPTHS]
            lines.append([row.label, *cells, str(row.seeds)])
    return markdown_table(lines)


def _table(rows: list[Row], bits: int, top: int) -> str:
    """All measures at one length, with their spread, and what the codes cost."""
    titles = {} if f"map{top}" in DEPTHS else {"map": f"mAP@{top}"}
    titles |= TITLES
    lines = [["", *titles.values(), "training, s", "encoding, s", "bytes", "seeds"]]
    for group in groups_of(rows, bits):
        for row in group:
            cells = [_cell(row, measure, group, with_spread=True) for measure in titles]
            seconds = [
                f"{row.mean[measure]:.1f}" if row.bits else ""
                for measure in ("train_seconds", "encode_seconds")
            ]
            lines.append([row.label, *cells, *seconds, f"{row.mean['bytes']:.0f}", str(row.seeds)])
    return markdown_table(lines)


def _cell(row: Row, measure: str, group: list[Row], with_spread: bool) -> str:
    """A mean, bold where it is the best of its group of codes; nothing for what is not recorded."""
    if measure not in row.mean:
        return ""
    is_best = bool(row.bits) and row.mean[measure] == best_of(group, measure)
    spread = row.spread[measure] if with_spread else np.nan
    return format_mean(row.mean[measure], spread, is_best)


def plotted(rows: list[Row]) -> list[str]:
    """The recipes of hyperpq, and the baselines that are best at some depth.

    These are the best by the protocol's mAP and by mAP@10 of those that don't learn, and the best
    by the protocol's mAP of those that do.
    """
    ours = (OURS, OURS + REFINED, "hyperpq balanced", "hyperpq fidelity")
    learning = [row for row in rows if row.is_baseline and row.learns]
    others = [row for row in rows if row.is_baseline and not row.learns]
    shown = [name for name in ours if any(row.name == name for row in rows)]
    for group, measure in ((others, "map"), (others, "map10"), (learning, "map")):
        shown += [name for name in _ranked(group, measure) if name not in shown][:1]
    return shown


def _ranked(rows: list[Row], measure: str) -> list[str]:
    """Names by the mean of a measure over the lengths that all of them have, the best first."""
    lengths: dict[str, set[int]] = {}
    for row in rows:
        lengths.setdefault(row.name, set()).add(row.bits)
    shared = set.intersection(*lengths.values()) if lengths else set()
    values: dict[str, float] = dict.fromkeys(lengths, 0.0)
    for row in rows:
        values[row.name] += row.mean[measure] if row.bits in shared else 0.0
    return sorted(values, key=lambda name: -values[name])


def plot_quality(rows: list[Row], file: Path) -> None:
    """Plot each depth against bits in a panel of its own, with error bars over seeds.

    The lengths are `LENGTHS`, those of the baselines that learn; if there are none, all others.
    """
    measured = sorted({row.bits for row in rows if row.bits})
    lengths = [bits for bits in measured if bits in LENGTHS] or measured
    figure, axes, corner = new_grid(len(DEPTHS))
    for axis, measure in zip(axes, DEPTHS, strict=True):
        for name in plotted(rows):
            line = [r for r in rows if r.name == name and r.bits in lengths and measure in r.mean]
            line.sort(key=lambda row: row.bits)
            at = [lengths.index(row.bits) for row in line]
            spreads = [row.spread[measure] for row in line]
            draw_line(axis, name, at, [row.mean[measure] for row in line], spreads)
        for row in rows:
            # Recall counts the exact neighbours of the raw features, which raw search finds all.
            is_given = measure == "recall10" and row.variant == "raw"
            if not row.bits and measure in row.mean and not is_given:
                draw_level(axis, row.name, row.mean[measure])
        axis.set_xticks(range(len(lengths)), [str(bits) for bits in lengths])
        axis.set_xlim(-0.2, len(lengths) - 0.8)
        axis.set_title(TITLES[measure])
    for axis in axes[-2:]:
        axis.set_xlabel("bits of a code")
    name_lines(corner, axes)
    save(figure, file)
