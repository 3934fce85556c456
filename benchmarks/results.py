"""From measured runs to a page of tables and plots."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.featuresets import read_protocol
from hyperpq.errors import MissingDependencyError

QUALITY = ("map", "map100", "map10", "recall10", "recall100")
_TITLES = ("mAP@100", "mAP@10", "recall@10", "recall@100")
_FACTS = (*QUALITY, "train_seconds", "encode_seconds", "bytes")
_MARKERS = "ovsDP^<>pX*hd"


class Key(NamedTuple):
    """What makes two runs the same run.

    Attributes
    ----------
    method, variant : str
        ``exact`` or a baseline, with its input ``raw`` or ``conditioned``; ``hyperpq`` with a recipe.
    bits, seed : int
        Both 0 for ``exact``.
    """

    method: str
    variant: str
    bits: int
    seed: int


class RunLog:
    """Runs in a file of JSON lines, each there as soon as it is measured.

    Parameters
    ----------
    file : Path
        Need not be there yet.
    fields : sequence of str
        Fields of a run that make two runs the same run; their values are its key.
    """

    def __init__(self, file: Path, fields: Sequence[str] = Key._fields) -> None:
        self.file, self._fields = file, fields
        self.runs: dict[tuple[Any, ...], dict[str, Any]] = {}
        if file.exists():
            text = file.read_text("utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:  # a kill tore the last line
                self._replace(whole)
            for line in whole.splitlines():
                run = json.loads(line)
                self.runs[self._key(run)] = run

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self.runs

    def append(self, run: dict[str, Any]) -> None:
        """Write a run down."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(run) + "\n")
        self.runs[self._key(run)] = run

    def forget(self, keys: Collection[tuple[Any, ...]]) -> None:
        """Leave some runs out."""
        self.runs = {key: run for key, run in self.runs.items() if key not in keys}
        self._replace("".join(json.dumps(run) + "\n" for run in self.runs.values()))

    def _key(self, run: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(run[field] for field in self._fields)

    def _replace(self, text: str) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(text, "utf-8")
        os.replace(part, self.file)


def published(log: Path, out: Path) -> Path:
    """Where the runs of a log of the cache lie beside the page that they are behind."""
    return out / "runs" / f"{log.parent.name}-{log.name}"


def take_up(log: Path, out: Path) -> None:
    """Go on from the published runs, where the cache has none of its own."""
    if not log.exists() and published(log, out).exists():
        shutil.copyfile(published(log, out), log)


def publish(log: Path, out: Path) -> None:
    """Put the runs of a log beside their page: hours of measuring in a few kilobytes."""
    published(log, out).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, published(log, out))


class Row(NamedTuple):
    """One method at one length.

    Attributes
    ----------
    name : str
        As tables show it, without its input.
    variant : str
        The recipe, or the baseline's input.
    bits, seeds : int
        Length of a code, 0 for exact search; number of runs.
    mean, spread : dict
        Over seeds; the spread is the standard deviation (n - 1), NaN for one run.
    """

    name: str
    variant: str
    bits: int
    seeds: int
    mean: dict[str, float]
    spread: dict[str, float]


def summarize(runs: Iterable[dict[str, Any]]) -> list[Row]:
    """Mean and spread over seeds; of a baseline's two inputs the one with the better mAP."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["method"], run["variant"], run["bits"]), []).append(run)
    best: dict[tuple[str, int], Row] = {}
    for (method, variant, bits), group in groups.items():
        name = f"{method} {variant}" if method in ("exact", "hyperpq") else method
        values = {fact: np.array([run[fact] for run in group], float) for fact in _FACTS}
        spread = {fact: float(spread_of(v)) for fact, v in values.items()}
        mean = {fact: float(v.mean()) for fact, v in values.items()}
        row = Row(name, variant, bits, len(group), mean, spread)
        other = best.get((name, bits))
        if other is None or mean["map"] > other.mean["map"]:
            best[name, bits] = row
    return sorted(best.values(), key=lambda row: -row.mean["map"])


def spread_of(values: NDArray[Any]) -> NDArray[np.float64]:
    """Standard deviation (n - 1) over the first axis; NaN for one run."""
    if len(values) > 1:
        return np.asarray(values.std(0, ddof=1))
    return np.full(values.shape[1:], np.nan)


def write_page(cache: Path, out: Path) -> Path:
    """Write ``quality.md`` and a plot for each set of ``cache`` that has runs; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Quality of codes",
        "Made by `python -m benchmarks.quality`, see "
        "[its options](../../benchmarks/README.md#quality-of-codes). Values are means over the "
        "seeds, with the standard deviation after ±. mAP@k: AP divides by the hits inside the top "
        "k. recall@k: share of the k exact cosine neighbours (network's features) among the first "
        "k results. Baselines had features of unit length (raw) and features conditioned as ours are "
        "(signed square root, minus the training mean, unit length): the better one by mAP counts, "
        "and its name stands in brackets. Best codes are bold; exact search has no codes.",
    ]
    for file in sorted(cache.glob("*/runs.jsonl")):
        runs = list(RunLog(file).runs.values())
        if runs:
            parts.append(_section(file.parent, runs, out))
            publish(file, out)
    page = out / "quality.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def _section(folder: Path, runs: list[dict[str, Any]], out: Path) -> str:
    """A data set: what it is, the overview, a table a length, how it was measured."""
    rows = summarize(runs)
    source = folder / "source.json"
    kept = json.loads(source.read_text()) if source.exists() else {"features": folder.name}
    protocol, train_rows = read_protocol(folder.parent / kept["features"])
    more = kept.get("more", 0)
    plot = out / f"quality-{folder.name}.svg"
    plot_quality(rows, protocol.top, plot)
    lengths = sorted({row.bits for row in rows if row.bits})
    missing = f" {protocol.missing} images of the list are missing." if protocol.missing else ""
    sizes = (
        f"{len(protocol.database.labels):,} images are searched, {len(train_rows):,} of them "
        f"train without their labels, {len(protocol.query.labels):,} others ask.{missing}"
    )
    if more:
        sizes += (
            f" Beside these {more:,} more of the searched images train, ours and all baselines: "
            "their features alone, without labels and without views."
        )
    parts = [
        f"## {protocol.name}, {folder.name}",
        sizes,
        f"![mAP and recall by length]({plot.name})",
        f"mAP@{protocol.top}:",
        _overview(rows, lengths),
    ]
    for bits in lengths:
        parts += [f"### {folder.name}, {bits} bits", _table(rows, bits, protocol.top)]
    used = {(run["machine"], run["command"]): None for run in runs}
    parts += ["Measured by:", "\n".join(f"- {machine}: `{command}`" for machine, command in used)]
    return "\n\n".join(parts)


