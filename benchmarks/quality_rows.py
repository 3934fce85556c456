"""Means over the seeds of the runs of `benchmarks.quality`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.learned_baselines import LEARNED
from benchmarks.pages import spread_of
from benchmarks.quality_recipes import is_refined
from benchmarks.runlog import Run

# From the first results to long lists, then recall of the exact neighbours.
DEPTHS = ("precision10", "map10", "map100", "map1000", "recall10")
MEASURES = ("map", *DEPTHS, "recall100")
TITLES = {
    "precision10": "precision@10",
    "map10": "mAP@10",
    "map100": "mAP@100",
    "map1000": "mAP@1000",
    "recall10": "recall@10",
    "recall100": "recall@100",
}
OURS = "hyperpq default"
_AVERAGED = (*MEASURES, "train_seconds", "encode_seconds", "bytes")


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

    @property
    def is_refined(self) -> bool:
        """Whether kept features rank the best codes again."""
        return is_refined(self.variant)

    @property
    def is_baseline(self) -> bool:
        """Whether it is neither a recipe of hyperpq nor exact search."""
        return bool(self.bits) and not self.is_ours

    @property
    def learns(self) -> bool:
        """Whether it is a baseline that learns."""
        return self.name in LEARNED

    @property
    def label(self) -> str:
        """The name, with the input of a baseline in brackets."""
        return self.name if self.variant in self.name else f"{self.name} ({self.variant})"


def summarize(runs: Iterable[Run], top: int) -> list[Row]:
    """Means over seeds, best mAP first; of the two inputs of a baseline only the better one.

    ``top`` is the k of the protocol's mAP@k, which earlier runs recorded under no other name.
    """
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        known = {f"map{top}": run["map"]} | run
        groups.setdefault((run["method"], run["variant"], run["bits"]), []).append(known)
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


def best_of(rows: Iterable[Row], measure: str) -> float | None:
    """The largest mean of a measure; None if no row has it."""
    return max((row.mean[measure] for row in rows if measure in row.mean), default=None)


def groups_of(rows: Sequence[Row], bits: int) -> list[list[Row]]:
    """Codes of a length alone, codes of that length that are refined, and exact search."""
    codes = [row for row in rows if row.bits == bits]
    return [
        [row for row in codes if not row.is_refined],
        [row for row in codes if row.is_refined],
        [row for row in rows if not row.bits],
    ]
