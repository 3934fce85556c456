"""What the runs of `benchmarks.quality` say: the first sentences of its page, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from benchmarks.pages import format_number, listed, markdown_table
from benchmarks.published import SetRecord
from benchmarks.quality_recipes import REFINED
from benchmarks.quality_rows import DEPTHS, OURS, TITLES, Row, best_of

# Lengths in bits of the sentences and of the summary.
LENGTHS = (16, 32, 64)
# Seeds of a figure unless the sentence says otherwise.
SEEDS = 3
_BALANCED, _FIDELITY = "hyperpq balanced", "hyperpq fidelity"
_SUMMARY = (OURS, OURS + REFINED, _BALANCED, _BALANCED + REFINED)


class Compared(NamedTuple):
    """A data set that was measured with the default recipe and with baselines.

    Attributes
    ----------
    record : SetRecord
        The set.
    rows : list of Row
        All its rows.
    lengths : list of int
        Which of `LENGTHS` both were measured at.
    """

    record: SetRecord
    rows: list[Row]
    lengths: list[int]

    def of(self, name: str, bits: int, measure: str) -> float | None:
        """A mean of one method; None if it was not measured."""
        found = [row for row in self.rows if (row.name, row.bits) == (name, bits)]
        return best_of(found, measure)

    def seeds(self, name: str, bits: int) -> int:
        """Number of runs of a method that was measured."""
        return next(row.seeds for row in self.rows if (row.name, row.bits) == (name, bits))

    def best(self, bits: int, measure: str) -> float | None:
        """The largest mean of the baselines at a length."""
        return best_of((r for r in self.rows if r.is_baseline and r.bits == bits), measure)

    def exact(self, measure: str) -> float | None:
        """The larger mean of exact search on raw and on normalized features."""
        return best_of((row for row in self.rows if not row.bits), measure)


def comparable(sets: Sequence[tuple[SetRecord, list[Row]]]) -> list[Compared]:
    """The sets whose protocol's images alone train, and that compare the default with baselines."""
    found = []
    for record, rows in sets:
        ours = {row.bits for row in rows if row.name == OURS}
        both = ours & {row.bits for row in rows if row.is_baseline}
        lengths = sorted(both & set(LENGTHS))
        if lengths and not record.more:
            found.append(Compared(record, rows, lengths))
    return found


