"""The page of `benchmarks.quality`: tables and plots of its published runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    with_kept_sections,
    write_page,
)
from benchmarks.palette import add_legend, draw_level, draw_line, new_figure, save
from benchmarks.published import (
    COMMITS,
    SetRecord,
    at_commit,
    published_sets,
    runs_file,
    shared_facts,
)
from benchmarks.runlog import Run, RunLog

RUNS = "runs.jsonl"
MEASURES = ("map", "map100", "map10", "precision10", "recall10", "recall100")
_TITLES = ("mAP@100", "mAP@10", "precision@10", "recall@10", "recall@100")
_AVERAGED = (*MEASURES, "train_seconds", "encode_seconds", "bytes")
OURS = "hyperpq default"
_MADE = (
    f"{origin('quality', 'quality-of-codes')} "
    "Values are means over the seeds; the standard deviation follows after ±. mAP@k is the mean "
    "average precision of the first k results; the average precision of a query divides by the "
    "number of relevant images among its first k results. precision@10 is the share of relevant "
    "images among the first ten results; runs before 2026-11-28 did not record it, and its mean is "
    "over the seeds that have it. recall@k is the share of the k exact cosine neighbours (of the "
    "network's features) among the first k results. Each baseline was measured with features of "
    "unit length (raw) and with power-normalized features, which hyperpq's recipes use as well "
    "(normalized: signed square root, minus the mean of the training images, unit length). Tables "
    "show the input with the better mAP and name it in brackets. The best codes are bold; exact "
    "search has no codes. Plots show hyperpq, exact search and the best baselines: two by the mAP "
    "of the protocol, and one by mAP@10."
)
# The published figures of HiHPQ on CIFAR-10 II, mAP@1000 by bits.
PUBLISHED = {16: 0.633, 32: 0.652, 64: 0.665}
_BESIDE_PUBLISHED = (
    "For comparison, HiHPQ as published has an mAP@1000 of {published} at {lengths} on CIFAR-10 II "
    "(as quoted by a later paper, CQH, 2026). It fine-tunes a VGG16 network on the training images "
    "and asks with all 10,000 test images; here the network is frozen, and the figures above show "
    "{here} queries. So the two differ in network, training and queries, not in the codes alone."
)


class Row(NamedTuple):
    """The results of one method at one code length.

    Attributes
    ----------
    name : str
        Name in the tables.
    variant : str
        The recipe, or the input of the baseline.
    bits : int
        Length of a code; 0 for exact search.
    seeds : int
        Number of runs.
    mean, spread : dict
        Mean over seeds of each measure, and its standard deviation (n - 1), NaN for one run. A
        measure that no run recorded is missing.
    """

    name: str
    variant: str
    bits: int
    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]

    @property
    def is_ours(self) -> bool:
        """Whether a recipe of hyperpq made the codes."""
        return self.name.startswith("hyperpq")


def summarize(runs: Iterable[Run]) -> list[Row]:
    """Means over seeds, best mAP first; of the two inputs of a baseline only the better one."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["variant"], run["bits"]), []).append(run)
    best: dict[tuple[str, int], Row] = {}
    for (method, variant, bits), group in groups.items():
        name = f"{method} {variant}" if method in ("exact", "hyperpq") else method
        recorded = {m: [run[m] for run in group if m in run] for m in _AVERAGED}
        values = {m: np.array(found, float) for m, found in recorded.items() if found}
        spread = {measure: float(spread_of(v)) for measure, v in values.items()}
        mean = {measure: float(v.mean()) for measure, v in values.items()}
        row = Row(name, variant, bits, len(group), mean, spread)
        other = best.get((name, bits))
        if other is None or mean["map"] > other.mean["map"]:
            best[name, bits] = row
    return sorted(best.values(), key=lambda row: -row.mean["map"])


def write_quality_page(out: Path) -> Path:
    """Write ``quality.md`` and a plot for each data set with published runs; returns its path."""
    sections, found, measured = {}, [], []
    for record in published_sets(RUNS, out):
        runs = list(RunLog(runs_file(record.folder, RUNS, out)).runs.values())
        rows = summarize(runs)
        plot = out / f"quality-{record.folder}.svg"
        if any(row.bits for row in rows):
            plot_quality(rows, record.top, plot)
        sections[f"{record.name}, {record.folder}"] = _section(record, rows, plot.name)
        found.append((record, rows))
        measured += [f"{record.folder}:", _measured_by(runs)]
    made = [_MADE, "Measured by, in the order of the sets:", *measured]
    page = out / "quality.md"
    sections = with_kept_sections(page, sections)
    return write_page(page, "Quality of codes", findings(found), sections, made)


def findings(sets: Sequence[tuple[SetRecord, list[Row]]]) -> str:
    """What was found, in a sentence for each of at most three sets, and one for the first ten."""
    compared = [one for one in sets if not one[0].more and _by_length(one[1], "map")[0]][:3]
    if not compared:
        return "No data set was measured with the default recipe and with baselines."
    sentences = [_first_sentence(record, rows) for record, rows in compared]
    return " ".join([*sentences, _sentence_of_ten(*compared[0])])


def _by_length(rows: list[Row], measure: str) -> tuple[list[int], list[float], list[float]]:
    """Lengths (those of `PUBLISHED` if measured), ours, and the best baseline of each length."""
    ours = {row.bits: row.mean[measure] for row in rows if row.name == OURS}
    others: dict[int, float] = {}
    for row in rows:
        if row.bits and not row.is_ours:
            others[row.bits] = max(others.get(row.bits, 0.0), row.mean[measure])
    both = set(ours) & set(others)
    lengths = sorted(both & set(PUBLISHED) or both)
    return lengths, [ours[bits] for bits in lengths], [others[bits] for bits in lengths]


