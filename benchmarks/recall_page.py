"""The page of `benchmarks.recall`: tables and a plot of its published runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.pages import format_number, listed, markdown_table, origin, write_page
from benchmarks.palette import add_legend, draw_line, new_figure, save
from benchmarks.published import at_commit
from benchmarks.recall_ours import CANDIDATES, CORRECTED
from benchmarks.runlog import Run, RunLog

PUBLISHED = Path("runs/recall.jsonl")
# Parts of the page: recall by size, what the rows are like, and refinement.
CURVES, ROWS, REFINE = "curves", "rows", "refine"
REFINE_FLAT, LONG_PQ = "IndexRefineFlat", "IndexPQ of as many bytes"
# The only method of the part ROWS.
DISTANCES = "distances"
EXACT_CODES = "hyperpq fidelity"
CORRECTED_CODES = EXACT_CODES + CORRECTED
OURS = "hyperpq"
# Methods whose codes are made for images that belong together.
OTHER_AIM = ("hyperpq balanced", "hyperpq default")
METRICS = {"cosine": "cosine", "l2": "Euclidean"}
RANKS = (1, 10, 100, 1000)


class Key(NamedTuple):
    """What identifies a run.

    Attributes
    ----------
    part : str
        `CURVES`, `ROWS` or `REFINE`.
    method, metric : str
        ``cosine`` or ``l2`` by which rows are neighbours.
    bytes, n, seed : int
        Bytes of the codewords of a row, number of rows, and the seed.
    """

    part: str
    method: str
    metric: str
    bytes: int
    n: int
    seed: int


Runs = dict[Key, Run]


def read_runs(out: Path) -> Runs:
    """The published runs."""
    runs = RunLog(out / PUBLISHED, Key._fields).runs
    return {Key(*key): run for key, run in runs.items()}


def write_recall_page(out: Path) -> Path:
    """Write ``recall.md`` and its plot from the published runs; returns its path."""
    runs = read_runs(out)
    curves = _part(runs, CURVES)
    sections: dict[str, str] = {}
    for metric, size in cases_of(curves):
        some = _of(curves, metric, size)
        text = f"Recall@1, @10 and @100 by number of rows:\n\n{_by_size(some)}\n\n{_by_rank(some)}"
        if not sections:
            plot(some, out / "recall.svg")
            text = f"![Recall by number of rows and of results](recall.svg)\n\n{text}"
        sections[f"{METRICS[metric].capitalize()} neighbours, {size} bytes"] = text
    refined = _part(runs, REFINE)
    if refined:
        sections["Refinement"] = _refinement(refined)
    if distances := _part(runs, ROWS):
        sections["The rows"] = _rows(distances)
    found = " ".join([*findings(curves), *refine_findings(refined)])
    title = "Recall of exact neighbours"
    return write_page(out / "recall.md", title, found, sections, _made(runs))


def _part(runs: Runs, part: str) -> Runs:
    return {key: run for key, run in runs.items() if key.part == part}


def cases_of(curves: Iterable[Key]) -> list[tuple[str, int]]:
    """Metrics and bytes; cosine and eight bytes first."""
    found = {(key.metric, key.bytes) for key in curves}
    return sorted(found, key=lambda case: (case[1] != 8, list(METRICS).index(case[0]), case[1]))


def _of(curves: Runs, metric: str, size: int) -> Runs:
    return {k: run for k, run in curves.items() if (k.metric, k.bytes) == (metric, size)}


def mean_of(runs: Runs, method: str, n: int, measure: str, rank: int) -> float | None:
    """The mean over seeds of a measure; None if nothing was measured."""
    found = [
        run[measure][str(rank)] for key, run in runs.items() if (key.method, key.n) == (method, n)
    ]
    return sum(found) / len(found) if found else None


def _stored(runs: Runs, method: str) -> int:
    """Bytes of a row."""
    return next(int(run["stored"]) for key, run in runs.items() if key.method == method)


def _methods(runs: Runs) -> list[str]:
    """The methods, best recall@10 in the largest database first."""
    sizes = sorted({key.n for key in runs}, reverse=True)

    def order(name: str) -> list[float]:
        # A method that was not measured in the largest database comes last.
        found = [mean_of(runs, name, n, "recall", 10) for n in sizes]
        return [1.0 if value is None else -value for value in found]

    return sorted({key.method for key in runs}, key=order)


def _label(runs: Runs, method: str) -> str:
    """The name, with the bytes of a row if they are more than those of the others."""
    size, stored = next(iter(runs)).bytes, _stored(runs, method)
    return method if stored == size else f"{method} ({stored} bytes)"


def _cells(values: Sequence[float | None], best: Sequence[float | None]) -> list[str]:
    """Numbers, the best of each column in bold."""
    out = []
    for value, most in zip(values, best, strict=True):
        text = "" if value is None else format_number(value)
        out.append(f"**{text}**" if text and most is not None and value == most else text)
    return out


def _table(runs: Runs, header: Sequence[str], values: dict[str, list[float | None]]) -> str:
    """A line for each method; the best of as many bytes is bold."""
    size = next(iter(runs)).bytes
    equal = [found for name, found in values.items() if _stored(runs, name) == size]
    best = [
        max((v for v in column if v is not None), default=None)
        for column in zip(*equal, strict=True)
    ]
    lines = [[_label(runs, name), *_cells(found, best)] for name, found in values.items()]
    return markdown_table([["", *header], *lines])


def _by_size(runs: Runs) -> str:
    sizes = sorted({key.n for key in runs})
    values = {
        name: [mean_of(runs, name, n, "recall", k) for n in sizes for k in (1, 10, 100)]
        for name in _methods(runs)
    }
    header = [f"{n:,}: @1" if k == 1 else f"@{k}" for n in sizes for k in (1, 10, 100)]
    return _table(runs, header, values)


def _by_rank(runs: Runs) -> str:
    largest = max(key.n for key in runs)
    names = [m for m in _methods(runs) if mean_of(runs, m, largest, "recall", 10) is not None]
    # One result holds a tenth of the ten nearest at most.
    columns = [("nearest", r) for r in RANKS] + [("ten", r) for r in RANKS[1:]]
    values = {
        name: [mean_of(runs, name, largest, measure, r) for measure, r in columns] for name in names
    }
    header = [f"{what} in {r:,}" for what, r in columns]
    return (
        f"Among {largest:,} rows, share of the nearest row and of the ten nearest in the first "
        f"results:\n\n{_table(runs, header, values)}"
    )


def findings(curves: Runs) -> list[str]:
    """What is ahead and what is behind, in sentences."""
    out, behind = [], []
    total = plain = corrected = 0
    for metric, size in cases_of(curves):
        some = _of(curves, metric, size)
        for n in sorted({key.n for key in some}):
            for rank in (1, 10, 100):
                ours = mean_of(some, EXACT_CODES, n, "recall", rank)
                best = best_baseline(some, n, rank)
                if ours is None or best is None:
                    continue
                again = mean_of(some, CORRECTED_CODES, n, "recall", rank) or ours
                total, plain = total + 1, plain + (ours > best[1])
                corrected += again > best[1]
                if max(ours, again) <= best[1]:
                    behind.append(
                        f"recall@{rank} of {METRICS[metric]} neighbours among {n:,} rows with "
                        f"{size} bytes ({format_number(max(ours, again))}, `{best[0]}` "
                        f"{format_number(best[1])})"
                    )
        if size == 8:
            out += _case_findings(some, metric)
    if total:
        text = (
            f"Of {total} figures of recall@1, @10 and @100, these codes lead in {plain}, and in "
            f"{corrected} with `refine={CANDIDATES}`"
        )
        out.append(
            f"{text}. Either way they are behind in {listed(behind)}." if behind else f"{text}."
        )
    return out


def best_baseline(some: Runs, n: int, rank: int) -> tuple[str, float] | None:
    """The baseline with the best recall@rank among n rows, of those with as many bytes."""
    found = {
        key.method: mean_of(some, key.method, n, "recall", rank)
        for key, run in some.items()
        if not key.method.startswith(OURS) and key.n == n and run["stored"] == key.bytes
    }
    known = {name: value for name, value in found.items() if value is not None}
    return max(known.items(), key=lambda pair: pair[1]) if known else None


def _case_findings(some: Runs, metric: str) -> list[str]:
    largest = max(key.n for key in some)
    size = next(iter(some)).bytes
    ours, best = mean_of(some, EXACT_CODES, largest, "recall", 10), best_baseline(some, largest, 10)
    if ours is None or best is None:
        return []
    out = [
        f'Among {largest:,} rows, {size}-byte codes of `objective="fidelity"` have a recall@10 of '
        f"{format_number(ours)} for {METRICS[metric]} neighbours; the best baseline of as many "
        f"bytes, `{best[0]}`, has {format_number(best[1])}."
    ]
    corrected = mean_of(some, CORRECTED_CODES, largest, "recall", 10)
    if corrected is not None:
        out.append(
            f"Searched with `refine={CANDIDATES}`, which needs no kept features, they have "
            f"{format_number(corrected)}."
        )
    others = [
        f"{name.removeprefix('hyperpq ')} codes {format_number(value)}"
        for name in OTHER_AIM
        if (value := mean_of(some, name, largest, "recall", 10)) is not None
    ]
    if others:
        out.append(
            f"Codes that are made for images that belong together find fewer exact neighbours than "
            f"most baselines do: {listed(others)}."
        )
    return out


def refine_findings(refined: Runs) -> list[str]:
    """What refinement reaches, in sentences."""
    known = {key.method: run for key, run in refined.items()}
    ours, faiss, long = (
        known.get(name) for name in ("hyperpq fidelity, refined", REFINE_FLAT, LONG_PQ)
    )
    if not (ours and faiss and long):
        return []
    default = known["hyperpq default, refined"]
    texts = [
        f"{name} {format_number(run['recall']['10'])} with {run['stored']:,} bytes a row"
        for name, run in (
            ("fidelity codes have a recall@10 of", ours),
            ("default codes", default),
            (f"`{REFINE_FLAT}` over `IndexPQ`", faiss),
            (LONG_PQ.replace("IndexPQ", "`IndexPQ`"), long),
        )
    ]
    return [f"Refined by kept features, {listed(texts)}."]


def _refinement(refined: Runs) -> str:
    lines = [["", "bytes a row", "recall@1", "recall@10", "recall@100", "time of a query"]]
    base = next(run["ms"] for key, run in refined.items() if key.method == "IndexPQ")
    for key, run in refined.items():
        recall = [format_number(run["recall"][str(k)]) for k in (1, 10, 100)]
        lines.append([key.method, f"{run['stored']:,}", *recall, f"{run['ms'] / base:.2g}"])
    first = next(iter(refined))
    return (
        f"{first.n:,} real rows, cosine neighbours. Refinement ranks {CANDIDATES} candidates "
        "again. hyperpq keeps features as int8. Fidelity codes are ranked by the cosine of these "
        "alone. For default codes the distance of the code and that of the power-normalized "
        "features are added up, so the ranking it comes near to is not that of the cosine of the "
        "features as they are. `IndexRefineFlat` keeps float32 features. Codes are trained anew "
        "for "
        "this table, those of `IndexPQ` from another seed, so recall differs from that of the "
        "tables above by up to .015, about its standard error. Times are medians of "
        "single queries for ten results, methods in turn, as multiples of that of `IndexPQ` with "
        f"{first.bytes} bytes; other processes ran beside them.\n\n{markdown_table(lines)}"
    )


def _rows(distances: Runs) -> str:
    parts = []
    for key, run in distances.items():
        lines = [["rows", "to the first", "to the tenth", "to the hundredth", "dimension", "opq"]]
        for step in run["steps"]:
            radii = [f"{radius:.3f}" for radius in step["radii"]]
            what = {"all": "the database", "real": "real alone", "made": "made alone"}[step["rows"]]
            recall = format_number(step["recall"]) if "recall" in step else ""
            dimension = f"{step['dimension']:.1f}"
            lines.append([f"{step['n']:,}, {what}", *radii, dimension, recall])
        text = f"{METRICS[key.metric].capitalize()}:\n\n{markdown_table(lines)}"
        parts.append(f"{text}\n\n{_crowding(run)}".rstrip())
    real = next(iter(distances.values()))["real"]
    return (
        f"The first {real:,} rows of a database are features of photographs. The others are made: "
        "a real row, moved a little towards one of its neighbours and by a part of the difference "
        "of two others (`benchmarks/recall_sets.py`). The queries are real. The tables have the "
        "mean distance of a query to its neighbours, its local intrinsic dimension (maximum "
        "likelihood, 100 neighbours, median), and recall@10 of `opq` codes of 8 bytes. Real and "
        "made rows that are searched alone, as many of both, show how similar made rows are to "
        "real ones.\n\n" + "\n\n".join(parts)
    )


def _crowding(run: Run) -> str:
    """What many made rows around each real one do to the neighbours of a query."""
    whole = [step for step in run["steps"] if step["rows"] == "all"]
    real = max((step for step in whole if step["n"] <= run["real"]), key=lambda step: step["n"])
    if whole[-1]["dimension"] < 1.1 * real["dimension"]:
        return ""
    return (
        f"Where many made rows lie around each real one, the dimension rises, from "
        f"{real['dimension']:.0f} among {real['n']:,} rows to {whole[-1]['dimension']:.0f} among "
        f"{whole[-1]['n']:,}. So the neighbours of a query differ less in their distances than "
        "those in as many photographs would, and recall there is rather too low, for every method."
    )


def _made(runs: Runs) -> list[str]:
    facts = {
        f"{run['machine']}, {run['threads']} thread{'s' * (run['threads'] > 1)}, "
        f"{run['versions']}{at_commit((run['commit'], None))}"
        for run in runs.values()
    }
    first = next(iter(runs.values()))
    seeds = len({key.seed for key in runs})
    error = (0.25 * 0.75 / first["queries"]) ** 0.5
    return [
        f"{origin('recall', 'recall-of-exact-neighbours')} All methods train on the same "
        f"{first['train']:,} rows, the first of the database, without views, and are searched with "
        f"the same {first['queries']:,} queries. recall@k is the share of the k nearest rows among "
        f"the first k results; a recall@1 of .25 has a standard error of {format_number(error)}. "
        "Baselines are those of the [quality of codes](quality.md); "
        "`rabitq` stores 8 bytes more than the others. `scann` and `scann_dot` are the asymmetric "
        "hashing of ScaNN 1.4 with its anisotropic loss, after PCA, for squared distances and for "
        "inner products. `hyperpq fidelity, corrected` has the codes of `hyperpq fidelity`; the "
        f"first {CANDIDATES} of a search are ranked again by what the whole code says of its "
        f"distance (`refine={CANDIDATES}` on an index without features). "
        + ("One seed." if seeds == 1 else f"Means of {seeds} seeds."),
        "Measured on "
        + "; ".join(sorted(facts))
        + ". The runs are in `docs/results/runs/recall.jsonl`.",
    ]


def plot(runs: Runs, file: Path) -> None:
    """Plot recall@10 by number of rows, and the nearest row found by number of results."""
    figure, (by_size, by_rank) = new_figure(2, 3.0)
    largest = max(key.n for key in runs)
    names = _methods(runs)
    for name in names:
        sizes = sorted({key.n for key in runs if key.method == name})
        recall = [mean_of(runs, name, n, "recall", 10) for n in sizes]
        draw_line(by_size, name, sizes, np.array(recall, float))
        if largest in sizes:
            shares = [mean_of(runs, name, largest, "nearest", r) for r in RANKS]
            draw_line(by_rank, name, RANKS, np.array(shares, float))
    sizes = sorted({key.n for key in runs})
    for axis, ticks in ((by_size, sizes), (by_rank, RANKS)):
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.set_ylim(0)
    by_size.set(xlabel="rows", ylabel="recall@10")
    by_rank.set(xlabel=f"results ({largest:,} rows)", ylabel="share of nearest rows")
    add_legend(figure, [by_size, by_rank])
    save(figure, file)