def findings(sets: Sequence[tuple[SetRecord, list[Row]]]) -> str:
    """What wins and what loses at each depth, in at most five sentences, one for each of these.

    Long lists; the first ten; the exact neighbours; refined codes; the other two objectives.
    """
    compared = comparable(sets)
    if not compared:
        return "No data set was measured with the default recipe and with baselines."
    sentences = [
        f"In long lists, by mAP@100 and mAP@1000, codes of the default recipe of hyperpq are "
        f"{_standing(compared, ('map100', 'map1000'))}: {_beside(compared, 'map100')}.",
        "Among the first ten results, by precision@10 and mAP@10, they are "
        f"{_standing(compared, ('precision10', 'map10'))}: {_beside(compared, 'map10')}.",
        "Of the exact neighbours they find, by recall@10, "
        f"{_standing(compared, ('recall10',), ('more than', 'fewer than'))}: "
        f"{_beside(compared, 'recall10', exact=False)}.",
        _of_refined(compared),
        _of_objectives(compared),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _standing(
    compared: Sequence[Compared],
    measures: Sequence[str],
    words: tuple[str, str] = ("ahead of", "behind"),
) -> str:
    """Where ours are ahead of every baseline in all measures, and where they are not."""
    ahead: dict[str, list[int]] = {}
    behind: dict[str, list[int]] = {}
    for one in compared:
        for bits in one.lengths:
            pairs = [(one.of(OURS, bits, m), one.best(bits, m)) for m in measures]
            known = [(mine, best) for mine, best in pairs if mine is not None and best is not None]
            wins = all(mine > best for mine, best in known)
            (ahead if wins else behind).setdefault(one.record.name, []).append(bits)
    parts = []
    if ahead:
        parts.append(f"{words[0]} every baseline {_where(ahead)}")
    if behind:
        in_one = " in at least one of the two" if len(measures) > 1 else ""
        parts.append(f"{words[1]} the best baseline{in_one} {_where(behind)}")
    return " and ".join(parts)


def _where(lengths: dict[str, list[int]]) -> str:
    """Lengths and sets in words, as in ``at 16 and 32 bits on A and B and at 64 bits on C``."""
    sets: dict[tuple[int, ...], list[str]] = {}
    for name, bits in lengths.items():
        sets.setdefault(tuple(bits), []).append(name)
    return " and ".join(
        f"at {listed([str(b) for b in bits])} bits on {listed(names)}"
        for bits, names in sets.items()
    )


def _beside(compared: Sequence[Compared], measure: str, exact: bool = True) -> str:
    """A measure of ours at the longest length, of the best baseline, and of exact search."""
    bits = max(compared[0].lengths)
    ours = _across(compared, lambda one: one.of(OURS, bits, measure))
    others = f"{_across(compared, lambda one: one.best(bits, measure), False)} of the best baseline"
    if exact:
        found = _across(compared, lambda one: one.exact(measure), False)
        others += f" and {found} of exact search"
    return f"{TITLES[measure]} at {bits} bits is {ours}, against {others}"


def _across(
    compared: Sequence[Compared], value: Callable[[Compared], float | None], named: bool = True
) -> str:
    """A figure of each set, with its name."""
    cells = []
    for one in compared:
        found = value(one)
        cells.append(_figure(found) + (f" on {one.record.name}" if named else ""))
    return listed(cells)


def _of_refined(compared: Sequence[Compared]) -> str:
    """Refined codes beside the codes alone and exact search; empty if none were measured."""
    bits = max(compared[0].lengths)
    refined = OURS + REFINED
    shown = [one for one in compared if one.of(refined, bits, "map10") is not None]
    if not shown:
        return ""
    parts = []
    for measure in ("precision10", "map10", "map100"):
        figures = [_figures(shown, name, bits, measure) for name in (refined, OURS)]
        exact = listed([_figure(one.exact(measure)) for one in shown])
        article = "an" if measure.startswith("map") else "a"
        parts.append(
            f"{article} {TITLES[measure]} of {figures[0]} (codes alone {figures[1]}, exact search "
            f"{exact})"
        )
    sets = listed([one.record.name for one in shown])
    return (
        f"If kept features rank the best of these codes again, {bits} bits on {sets} "
        f"have {listed(parts)}."
    )


def _of_objectives(compared: Sequence[Compared]) -> str:
    """The objectives balanced and fidelity; empty if they were not measured."""
    bits = max(compared[0].lengths)
    names = (_BALANCED, _FIDELITY)
    shown = [
        one for one in compared if all(one.of(name, bits, "map10") is not None for name in names)
    ]
    if not shown:
        return ""
    recall, long = (
        {name: _figures(shown, name, bits, measure) for name in (OURS, *names)}
        for measure in ("recall10", "map1000")
    )
    least = min(one.seeds(name, bits) for one in shown for name in names)
    few = f" ({least} seed{'s' * (least > 1)} or more)" if least < SEEDS else ""
    return (
        f"On {listed([one.record.name for one in shown])}, {bits} bits of the objective "
        f"balanced{few} "
        f"have a recall@10 of {recall[_BALANCED]} at an mAP@1000 of {long[_BALANCED]} (default "
        f"recipe {long[OURS]}), and those of the objective fidelity a recall@10 of "
        f"{recall[_FIDELITY]} at an mAP@1000 of {long[_FIDELITY]}."
    )


def _figures(compared: Sequence[Compared], name: str, bits: int, measure: str) -> str:
    return _across(compared, lambda one: one.of(name, bits, measure), False)


def summary(sets: Sequence[tuple[SetRecord, list[Row]]]) -> str:
    """One table of the sets: each cell has the figures of all `LENGTHS`; empty if there is none."""
    compared = comparable(sets)
    lines = [["", *(TITLES[measure] for measure in DEPTHS)]]
    for one in compared:
        named = {row.name for row in one.rows}
        means = {name: partial(one.of, name) for name in _SUMMARY if name in named}
        for name, mean in (means | {"best baseline": one.best}).items():
            cells = [" ".join(_figure(mean(bits, m)) for bits in one.lengths) for m in DEPTHS]
            lines.append([f"{one.record.name}: {name}", *cells])
        cells = [_figure(one.exact(measure)) for measure in DEPTHS]
        lines.append([f"{one.record.name}: exact search", *cells])
    return markdown_table(lines) if compared else ""


def _figure(value: float | None) -> str:
    return "–" if value is None else format_number(value)