def _first_sentence(record: SetRecord, rows: list[Row]) -> str:
    """MAP of ours, the best baseline and exact search on one set."""
    lengths, ours, best = _by_length(rows, "map")
    exact = {row.variant: row.mean["map"] for row in rows if not row.bits}
    return (
        f"On {record.name}, the default recipe of hyperpq has an mAP@{record.top} of "
        f"{_figures(ours)} at {listed(list(map(str, lengths)))} bits; the best baseline of each "
        f"length has {_figures(best)}, and exact search on the features has "
        f"{format_number(exact['raw'])}, or {format_number(exact['normalized'])} if they are "
        "power-normalized."
    )


def _sentence_of_ten(record: SetRecord, rows: list[Row]) -> str:
    """MAP@10 of ours, the best baseline and exact search on one set."""
    _, ours, best = _by_length(rows, "map10")
    exact = max(row.mean["map10"] for row in rows if not row.bits)
    return (
        f"Among the first ten results of {record.name} the order is another one: mAP@10 is "
        f"{_figures(ours)}, the best baseline of each length has {_figures(best)}, and exact "
        f"search has {format_number(exact)}."
    )


def _figures(values: Sequence[float]) -> str:
    """Figures in a sentence."""
    return listed([format_number(value) for value in values])


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
        parts.append(f"![mAP and recall by code length]({plot})")
    for measure, title in (("map", f"mAP@{record.top}"), ("map10", "mAP@10")):
        if lengths:
            parts += [f"{title}:", _overview(rows, lengths, measure)]
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


def _overview(rows: list[Row], lengths: list[int], measure: str) -> str:
    """One measure of each method at each length: codes by their best length, then exact search."""
    found = {(row.name, row.bits): row for row in rows}
    best = {bits: max(row.mean[measure] for row in rows if row.bits == bits) for bits in lengths}
    lines = [["", *(f"{bits} bits" for bits in lengths)]]
    for name in dict.fromkeys(row.name for row in rows if row.bits):
        cells = []
        for bits in lengths:
            row = found.get((name, bits))
            cells.append(_cell(row, measure, row.mean[measure] == best[bits]) if row else "")
        lines.append([name, *cells])
    for row in rows:
        if not row.bits:
            lines.append([row.name, *[_cell(row, measure, False)] * len(lengths)])
    return markdown_table(lines)


def _table(rows: list[Row], bits: int, top: int) -> str:
    """All measures at one length."""
    titles = dict(zip(MEASURES, (f"mAP@{top}", *_TITLES), strict=True))
    if top == 100:
        del titles["map100"]
    lines = [["", *titles.values(), "training, s", "encoding, s", "bytes", "seeds"]]
    coded = [row for row in rows if row.bits == bits]
    best = {m: max((row.mean[m] for row in coded if m in row.mean), default=0.0) for m in titles}
    for row in coded + [row for row in rows if not row.bits]:
        name = f"{row.name} ({row.variant})" if row.variant not in row.name else row.name
        cells = [_cell(row, m, bool(row.bits) and row.mean.get(m) == best[m]) for m in titles]
        seconds = [
            f"{row.mean[measure]:.1f}" if row.bits else ""
            for measure in ("train_seconds", "encode_seconds")
        ]
        lines.append([name, *cells, *seconds, f"{row.mean['bytes']:.0f}", str(row.seeds)])
    return markdown_table(lines)


def _cell(row: Row, measure: str, bold: bool) -> str:
    """A mean and its spread; nothing for what was not recorded."""
    if measure not in row.mean:
        return ""
    return format_mean(row.mean[measure], row.spread[measure], bold)


def plotted(rows: list[Row]) -> list[str]:
    """The default recipe, the two best baselines by mAP, and the best other one by mAP@10."""
    baselines = [row for row in rows if row.bits and not row.is_ours]
    lengths: dict[str, set[int]] = {}
    for row in baselines:
        lengths.setdefault(row.name, set()).add(row.bits)
    # Some baselines lack the shortest or the longest codes; the mean is over those of all.
    shared = set.intersection(*lengths.values()) if lengths else set()

    def ranked(measure: str) -> list[str]:
        values: dict[str, float] = dict.fromkeys(lengths, 0.0)
        for row in baselines:
            values[row.name] += row.mean[measure] if row.bits in shared else 0.0
        return sorted(values, key=lambda name: -values[name])

    shown = ranked("map")[:2]
    shown += [name for name in ranked("map10") if name not in shown][:1]
    return [name for name in (OURS, *shown) if any(row.name == name for row in rows)]


def plot_quality(rows: list[Row], top: int, file: Path) -> None:
    """Plot mAP, mAP@10 and recall@100 against bits, with error bars over seeds."""
    lengths = sorted({row.bits for row in rows if row.bits})
    measures = {"map": f"mAP@{top}", "map10": "mAP@10", "recall100": "recall@100"}
    figure, axes = new_figure(len(measures), 2.1)
    for axis, (measure, title) in zip(axes, measures.items(), strict=True):
        for name in plotted(rows):
            line = sorted((r for r in rows if r.name == name and r.bits), key=lambda r: r.bits)
            at = [lengths.index(row.bits) for row in line]
            spreads = [row.spread[measure] for row in line]
            draw_line(axis, name, at, [row.mean[measure] for row in line], spreads)
        for row in rows:
            # Recall counts the exact neighbours of the raw features, which raw search finds all.
            if not row.bits and (measure != "recall100" or row.variant != "raw"):
                draw_level(axis, row.name, row.mean[measure])
        axis.set_xticks(range(len(lengths)), [str(bits) for bits in lengths])
        axis.margins(x=0.06)
        axis.set_ylabel(title)
    axes[-1].set_xlabel("bits of a code")
    add_legend(figure, axes)
    save(figure, file)
