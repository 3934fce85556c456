"""The page of `benchmarks.scale`: tables and plots of its published records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.pages import format_number, listed, markdown_table, origin, write_page
from benchmarks.palette import add_legend, draw_level, draw_line, new_figure, save
from benchmarks.published import at_commit
from benchmarks.runlog import Run, RunLog

PUBLISHED = Path("runs/scale.jsonl")
OURS, EXHAUSTIVE, TARGET = "hyperpq", "exhaustive scan", 0.95
STEPS = ("add", "make_cells", "bytes", "open", "memory")


class Key(NamedTuple):
    """What identifies a record.

    Attributes
    ----------
    data : str
        What vectors are drawn like.
    rows, nlist, threads : int
        Numbers of codes and of cells, and threads of a search.
    method, step : str
        ``search``, or what else was measured of a method.
    nprobe : int
        Of a search; 0 of other steps.
    """

    data: str
    rows: int
    nlist: int
    threads: int
    method: str
    step: str
    nprobe: int


class Size(NamedTuple):
    """Runs that a section shows."""

    data: str
    rows: int
    nlist: int
    threads: int

    @property
    def title(self) -> str:
        """The heading of the section."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.rows:,} codes, {self.data}, {self.nlist:,} cells, {threads}"


Runs = Mapping[Key, Run]


def write_scale_page(out: Path) -> Path:
    """Write ``scale.md`` and its plots from the published records; returns its path."""
    published = RunLog(out / PUBLISHED, Key._fields).runs
    runs = {Key(*key): run for key, run in published.items()}
    sizes = sorted({Size(*key[:4]) for key in runs})
    found = [
        "A search of the nearest cells reads a small part of the codes, and misses some of the "
        "nearest ones."
    ]
    sections: dict[str, str] = {}
    for size in sizes:
        some = {key: run for key, run in runs.items() if Size(*key[:4]) == size}
        image = f"scale-{size.data}-{size.rows}-{size.nlist}-{size.threads}.svg"
        plot_recall(some, out / image)
        found.append(finding(size, some))
        sections[size.title] = "\n\n".join(
            [f"![Queries a second by recall@10]({image})", _searches(some)]
        )
    sections["Growth"] = _growth(sizes, runs)
    by_data = {size.data: [s for s in sizes if s.data == size.data] for size in sizes}
    for data, of_data in by_data.items():
        if len(of_data) > 1:
            image = f"scale-growth-{data}.svg"
            plot_growth(of_data, runs, out / image)
            sections["Growth"] = f"![Growth, {data}]({image})\n\n{sections['Growth']}"
    machines = dict.fromkeys(
        f"{run['machine']}{at_commit((run['commit'], None))}" for run in runs.values()
    )
    made = (
        f"{origin('scale', 'cells')} Codes have 8 bytes, those of IVFPQFastScan are 16 codes of 4 "
        "bits. Recall@10 is that of the own exhaustive answer of each method. All queries are "
        "searched at once, and then some of them one by one. FAISS's lists hold codes of "
        "residuals, so its exhaustive answer is another one: a recall says how well a search of "
        "some cells replaces that of all, and not how near the vectors are.",
        f"Measured on {'; '.join(machines)}. The records are in `docs/results/runs/scale.jsonl`.",
    )
    return write_page(
        out / "scale.md", "Cells at a million codes and more", " ".join(found), sections, made
    )


def curve_of(runs: Runs, method: str) -> list[Run]:
    """Searches of a method, by growing nprobe; the last one is exhaustive."""
    found = [run for key, run in runs.items() if (key.method, key.step) == (method, "search")]
    return sorted(found, key=lambda run: run["nprobe"])


def methods_of(runs: Runs) -> list[str]:
    """Methods with searches, in the order in which they were measured."""
    return list(dict.fromkeys(key.method for key in runs if key.step == "search"))


def at_recall(curve: Sequence[Run], field: str, recall: float = TARGET) -> float | None:
    """A field where the curve of some cells reaches a recall.

    It is interpolated by its logarithm between the two searches beside the recall; None where no
    search of some cells reaches it, or the first one is above it.
    """
    for low, high in pairwise(curve[:-1]):
        if low["recall"] < recall <= high["recall"]:
            share = (recall - low["recall"]) / (high["recall"] - low["recall"])
            return float(np.exp(np.log(low[field]) * (1 - share) + np.log(high[field]) * share))
    return None


