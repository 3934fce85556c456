"""The page of `benchmarks.scan`: tables and a plot of its published runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.pages import listed, markdown_table, origin, write_page
from benchmarks.palette import add_legend, draw_line, new_figure, save
from benchmarks.published import COMMITS, at_commit, shared_facts
from benchmarks.runlog import Run, RunLog

INDEX_PQ, FAST_SCAN, IVF_FAST_SCAN = "IndexPQ", "IndexPQFastScan", "IndexIVFPQFastScan"
FAST_SCAN_AVX2 = "IndexPQFastScan, AVX2"
EVERY_BYTE = "every byte once"
# The section whose results are plotted.
PLOTTED = "Collections and lengths"


class Case(NamedTuple):
    """What is searched.

    Attributes
    ----------
    data : {"clustered", "uniform", "real", "default codec", "fidelity codec"}
        Kind of the vectors.
    n, size : int
        Number of vectors, and bytes of each.
    batch, k, threads : int
        Number of queries in a search, of results for each, and of threads.
    """

    data: str
    n: int
    size: int
    batch: int = 1
    k: int = 10
    threads: int = 1


class Rate(NamedTuple):
    """Vectors a second: the median of the turns, and half their interquartile range over it."""

    median: float
    spread: float


Rates = dict[str, Rate]

RUNS = Path("runs/scan.jsonl")
FIELDS = ("section", *Case._fields)
# What the best level is compared with, and its name in the titles of the columns.
_RATIOS = {INDEX_PQ: INDEX_PQ, FAST_SCAN: "FastScan", EVERY_BYTE: EVERY_BYTE}
# Methods of the plot besides the best level; the table has them all.
_DRAWN = ("avx2", "neon", INDEX_PQ, FAST_SCAN, EVERY_BYTE)


def case_of(run: Run) -> Case:
    """The case of a recorded run."""
    return Case(*(run[field] for field in Case._fields))


def rates_of(run: Run) -> Rates:
    """The rates of a recorded run by method."""
    return {name: Rate(*rate) for name, rate in run["rates"].items()}


def published_cases(out: Path) -> set[tuple[str, Case]]:
    """The sections and cases that the page has."""
    runs = RunLog(out / RUNS, FIELDS).runs.values()
    return {(run["section"], case_of(run)) for run in runs}


def write_scan_page(out: Path) -> Path:
    """Write ``scan.md`` and its plot from the published runs; returns its path."""
    runs = list(RunLog(out / RUNS, FIELDS).runs.values())
    by_section: dict[str, dict[Case, Rates]] = {}
    for run in runs:
        by_section.setdefault(run["section"], {})[case_of(run)] = rates_of(run)
    sections = {}
    for title, results in by_section.items():
        sections[title] = _table(results)
        if title == PLOTTED:
            plot(results, out / "scan.svg")
            image = "![million vectors a second against bytes a vector](scan.svg)"
            sections[title] = f"{image}\n\n{sections[title]}"
    best = next(iter(rates_of(runs[0])))
    machines = shared_facts(runs, ("machine", *COMMITS))
    measured = "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
    made = [_made(best), f"Measured on {measured}."]
    everything = {case_of(run): rates_of(run) for run in runs}
    return write_page(out / "scan.md", "The scan", findings(everything), sections, made)


def findings(results: dict[Case, Rates]) -> str:
    """Rates of one thread in the largest collection, and where another index is faster."""
    best = next(iter(next(iter(results.values()))))
    plain = [c for c in results if (c.data, c.k, c.threads) == ("clustered", 10, 1)]
    size = 8 if any(case.size == 8 for case in plain) else min(case.size for case in plain)
    largest = max(case.n for case in plain if case.size == size)
    shown = [case for case in plain if (case.size, case.n) == (size, largest)]
    batches = [str(case.batch) for case in shown]

    def rates(name: str) -> str:
        return listed([f"{results[case][name].median / 1e6:,.0f}" for case in shown])

    behind = {
        other: [case for case, found in results.items() if found[best] < found[other]]
        for other in (INDEX_PQ, FAST_SCAN)
    }
    sizes = sorted({case.n for case in behind[FAST_SCAN]})
    narrow = [r for r in results.values() if {"avx2", FAST_SCAN_AVX2} <= set(r)]
    losses = sum(rates["avx2"] < rates[FAST_SCAN_AVX2] for rates in narrow)
    where = f" The latter have {listed([f'{n:,}' for n in sizes])} vectors." if sizes else ""
    return (
        f"With {largest:,} codes of {size} bytes and one thread, the scan of hyperpq (`{best}`) "
        f"compares {rates(best)} million vectors a second for batches of {listed(batches)} "
        f"queries. `{INDEX_PQ}` compares {rates(INDEX_PQ)} million, and `{FAST_SCAN}`, whose codes "
        f"have 4 bits, {rates(FAST_SCAN)} million. Of {len(results)} cases, `{INDEX_PQ}` is ahead "
        f"in {len(behind[INDEX_PQ])}, and `{FAST_SCAN}` in {len(behind[FAST_SCAN])}.{where}"
        + (f" With AVX2 alone for both, FastScan is ahead in {losses}." if narrow else "")
    )


def _made(best: str) -> str:
    """How the page is made, and how its cells are to be read."""
    return (
        f"{origin('scan', 'the-scan')} "
        "Cells are million vectors a second: the median of the turns ± half their "
        f"interquartile range; ratios are those of `{best}`. With one thread, the time is that of "
        "the process, otherwise that of the clock. All methods use the same number of "
        "bytes for each vector: hyperpq and IndexPQ have codes of 8 bits, and the FastScan "
        "indexes have twice as many codes of 4 bits. The codewords of IndexPQ are put in the order "
        "that PQCodec.fit gives its own. IndexIVFPQFastScan searches a thirty-second "
        f'of its lists and is shown for context. "{EVERY_BYTE}" loads the codes and does nothing '
        "with them; a scan that excludes rows by their first bytes can be faster. Error bars of "
        "the plot are half interquartile ranges."
    )


def _table(results: dict[Case, Rates]) -> str:
    """Millions of vectors a second, and the ratios of the best level to others."""
    names = list(next(iter(results.values())))
    narrow = "avx2" in names and FAST_SCAN_AVX2 in names
    titles = [f"over {name}" for name in _RATIOS.values()]
    if narrow:
        titles.append("avx2 over FastScan, AVX2")
    lines = [["million vectors a second", *names, *titles]]
    for case, rates in results.items():
        cells = [f"{r.median / 1e6:,.0f} ±{100 * r.spread:.0f} %" for r in rates.values()]
        best = rates[names[0]].median
        ratios = [f"**{best / rates[other].median:.2g}**" for other in _RATIOS]
        if narrow:
            ratios.append(f"**{rates['avx2'].median / rates[FAST_SCAN_AVX2].median:.2g}**")
        lines.append([label(case), *cells, *ratios])
    return markdown_table(lines)


def label(case: Case) -> str:
    """A case in words."""
    return (
        f"{case.data}, {case.n:,} x {case.size} bytes, batch {case.batch}, k {case.k}, "
        f"{case.threads} thread{'s' if case.threads > 1 else ''}"
    )


def plot(results: dict[Case, Rates], file: Path) -> None:
    """Plot vectors a second against bytes a vector, for the largest collection."""
    largest = max(case.n for case in results)
    best = next(iter(next(iter(results.values()))))
    figure, axes = new_figure(2, 2.4)
    for axis, batch in zip(axes, (1, 64), strict=True):
        chosen = {c.size: r for c, r in results.items() if (c.n, c.batch) == (largest, batch)}
        sizes = list(chosen)
        axis.set(xscale="log", yscale="log")
        for name in dict.fromkeys((best, *_DRAWN)):
            if all(name in rates for rates in chosen.values()):
                middle = [chosen[size][name].median / 1e6 for size in sizes]
                spread = [
                    chosen[size][name].spread * m for size, m in zip(sizes, middle, strict=True)
                ]
                is_other = name in _RATIOS
                draw_line(
                    axis, name, sizes, middle, spread, name if is_other else f"hyperpq, {name}"
                )
        axis.set_xticks(sizes, list(map(str, sizes)))
        ticks = [10**power for power in range(5) if axis.get_ylim()[0] <= 10**power]
        axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.set_ylabel(f"batch {batch}")
    axes[-1].set_xlabel(f"bytes a vector ({largest:,} vectors, one thread)")
    figure.supylabel("million vectors a second", fontsize="medium")
    add_legend(figure, axes, columns=2)
    save(figure, file)
