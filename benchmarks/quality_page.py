"""The page of `benchmarks.quality`: tables and plots of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.featuresets import read_protocol
from benchmarks.pages import format_mean, import_pyplot, markdown_table, origin, spread_of
from benchmarks.runlog import Run, RunLog, publish

RUNS = "runs.jsonl"
MEASURES = ("map", "map100", "map10", "recall10", "recall100")
_TITLES = ("mAP@100", "mAP@10", "recall@10", "recall@100")
_AVERAGED = (*MEASURES, "train_seconds", "encode_seconds", "bytes")
_MARKERS = "ovsDP^<>pX*hd"
_INTRODUCTION = (
    f"{origin('quality', 'quality-of-codes')} "
    "Values are means over the seeds; the standard deviation follows after ±. mAP@k is the mean "
    "average precision of the first k results; the average precision of a query divides by the "
    "number of relevant images among its first k results. recall@k is the share of the k exact "
    "cosine neighbours (of the network's features) among the first k results. Each baseline was "
    "measured with features of unit length (raw) and with power-normalized features, which "
    "hyperpq's recipes use as well (normalized: signed square root, minus the mean of the training "
    "images, unit length). Tables show the input with the better mAP and name it in brackets. The "
    "best codes are bold; exact search has no codes."
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
        Mean over seeds of each measure, and its standard deviation (n - 1), NaN for one run.
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
        values = {
            measure: np.array([run[measure] for run in group], float) for measure in _AVERAGED
        }
        spread = {measure: float(spread_of(v)) for measure, v in values.items()}
        mean = {measure: float(v.mean()) for measure, v in values.items()}
        row = Row(name, variant, bits, len(group), mean, spread)
        other = best.get((name, bits))
        if other is None or mean["map"] > other.mean["map"]:
            best[name, bits] = row
    return sorted(best.values(), key=lambda row: -row.mean["map"])


def write_page(cache: Path, out: Path) -> Path:
    """Write ``quality.md`` and a plot for each data set of the cache; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    sections = ["# Quality of codes", _INTRODUCTION]
    for file in sorted(cache.glob(f"*/{RUNS}")):
        runs = list(RunLog(file).runs.values())
        if runs:
            sections.append(_section(file.parent, runs, out))
            publish(file, out)
    page = out / "quality.md"
    page.write_text("\n\n".join(sections) + "\n", "utf-8")
    return page


def _section(folder: Path, runs: list[Run], out: Path) -> str:
    """Description, overview, a table for each code length, and the commands of one data set."""
    rows = summarize(runs)
    source = folder / "source.json"
    origin = json.loads(source.read_text()) if source.exists() else {"features": folder.name}
    protocol, train_rows = read_protocol(folder.parent / origin["features"])
    more = origin.get("more", 0)
    plot = out / f"quality-{folder.name}.svg"
    plot_quality(rows, protocol.top, plot)
    lengths = sorted({row.bits for row in rows if row.bits})
    n, n_train = len(protocol.database.labels), len(train_rows)
    trained = "which all" if n_train == n else f"and {n_train:,} of them"
    description = (
        f"The database has {n:,} images, {trained} train without their labels. "
        f"{len(protocol.query.labels):,} other images are queries."
    )
    if protocol.missing:
        description += f" {protocol.missing} images of the published list are missing."
    if more:
        description += (
            f" {more:,} more images of the database train our recipe and all baselines, by their "
            "features alone, without labels and without views."
        )
    sections = [
        f"## {protocol.name}, {folder.name}",
        description,
        f"![mAP and recall by code length]({plot.name})",
        f"mAP@{protocol.top}:",
        _overview(rows, lengths),
    ]
    for bits in lengths:
        sections += [f"### {folder.name}, {bits} bits", _table(rows, bits, protocol.top)]
    commands = {(run["machine"], run["command"]): None for run in runs}
    sections += [
        "Measured by:",
        "\n".join(f"- {machine}: `{command}`" for machine, command in commands),
    ]
    return "\n\n".join(sections)