def _overview(rows: list[Row], lengths: list[int]) -> str:
    """Method x bits of mAP; codes by their best length, then exact search."""
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
    return markdown(lines)


def _table(rows: list[Row], bits: int, top: int) -> str:
    """All measures of one length."""
    titles = dict(zip(QUALITY, (f"mAP@{top}", *_TITLES), strict=True))
    if top == 100:
        del titles["map100"]
    lines = [["", *titles.values(), "training, s", "encoding, s", "bytes", "seeds"]]
    own = [row for row in rows if row.bits == bits]
    best = {fact: max(row.mean[fact] for row in own) for fact in titles}
    for row in own + [row for row in rows if not row.bits]:
        name = f"{row.name} ({row.variant})" if row.variant not in row.name else row.name
        cells = [_cell(row, f, bool(row.bits) and row.mean[f] == best[f]) for f in titles]
        costs = ("train_seconds", "encode_seconds")
        spent = [f"{row.mean[fact]:.1f}" if row.bits else "" for fact in costs]
        lines.append([name, *cells, *spent, f"{row.mean['bytes']:.0f}", str(row.seeds)])
    return markdown(lines)


def _cell(row: Row, fact: str, bold: bool) -> str:
    return cell(row.mean[fact], row.spread[fact], bold)


def cell(mean: float, spread: float, bold: bool = False) -> str:
    """Mean and spread as in ``.553 ± .002``; without a spread that is NaN."""
    text = f"{mean:.3f}".removeprefix("0")
    text = f"**{text}**" if bold else text
    if not np.isnan(spread):
        text += " ± " + f"{spread:.3f}".removeprefix("0")
    return text


def markdown(lines: list[list[str]]) -> str:
    """A table; the first line is its head."""
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def import_pyplot() -> Any:
    """`matplotlib.pyplot` without a screen.

    Raises
    ------
    MissingDependencyError
        matplotlib isn't installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "matplotlib is missing; install it with `pip install 'hyperpq[dev]'`."
        ) from error
    matplotlib.use("agg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "hyperpq"
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot_quality(rows: list[Row], top: int, file: Path) -> None:
    """Plot mAP and recall@100 against bits, a line a method, bars for the spread."""
    plt = import_pyplot()
    lengths = sorted({row.bits for row in rows if row.bits})
    names = list(dict.fromkeys(row.name for row in rows if row.bits))
    baselines = [name for name in names if not name.startswith("hyperpq")]
    ours = [name for name in names if name.startswith("hyperpq")]
    colours = dict(zip(ours, ("#d62728", "#ff9e4a"), strict=False))
    muted = plt.get_cmap("tab20b").colors
    colours |= {name: muted[i * 3 % 20] for i, name in enumerate(baselines)}
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for panel, (fact, title) in zip(
        panels, (("map", f"mAP@{top}"), ("recall100", "recall@100")), strict=True
    ):
        for number, name in enumerate(names):
            line = sorted((r for r in rows if r.name == name and r.bits), key=lambda r: r.bits)
            is_ours = name in ours
            panel.errorbar(
                [lengths.index(row.bits) for row in line],
                [row.mean[fact] for row in line],
                [np.nan_to_num(row.spread[fact]) for row in line],
                label=name,
                color=colours[name],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=2.6 if is_ours else 1.2,
                markersize=6 if is_ours else 4.5,
                capsize=2,
                zorder=3 if is_ours else 2,
            )
        for row, dash in zip((r for r in rows if not r.bits), ("--", ":"), strict=False):
            # The neighbours that recall asks for are those of the raw features.
            if fact == "map" or row.variant != "raw":
                panel.axhline(row.mean[fact], label=row.name, color="#555", linestyle=dash, lw=1)
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