def finding(size: Size, runs: Runs) -> str:
    """How fast cells are at the target, beside the exhaustive scan and FAISS."""
    curve = curve_of(runs, OURS)
    ours = at_recall(curve, "rate") if curve else None
    if ours is None:
        return f"Of {size.rows:,} codes no number of cells was measured beside a recall of .95."
    words = [f"{ours / curve[-1]['rate']:.1f} times as many as the exhaustive scan"]
    for method in methods_of(runs):
        other = at_recall(curve_of(runs, method), "rate")
        if method != OURS and other is not None:
            words.append(f"{ours / other:.1f} times as many as {method}")
    one = at_recall(curve, "one_ms")
    return (
        f"Of {size.rows:,} codes a search of cells answers {ours:,.0f} queries a second at a "
        f"recall@10 of .95, {listed(words)}; a single query takes {one:.2f} ms."
    )


def _searches(runs: Runs) -> str:
    lines = [["method", "nprobe", "recall@10", "queries/s", "one query, ms"]]
    for method in methods_of(runs):
        for run in curve_of(runs, method):
            one = f"{run['one_ms']:.2f}" if "one_ms" in run else ""
            lines.append(
                [
                    method,
                    f"{run['nprobe']:,}",
                    format_number(run["recall"]),
                    f"{run['rate']:,.0f}",
                    one,
                ]
            )
    return markdown_table(lines)


def growth_of(size: Size, runs: Runs) -> dict[str, float]:
    """What hyperpq took for so many codes, by the name of the figure; what is known of it."""
    found = {step: runs.get(Key(*size, OURS, step, 0)) for step in STEPS}
    fields = {
        "codes added a second": ("add", "rate", 1.0),
        "codes grouped by cell a second": ("make_cells", "rate", 1.0),
        "bytes a code on disk": ("bytes", "on_disk", 1.0),
        "opening, ms": ("open", "seconds", 1e3),
        "memory of searches, MB": ("memory", "resident", 1e-6),
    }
    out = {
        name: run[field] * factor
        for name, (step, field, factor) in fields.items()
        if (run := found[step]) is not None
    }
    curve = curve_of({key: run for key, run in runs.items() if Size(*key[:4]) == size}, OURS)
    if curve:
        out["queries a second, exhaustive"] = curve[-1]["rate"]
        rate = at_recall(curve, "rate")
        if rate is not None:
            out["queries a second at recall@10 .95"] = rate
    return out


def _growth(sizes: Sequence[Size], runs: Runs) -> str:
    found = [growth_of(size, runs) for size in sizes]
    names = dict.fromkeys(name for one in found for name in one)
    lines = [["", *(size.title for size in sizes)]]
    for name in names:
        values = [f"{one[name]:,.1f}" if name in one else "" for one in found]
        lines.append([name, *values])
    return markdown_table(lines)


def plot_recall(runs: Runs, file: Path) -> None:
    """Queries a second by recall, a line for each method."""
    figure, (axis,) = new_figure()
    for method in methods_of(runs):
        *some, whole = curve_of(runs, method)
        if some:
            draw_line(axis, method, [run["recall"] for run in some], [run["rate"] for run in some])
        if method == OURS:
            draw_level(axis, EXHAUSTIVE, whole["rate"], "hyperpq, exhaustive")
    axis.set_yscale("log")
    axis.set_xlabel("recall@10 of the own exhaustive answer")
    axis.set_ylabel("queries a second")
    add_legend(figure, [axis], 2)
    save(figure, file)


def plot_growth(sizes: Sequence[Size], runs: Runs, file: Path) -> None:
    """A panel for each figure of `growth_of`, by the number of codes."""
    found = [growth_of(size, runs) for size in sizes]
    names = list(dict.fromkeys(name for one in found for name in one))
    figure, axes = new_figure(len(names), 1.6)
    for axis, name in zip(axes, names, strict=True):
        points = [
            (size.rows, one[name]) for size, one in zip(sizes, found, strict=True) if name in one
        ]
        draw_line(axis, OURS, [n for n, _ in points], [value for _, value in points])
        axis.set_xscale("log")
        axis.set_ylim(0, 1.1 * axis.get_ylim()[1])
        axis.set_title(name, loc="left", fontsize=9)
    axes[-1].set_xlabel("codes")
    save(figure, file)