def _overview(rows: list[Row], lengths: list[int]) -> str:
    """MAP of each method at each length; codes by their best length, then exact search."""
    found = {(row.name, row.bits): row for row in rows}
    best = {bits: max(row.mean["map"] for row in rows if row.bits == bits) for bits in lengths}
    lines = [["", *(f"{bits} bits" for bits in lengths)]]
    for name in dict.fromkeys(row.name for row in rows if row.bits):
        cells = []
        for bits in lengths:
            row = found.get((name, bits))
            cells.append(_cell(row, "map", row.mean["map"] == best[bits]) if row else "")
        lines.append([name, *cells])
    for row in rows:
        if not row.bits:
            lines.append([row.name, *[_cell(row, "map", False)] * len(lengths)])
    return markdown_table(lines)


def _table(rows: list[Row], bits: int, top: int) -> str:
    """All measures at one length."""
    titles = dict(zip(MEASURES, (f"mAP@{top}", *_TITLES), strict=True))
    if top == 100:
        del titles["map100"]
    lines = [["", *titles.values(), "training, s", "encoding, s", "bytes", "seeds"]]
    coded = [row for row in rows if row.bits == bits]
    best = {measure: max(row.mean[measure] for row in coded) for measure in titles}
    for row in coded + [row for row in rows if not row.bits]:
        name = f"{row.name} ({row.variant})" if row.variant not in row.name else row.name
        cells = [_cell(row, m, bool(row.bits) and row.mean[m] == best[m]) for m in titles]
        seconds = [
            f"{row.mean[measure]:.1f}" if row.bits else ""
            for measure in ("train_seconds", "encode_seconds")
        ]
        lines.append([name, *cells, *seconds, f"{row.mean['bytes']:.0f}", str(row.seeds)])
    return markdown_table(lines)


def _cell(row: Row, measure: str, bold: bool) -> str:
    return format_mean(row.mean[measure], row.spread[measure], bold)


def plot_quality(rows: list[Row], top: int, file: Path) -> None:
    """Plot mAP and recall@100 against bits: a line for each method, bars for the spread."""
    plt = import_pyplot()
    lengths = sorted({row.bits for row in rows if row.bits})
    names = list(dict.fromkeys(row.name for row in rows if row.bits))
    ours = list(dict.fromkeys(row.name for row in rows if row.bits and row.is_ours))
    colours = dict(zip(ours, ("#d62728", "#ff9e4a"), strict=False))
    muted = plt.get_cmap("tab20b").colors
    baselines = [name for name in names if name not in ours]
    colours |= {name: muted[i * 3 % 20] for i, name in enumerate(baselines)}
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for panel, (measure, title) in zip(
        panels, (("map", f"mAP@{top}"), ("recall100", "recall@100")), strict=True
    ):
        for number, name in enumerate(names):
            line = sorted((r for r in rows if r.name == name and r.bits), key=lambda r: r.bits)
            is_ours = name in ours
            panel.errorbar(
                [lengths.index(row.bits) for row in line],
                [row.mean[measure] for row in line],
                [np.nan_to_num(row.spread[measure]) for row in line],
                label=name,
                color=colours[name],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=2.6 if is_ours else 1.2,
                markersize=6 if is_ours else 4.5,
                capsize=2,
                zorder=3 if is_ours else 2,
            )
        for row, dash in zip((r for r in rows if not r.bits), ("--", ":"), strict=False):
            # Recall counts the exact neighbours of the raw features, which raw search finds all.
            if measure == "map" or row.variant != "raw":
                panel.axhline(row.mean[measure], label=row.name, color="#555", linestyle=dash, lw=1)
        panel.set_xticks(range(len(lengths)), [str(bits) for bits in lengths])
        panel.margins(x=0.08)
        panel.set_xlabel("bits")
        panel.set_title(title)
        panel.grid(axis="y", color="#ddd")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=150)
    plt.close(figure)
