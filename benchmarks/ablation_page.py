"""The page of `benchmarks.ablation`: tables and plots of its published runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation_variants import DEFAULT, Variant
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
from benchmarks.palette import SHADES, add_legend, new_figure, save
from benchmarks.published import (
    COMMITS,
    SetRecord,
    at_commit,
    published_sets,
    runs_file,
    shared_facts,
)
from benchmarks.runlog import Run, RunLog

RUNS, FIELDS = "ablation.jsonl", ("group", "name", "seed")
_MADE = (
    f"{origin('ablation', 'ablations')} "
    "It shows the mAP of the default recipe with one thing changed, without the held-out "
    "acceptance check: the mean over the seeds, with the standard deviation after ±. The number in "
    "brackets is the difference from the default in thousandths, over the seeds that both have. "
    "Bars of the plots are these differences; the thin lines are their standard deviation."
)
# The groups whose largest losses are named at the start of the page, besides the geometry.
_NAMED = ("contrast", "codebooks", "head")
# Characters in a line of a label of the plot.
_LABEL = 26

Floats = NDArray[np.float64]
Found = dict[tuple[str, str], Floats]


def summarize(runs: Sequence[Run]) -> tuple[list[str], Found]:
    """Code lengths that all runs have, and mAP of each variant, shape (seeds, lengths)."""
    lengths = [b for b in runs[0]["map"] if all(b in run["map"] for run in runs)]
    out: dict[tuple[str, str], list[list[float]]] = {}
    for one in sorted(runs, key=lambda run: int(run["seed"])):
        key = (one["group"], one["name"])
        out.setdefault(key, []).append([one["map"][b] for b in lengths])
    return lengths, {key: np.array(values) for key, values in out.items()}


def differences(values: Floats, base: Floats) -> Floats:
    """Differences of two variants (seeds, lengths), for the seeds of both."""
    both = min(len(values), len(base))
    return np.asarray(values[:both] - base[:both])


def write_ablation_page(out: Path, variants: Sequence[Variant]) -> Path:
    """Write ``ablation.md`` and a plot for each set with published runs; returns its path."""
    sections, found, measured = {}, [], []
    for record in published_sets(RUNS, out):
        runs = list(RunLog(runs_file(record.folder, RUNS, out), FIELDS).runs.values())
        lengths, values = summarize(runs)
        shown = [v for v in variants if (v.group, v.name) in values]
        plot = out / f"ablation-{record.folder}.svg"
        plot_differences(lengths, values, shown, plot)
        sections[f"{record.name}, {record.folder}"] = "\n\n".join(
            [
                f"mAP@{record.top}:",
                _table(lengths, values, shown),
                f"![difference from the default]({plot.name})",
            ]
        )
        found.append(_findings(record, lengths, values))
        machines = shared_facts(runs, ("machine", *COMMITS))
        measured.append(
            f"{record.folder} was measured on "
            + "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
            + "."
        )
    page = out / "ablation.md"
    sections = with_kept_sections(page, sections)
    made = [_MADE, *measured]
    return write_page(page, "What each part is worth", " ".join(found), sections, made)


def _findings(record: SetRecord, lengths: list[str], found: Found) -> str:
    """What the geometry and the largest losses are worth at the middle length of one set."""
    base, middle = found["", DEFAULT.name], len(lengths) // 2
    means = {
        key: float(differences(values, base)[:, middle].mean()) for key, values in found.items()
    }
    geometry = [abs(value) for (group, _), value in means.items() if group == "geometry"]
    lost = []
    for group in _NAMED:
        of_group = {name: value for (g, name), value in means.items() if g == group}
        if of_group:
            worst = min(of_group, key=lambda name: of_group[name])
            lost.append(f"{group} ({worst}) {format_number(-of_group[worst])}")
    bits = lengths[middle]
    start = (
        f"On {record.name} at {bits} bits, the default recipe has an mAP@{record.top} of "
        f"{format_number(float(base[:, middle].mean()))}"
    )
    if geometry:
        most = format_number(max(geometry))
        start += f", and no other geometry or curvature differs by more than {most}"
    return f"{start}." + (f" The largest losses by group are: {listed(lost)}." if lost else "")


def _table(lengths: list[str], found: Found, shown: Sequence[Variant]) -> str:
    """A row for each variant."""
    base = found["", DEFAULT.name]
    lines = [["", "", *(f"{bits} bits" for bits in lengths), "seeds"]]
    for variant in shown:
        values = found[variant.group, variant.name]
        row = [
            format_mean(float(m), float(s)) + ("" if variant is DEFAULT else f" ({1000 * d:+.0f})")
            for m, s, d in zip(
                values.mean(0), spread_of(values), differences(values, base).mean(0), strict=True
            )
        ]
        lines.append([variant.group, variant.name, *row, str(len(values))])
    return markdown_table(lines)


def plot_differences(
    lengths: list[str], found: Found, variants: Sequence[Variant], file: Path
) -> None:
    """Plot the difference of each variant from the default: a bar for each code length."""
    base = found["", DEFAULT.name]
    # A row for each variant, below a row with the name of its group.
    rows: list[Variant | str] = []
    for variant in variants:
        if variant is not DEFAULT:
            is_new = not any(
                isinstance(row, Variant) and row.group == variant.group for row in rows
            )
            rows += [variant.group, variant] if is_new else [variant]
    bars = [(at, row) for at, row in enumerate(rows) if isinstance(row, Variant)]
    figure, [axis] = new_figure(height=0.6 + 0.36 * max(len(rows), 1))
    height = 0.8 / len(lengths)
    for i, bits in enumerate(lengths):
        gaps = [differences(found[v.group, v.name], base)[:, i] for _, v in bars]
        axis.barh(
            [at - 0.4 + height * (i + 0.5) for at, _ in bars],
            [gap.mean() for gap in gaps],
            height,
            xerr=[np.nan_to_num(spread_of(gap)) for gap in gaps],
            error_kw={"linewidth": 0.7},
            color=SHADES[round(i * (len(SHADES) - 1) / max(len(lengths) - 1, 1))],
            label=f"{bits} bits",
        )
    names = [fill(row.name, _LABEL) if isinstance(row, Variant) else row for row in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=9.5, linespacing=0.9)
    for row, text in zip(rows, axis.get_yticklabels(), strict=True):
        text.set_fontweight("normal" if isinstance(row, Variant) else "bold")
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.axvline(0, color="#333", linewidth=0.8)
    axis.set_xlabel("mAP less that of the default")
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#ddd")
    axis.spines["left"].set_visible(False)
    add_legend(figure, [axis])
    save(figure, file)
