"""The page of what was measured on a GPU; each benchmark adds a section of its published runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.finetune_page import finetune_texts
from benchmarks.pages import listed, markdown_table, origin, write_page
from benchmarks.published import COMMITS, at_commit, shared_facts
from benchmarks.runlog import Run, RunLog

OURS, PASS, EVERY_BYTE = "hyperpq", "hyperpq, the pass alone", "every byte once"
SCAN_RUNS = Path("runs/gpu-scan.jsonl")


class Case(NamedTuple):
    """What is searched on a GPU.

    Attributes
    ----------
    device : str
        Name of the GPU.
    data : {"random", "clustered"}
        Random codes, or those of vectors around centres.
    n, size : int
        Number of rows, and bytes of each.
    batch, k : int
        Number of queries in a search, and of results for each.
    """

    device: str
    data: str
    n: int
    size: int
    batch: int
    k: int = 10


FIELDS = Case._fields


class Section(NamedTuple):
    """A section of the page.

    Attributes
    ----------
    found : str
        What was found, in one or two sentences.
    text : str
        Its tables.
    made : str
        How they are made.
    """

    found: str
    text: str
    made: str


def scan_section(out: Path) -> Section | None:
    """The scan; None if nothing is published."""
    runs = list(RunLog(out / SCAN_RUNS, FIELDS).runs.values())
    if not runs:
        return None
    order = sorted(runs, key=lambda run: [str(run["data"]), run["size"], run["n"], run["batch"]])
    tables = [_scan_table([run for run in order if run["data"] == data]) for data in _kinds(order)]
    machines = shared_facts(order, ("machine", *COMMITS))
    measured = "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
    made = (
        f"{origin('gpu_scan', 'the-scan-on-a-gpu')} Cells are billion codes a second, rows times "
        "queries: the median of the turns ± half their interquartile range. A search begins and "
        f'ends in the memory of the host; "{PASS}" is the kernel that reads all codes, and '
        f'"{EVERY_BYTE}" a sum of all codes, which only reads them. Tables of hyperpq are made '
        "before; the peers make theirs in the search, and search all of their lists. In brackets "
        "is the recall of the ten nearest vectors among ten results. "
        f"Measured on {measured}."
    )
    return Section(_scan_found(order), "\n\n".join(tables), made)


def _kinds(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(str(run["data"]) for run in runs))


def _scan_found(runs: list[Run]) -> str:
    """Rates of the largest collection, and those of the best peer."""
    largest = max(run["n"] for run in runs)
    shown = [run for run in runs if run["n"] == largest and run["data"] == runs[-1]["data"]]
    rates = [f"{_rate(run, OURS):.3g} for {_queries(run['batch'])}" for run in shown]
    text = (
        f"On one {runs[-1]['device']}, a search of {largest:,} codes of {shown[0]['size']} bytes "
        f"compares {listed(rates)} in billions a second."
    )
    with_peers = [run for run in runs if _peers(run)]
    if with_peers:
        run = with_peers[-1]
        name = max(_peers(run), key=lambda peer: _rate(run, peer))
        times = _rate(run, OURS) / _rate(run, name)
        text += (
            f" With {run['n']:,} vectors and {_queries(run['batch'])} that is {times:.2g} times "
            f"the rate of `{name}`."
        )
    return text


def _queries(batch: int) -> str:
    return "one query" if batch == 1 else f"{batch} queries"


def _peers(run: Run) -> list[str]:
    return [name for name in run["rates"] if not name.startswith(OURS) and name != EVERY_BYTE]


def _rate(run: Run, name: str) -> float:
    """Billion codes a second."""
    return float(run["rates"][name]["median"]) / 1e9


def _scan_table(runs: list[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run["rates"]))
    lines = [["billion codes a second", *names]]
    for run in runs:
        cells = []
        for name in names:
            one = run["rates"].get(name)
            if one is None:
                cells.append("")
                continue
            recall = one["recall"]
            text = f"{one['median'] / 1e9:.3g} ±{100 * one['spread']:.0f} %"
            cells.append(text if recall is None else f"{text} ({recall:.3f})")
        title = f"{run['data']}, {run['n']:,} x {run['size']} bytes, {_queries(run['batch'])}"
        lines.append([title, *cells])
    return markdown_table(lines)


def finetune_section(out: Path) -> Section | None:
    """Fine-tuning; None if nothing is published."""
    texts = finetune_texts(out)
    return Section(*texts) if texts is not None else None


SECTIONS: dict[str, Callable[[Path], Section | None]] = {
    "Search": scan_section,
    "Fine-tuning": finetune_section,
}
"""Sections by their headings; each has its runs in ``runs`` beside the page."""


def write_gpu_page(out: Path) -> Path:
    """Write ``gpu.md`` from the published runs of every section; returns its path."""
    found = {title: make(out) for title, make in SECTIONS.items()}
    there = {title: section for title, section in found.items() if section is not None}
    return write_page(
        out / "gpu.md",
        "On a GPU",
        " ".join(section.found for section in there.values()),
        {title: section.text for title, section in there.items()},
        [section.made for section in there.values()],
    )
