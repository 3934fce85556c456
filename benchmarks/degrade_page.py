"""The page of `benchmarks.degrade`: what is left of the quality as the database grows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.pages import format_number, listed, markdown_table, origin, write_page
from benchmarks.palette import add_legend, draw_line, new_figure, save
from benchmarks.runlog import Run, RunLog

PUBLISHED = Path("runs/degrade.jsonl")
MEASURES = {
    "map10": "mAP@10",
    "map100": "mAP@100",
    "map1000": "mAP@1000",
    "precision10": "precision@10",
    "recall10": "recall@10 of the exact neighbours",
}
VIEW_NAMES = {"all": "views", "crops": "crops"}
EXACT, OURS = "exact raw", "hyperpq default"


class Key(NamedTuple):
    """What identifies a run.

    Attributes
    ----------
    set, method : str
        Data set that the queries are of, and the method.
    bits, n, seed : int
        Length of a code, rows of the database, and the seed.
    """

    set: str
    method: str
    bits: int
    n: int
    seed: int


Runs = dict[Key, Run]


def read_runs(out: Path) -> Runs:
    """The published runs."""
    return {Key(*key): run for key, run in RunLog(out / PUBLISHED, Key._fields).runs.items()}


def write_degrade_page(out: Path) -> Path:
    """Write ``degrade.md`` and its plots from the published runs; returns its path."""
    runs = read_runs(out)
    sections: dict[str, str] = {}
    found = []
    for name, bits in sorted({(key.set, key.bits) for key in runs}):
        some = {key: run for key, run in runs.items() if (key.set, key.bits) == (name, bits)}
        image = f"degrade-{label_of(name)}-{bits}.svg"
        plot(some, out / image)
        first = next(iter(some.values()))
        sections[f"{label_of(name)}, {bits} bits"] = "\n\n".join(
            [
                f"![Quality by number of rows]({image})",
                f"{first['base']:,} images of the set, {first['queries']:,} queries; all further "
                "rows are distractors.",
                *(f"{label}:\n\n{_table(some, measure)}" for measure, label in MEASURES.items()),
            ]
        )
        found.append(finding(some))
    return write_page(
        out / "degrade.md",
        "Quality against the size of the database",
        " ".join(found),
        sections,
        made_of(runs),
    )


def label_of(name: str) -> str:
    """The name of a data set without the number of its queries."""
    return name.partition("-q")[0]


def value_of(runs: Runs, method: str, n: int, measure: str) -> float | None:
    """Mean over seeds; None if it was not measured."""
    values = [run[measure] for key, run in runs.items() if (key.method, key.n) == (method, n)]
    return sum(values) / len(values) if values else None


def sizes_of(runs: Runs) -> list[int]:
    """Numbers of rows, sorted."""
    return sorted({key.n for key in runs})


def methods_of(runs: Runs) -> list[str]:
    """Methods in the order in which they were measured."""
    return list(dict.fromkeys(key.method for key in runs))


def finding(runs: Runs) -> str:
    """What is left at the largest size, of the default codes and of the others."""
    sizes, (name, *_) = sizes_of(runs), next(iter(runs))
    low, high = sizes[0], sizes[-1]
    changes = {}
    for method in methods_of(runs):
        start, end = (value_of(runs, method, n, "map100") for n in (low, high))
        if start and end is not None:
            changes[method] = start, end, (end - start) / start
    words = [
        f"{method} from {format_number(start)} to {format_number(end)} ({100 * change:+.1f} %)"
        for method, (start, end, change) in changes.items()
    ]
    text = (
        f"As the database grows from {low:,} to {high:,} rows, of which {low:,} are images of "
        f"{label_of(name)} and the others belong to no query, mAP@100 goes for {listed(words)}."
    )
    if OURS in changes and EXACT in changes:
        ours, exact = changes[OURS], changes[EXACT]
        if ours[2] < exact[2] - 0.005:
            text += (
                " The default codes lose more than the features do, because they learned from the "
                "images of the set alone; an index learns again when it has outgrown its codec."
            )
        if ours[1] > exact[1]:
            text += " At the largest size they are better than exact search of the features."
    return text


def _table(runs: Runs, measure: str) -> str:
    sizes = sizes_of(runs)
    lines = [["method", *(f"{n:,}" for n in sizes)]]
    for method in methods_of(runs):
        values = [value_of(runs, method, n, measure) for n in sizes]
        lines.append([method, *("" if v is None else format_number(v) for v in values)])
    return markdown_table(lines)


def plot(runs: Runs, file: Path) -> None:
    """mAP@100, precision@10 and recall@10 by number of rows."""
    shown = ("map100", "precision10", "recall10")
    figure, axes = new_figure(len(shown))
    for axis, measure in zip(axes, shown, strict=True):
        for method in methods_of(runs):
            points = [
                (n, value)
                for n in sizes_of(runs)
                if (value := value_of(runs, method, n, measure)) is not None
            ]
            if not (measure == "recall10" and method == EXACT):
                draw_line(axis, method, [n for n, _ in points], [value for _, value in points])
        axis.set_xscale("log")
        axis.set_ylabel(MEASURES[measure].partition(" of")[0])
        axis.set_xlabel("rows of the database")
    add_legend(figure, axes)
    save(figure, file)


def made_of(runs: Runs) -> list[str]:
    """How the runs were made."""
    machines = sorted({f"{run['machine']} ({run['device']})" for run in runs.values()})
    others = sorted({name for run in runs.values() for name in run["others"]})
    views = {(run["views"], run["precision"]) for run in runs.values() if run["views"]}
    kinds = [f"images and views of {listed(others)}"] if others else []
    kinds += [
        f"{VIEW_NAMES[name]} of the images of a folder, encoded in {precision}"
        for name, precision in sorted(views)
    ]
    return [
        origin("degrade", "quality-against-the-size-of-the-database"),
        f"Measured on {listed(machines)}. Distractors are {listed(kinds)}. The codecs learned from "
        "the training images of the set alone, and mAP@k counts what is relevant among the first k "
        "results.",
    ]
