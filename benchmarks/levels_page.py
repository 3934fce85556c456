"""The page of `benchmarks.levels`: tables and a plot of the published runs of each set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.levels_variants import (
    GEOMETRIES,
    HIERARCHIES,
    OWN_HIERARCHY,
    RECIPES,
    VARIANTS,
    name_of,
)
from benchmarks.pages import (
    format_mean,
    format_number,
    listed,
    markdown_table,
    origin,
    spread_of,
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

RUNS, FIELDS = "levels.jsonl", ("variant", "bits", "seed")
# k of mAP@k at every level.
TOP = 100
LEVEL_NAMES = ("fine class", "coarse class", "kind")
# The code length of the sentences and of the plot.
SHOWN_BITS = 32
# The parts of a recipe in the sentences.
_PARTS = {
    "hierarchy": "hierarchical prototypes",
    "hyperbolic space": "hyperbolic instead of flat space",
}
_MADE = (
    f"{origin('levels', 'levels-of-a-hierarchy')} A result is relevant if it is of the query's "
    "fine class (a kind of apple; a species), of its coarse class (apples; a family), or of its "
    "kind (fruit; a kingdom). Hierarchical precision is the mean similarity of the first ten "
    "results, over the most that the database allows; the similarity of two images is the share of "
    "the three levels at which they are of one class (Barz and Denzler, 2019), so near misses "
    "count. The hierarchy of `default` is the prototype loss of the paper with the weight 1 and as "
    "many prototypes as the tree has classes at each level; that of `paper` is its own, with 100, "
    "50 and 25 prototypes and the neighbour loss. Both recipes learn from the same mild views, "
    "without labels and without the held-out acceptance check. Flat is Euclidean space; the "
    "curvature of hyperbolic space is learned. Values are means over the seeds, with the standard "
    "deviation after ±; that of a difference is over the differences of the same seed. The default "
    "recipe finds nearly all of the drawn set; [A true tree](trees.md) has this set in 2 to 4 "
    "dimensions, where it does not."
)

Floats = NDArray[np.float64]
# Figures of each variant and length by seed: mAP and precision by level, and hierarchical.
Found = dict[tuple[str, int], dict[int, Floats]]


class Effect(NamedTuple):
    """A part of a recipe, and the variants with and without it, which differ in nothing else.

    Attributes
    ----------
    recipe, part : str
        ``default`` or ``paper``, and ``hierarchy`` or ``hyperbolic space``.
    rest : str
        What both variants have, in words.
    one, other : str
        Names of the variant with the part and of that without.
    is_own : bool
        Whether one of the two is the recipe as it is.
    """

    recipe: str
    part: str
    rest: str
    one: str
    other: str
    is_own: bool


def _effects() -> Iterator[Effect]:
    (hyperbolic, flat), (without, with_it) = GEOMETRIES, HIERARCHIES
    for recipe in RECIPES:
        own = OWN_HIERARCHY[recipe]
        for geometry in GEOMETRIES:
            one, other = name_of(recipe, geometry, with_it), name_of(recipe, geometry, without)
            rest = f"in {geometry} space"
            yield Effect(recipe, "hierarchy", rest, one, other, geometry == hyperbolic)
        for hierarchy in HIERARCHIES:
            one, other = name_of(recipe, hyperbolic, hierarchy), name_of(recipe, flat, hierarchy)
            rest = "with hierarchy" if hierarchy == with_it else "without hierarchy"
            yield Effect(recipe, "hyperbolic space", rest, one, other, hierarchy == own)


EFFECTS = tuple(_effects())


def summarize(runs: Sequence[Run]) -> Found:
    """Figures of each variant and length by seed, shape (7,)."""
    found: Found = {}
    for one in runs:
        values = np.array([*one["map"], *one["precision"], one["hierarchical"]])
        found.setdefault((one["variant"], one["bits"]), {})[one["seed"]] = values
    return found


def differences(found: Found, effect: Effect, bits: int) -> Floats:
    """MAP with a part of a recipe less that without, shape (seeds, 3), for the seeds of both."""
    with_it, without = (found.get((name, bits), {}) for name in (effect.one, effect.other))
    shared = sorted(with_it.keys() & without.keys())
    rows = [(with_it[seed] - without[seed])[: len(LEVEL_NAMES)] for seed in shared]
    return np.array(rows).reshape(len(rows), len(LEVEL_NAMES))


def write_levels_page(out: Path) -> Path:
    """Write ``levels.md`` and its plot from the published runs; returns its path."""
    sections, texts, made = {}, [], [_MADE]
    sets: dict[str, Found] = {}
    for record in published_sets(RUNS, out):
        runs = list(RunLog(runs_file(record.folder, RUNS, out), FIELDS).runs.values())
        found = sets[record.name] = summarize(runs)
        sections[record.name] = (
            f"{record.n_database:,} images of {record.n_classes} fine classes are searched, and "
            f"{record.n_query:,} others are queries.\n\n{_tables(found)}"
        )
        texts += [_sentence(record, recipe, found) for recipe in RECIPES]
        machines = shared_facts(runs, ("machine", *COMMITS))
        made.append(
            f"{record.folder} was measured on "
            + "; ".join(f"{machine}{at_commit(one)}" for machine, *one in machines)
            + "."
        )
    plot = out / "levels.svg"
    plot_effects(sets, plot)
    effects = (
        f"mAP@{TOP} of codes of {SHOWN_BITS} bits with a part of a recipe, less that without it "
        f"(the panels of the plot have scales of their own):\n\n{_effects_table(sets)}\n\n"
        f"![what each part adds, by level]({plot.name})"
    )
    page = {"What hierarchy and geometry are worth": effects, **sections}
    findings = " ".join(filter(None, [_verdict(list(sets.values())), *texts]))
    return write_page(out / "levels.md", "Levels of a hierarchy", findings, page, made)


def _verdict(sets: Sequence[Found]) -> str:
    """The largest change by each part of the default recipe, over sets and levels."""
    most = []
    for part in _PARTS:
        own = [e for e in EFFECTS if (e.recipe, e.part, e.is_own) == (RECIPES[0], part, True)]
        rows = [differences(found, effect, SHOWN_BITS) for found in sets for effect in own]
        means = [abs(values.mean(0)).max() for values in rows if len(values)]
        if not means:
            return ""
        # "No more than" stays true of what is rounded.
        most.append(format_number(np.ceil(1000 * max(means) - 1e-6) / 1000))
    prototypes, space = _PARTS.values()
    return (
        f"At no level do {prototypes} in {GEOMETRIES[0]} space change the mAP@{TOP} of the default "
        f"recipe by more than {most[0]}, nor {space} without hierarchy by more than {most[1]}, at "
        f"{SHOWN_BITS} bits."
    )


def _sentence(record: SetRecord, recipe: str, found: Found) -> str:
    """What hierarchy and geometry are worth to a recipe at each level of one set."""
    name = name_of(recipe, GEOMETRIES[0], OWN_HIERARCHY[recipe])
    own = found.get((name, SHOWN_BITS), {})
    if not own:
        return ""
    base = np.mean(list(own.values()), 0)[: len(LEVEL_NAMES)]
    shown = listed([format_number(float(value)) for value in base])
    added = [
        f"{_PARTS[effect.part]} ({effect.rest}): {listed(gains)}"
        for effect in EFFECTS
        if effect.recipe == recipe and effect.is_own
        if (gains := _gains(differences(found, effect, SHOWN_BITS)))
    ]
    levels = listed([f"by {name}" for name in LEVEL_NAMES])
    end = f"; added by {'; '.join(added)}" if added else ""
    seeds = f"{len(own)} seeds" if len(own) > 1 else "one seed"
    return (
        f"On {record.name}, codes of {SHOWN_BITS} bits of the recipe `{recipe}` have an mAP@{TOP} "
        f"of {shown} {levels} ({seeds}){end}."
    )


def _effects_table(sets: Mapping[str, Found]) -> str:
    """A row for each set and part, a column for each level."""
    lines = [["set", "recipe", "what is added", *LEVEL_NAMES, "seeds"]]
    for name, found in sets.items():
        for effect in EFFECTS:
            rows = differences(found, effect, SHOWN_BITS)
            if gains := _gains(rows):
                what = f"{effect.part}, {effect.rest}"
                lines.append([name, effect.recipe, what, *gains, str(len(rows))])
    return markdown_table(lines)


def _gains(rows: Floats) -> list[str]:
    """Means and standard deviations of differences (seeds, levels), as in ``+.002 ± .001``."""
    if not len(rows):
        return []
    texts = []
    for mean, spread in zip(rows.mean(0), spread_of(rows), strict=True):
        end = "" if np.isnan(spread) else f" ± {format_number(float(spread))}"
        texts.append(_signed(float(mean)) + end)
    return texts


def _signed(value: float) -> str:
    """A difference with its sign, as in ``+.012``."""
    text = format_number(abs(value))
    return text if text == ".000" else ("-" if value < 0 else "+") + text


def _tables(found: Found) -> str:
    """A table for each length of codes."""
    lengths = sorted({bits for _, bits in found if bits})
    return "\n\n".join(f"**{bits} bits**\n\n{_table(found, bits)}" for bits in lengths)


def _table(found: Found, bits: int) -> str:
    """A row for each variant; the best codes of each column are bold."""
    rows = [
        (variant, np.array(list(seeds.values())))
        for variant in VARIANTS
        if (seeds := found.get((variant.name, 0 if variant.is_exact else bits)))
    ]
    figures = [f"mAP@{TOP}, {level}" for level in LEVEL_NAMES]
    figures += [f"precision@10, {level}" for level in LEVEL_NAMES] + ["hierarchical precision@10"]
    best = np.max([values.mean(0) for variant, values in rows if not variant.is_exact], axis=0)
    lines = [["", *figures, "seeds"]]
    for variant, values in rows:
        cells = [
            format_mean(float(mean), float(spread), bool(mean >= most) and not variant.is_exact)
            for mean, spread, most in zip(values.mean(0), spread_of(values), best, strict=True)
        ]
        lines.append([variant.name, *cells, "" if variant.is_exact else str(len(values))])
    return markdown_table(lines)


def plot_effects(sets: Mapping[str, Found], file: Path) -> None:
    """Plot what each part adds to mAP: a panel for a set and a recipe, a bar for each level."""
    shown = {
        (name, recipe): effects
        for name, found in sets.items()
        for recipe in RECIPES
        if (
            effects := [
                effect
                for effect in EFFECTS
                if effect.recipe == recipe and len(differences(found, effect, SHOWN_BITS))
            ]
        )
    }
    most = max(map(len, shown.values()), default=1)
    figure, axes = new_figure(max(len(shown), 1), 0.7 + 0.36 * most)
    height = 0.8 / len(LEVEL_NAMES)
    for axis, ((name, recipe), effects) in zip(axes, shown.items(), strict=False):
        found = sets[name]
        for i, level in enumerate(LEVEL_NAMES):
            gains = [differences(found, effect, SHOWN_BITS)[:, i] for effect in effects]
            axis.barh(
                [at - 0.4 + height * (i + 0.5) for at in range(len(effects))],
                [gain.mean() for gain in gains],
                height,
                xerr=[np.nan_to_num(spread_of(gain)) for gain in gains],
                error_kw={"linewidth": 0.7},
                color=SHADES[i],
                label=level,
            )
        names = [f"{effect.part}, {effect.rest}" for effect in effects]
        axis.set_yticks(range(len(effects)), names, fontsize=9.5)
        axis.set_title(f"{name}, recipe {recipe}", loc="left", fontsize="medium")
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(effects) - 0.4, -0.6)
        axis.axvline(0, color="#333", linewidth=0.8)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="y", visible=False)
        axis.grid(axis="x", color="#ddd")
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel(f"mAP@{TOP} that is added")
    add_legend(figure, axes)
    save(figure, file)
