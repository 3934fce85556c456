"""The committed pages of results are those that the committed runs make."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    ablation_page,
    growth,
    growth_page,
    levels_page,
    quality_page,
    robustness,
    scale_page,
    scan_page,
    store,
    trees_page,
)
from benchmarks.ablation_variants import VARIANTS
from benchmarks.pages import MADE, format_number, with_kept_sections
from benchmarks.runlog import RunLog

RESULTS = Path(__file__).parents[2] / "docs/results"
WRITERS = {
    "ablation": lambda out: ablation_page.write_ablation_page(out, VARIANTS),
    "growth": lambda out: growth_page.write_growth_page(out, [c.name for c in growth.CURVES]),
    "levels": levels_page.write_levels_page,
    "quality": quality_page.write_quality_page,
    "robustness": robustness.write_robustness_page,
    "scale": scale_page.write_scale_page,
    "scan": scan_page.write_scan_page,
    "store": lambda out: store.write_store_page(out, 10_000_000),
    "trees": trees_page.write_trees_page,
}

# The runs of the page of the tree were not kept; the next run publishes them.
RECORDED = [name for name in WRITERS if name != "trees" or list(RESULTS.glob("runs/*-trees.jsonl"))]


@pytest.mark.parametrize("name", RECORDED)
def test_a_page_is_a_function_of_the_runs_beside_it(name, tmp_path, monkeypatch):
    # Drawings differ between versions of matplotlib.
    monkeypatch.setattr(quality_page, "plot_quality", lambda *_: None)
    monkeypatch.setattr(ablation_page, "plot_differences", lambda *_: None)
    monkeypatch.setattr(levels_page, "plot_effects", lambda *_: None)
    monkeypatch.setattr(trees_page, "plot_gains", lambda *_: None)
    monkeypatch.setattr(scale_page, "plot_recall", lambda *_: None)
    monkeypatch.setattr(scale_page, "plot_growth", lambda *_: None)
    monkeypatch.setattr(scan_page, "plot", lambda *_: None)
    monkeypatch.setattr(growth_page, "plot_curves", lambda _, file: file)
    shutil.copytree(RESULTS / "runs", tmp_path / "runs")
    page = WRITERS[name](tmp_path)
    assert page.read_text("utf-8") == (RESULTS / page.name).read_text("utf-8")


@pytest.mark.parametrize("name", WRITERS)
def test_a_page_begins_with_what_was_found_and_ends_with_how_it_is_made(name):
    text = (RESULTS / f"{name}.md").read_text("utf-8")
    found = text.split("\n\n")[1]
    assert 2 <= len(re.findall(r"\.(?= [A-Z`]|$)", found)) <= 5, found
    assert re.search(r"\d", found) and not found.startswith(("`python", "#", "|", "!"))
    last = text.rpartition("\n## ")[2]
    assert last.startswith(f"{MADE}\n") and f"benchmarks.{name}` makes this page" in last


def test_the_readme_shows_the_figures_of_the_published_runs_where_codes_win_and_where_they_lose():
    readme = (RESULTS.parents[1] / "README.md").read_text("utf-8")
    measured = readme.partition("\n## What was measured\n")[2].partition("\n## ")[0]
    assert f"\n\n{quality_page.read_summary(RESULTS)}\n\n" in measured


SETS = ("cifar10-ii-lite0", "scenes15-lite0", "grocery-lite0")
# Rows of the tables of docs/method and docs/how-to, by how they begin: bits and variants.
ROWS = {
    "exact, features as they are": (0, "raw"),
    "exact, power-normalized": (0, "normalized"),
    **{
        f"{kind} codes, {bits} bits{end}": (bits, variant + end)
        for kind, variant in (("semantic", "default"), ("balanced", "balanced"))
        for bits in (32, 64)
        for end in ("", ", refined")
    },
}
FIGURES = ("precision10", "map10", "map100", "map1000", "recall10")


def published_figures(folder, bits, variant, names):
    """Means over the seeds of the published runs, as pages show them."""
    runs = RunLog(RESULTS / f"runs/{folder}-runs.jsonl", ("method", "variant", "bits", "seed")).runs
    some = [
        run
        for (method, *rest), run in runs.items()
        if method in ("hyperpq", "exact") and rest[:2] == [variant, bits]
    ]
    return " ".join(
        format_number(float(np.mean([run[name] for run in some if name in run]))) for name in names
    ).replace("1.000", "1")


def lines_of(page):
    text = (RESULTS.parent / page).read_text("utf-8")
    found = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)
    return [line.split(" | ") for line in found]


@pytest.mark.parametrize(("page", "n"), [("method/refine.md", 8), ("method/balanced.md", 5)])
def test_the_tables_of_the_method_have_the_figures_of_the_published_runs(page, n):
    lines = {cells[0]: cells[1:] for cells in lines_of(page) if cells[0] in ROWS}
    assert len(lines) == n
    for name, cells in lines.items():
        bits, variant = ROWS[name]
        assert cells == [published_figures(one, bits, variant, FIGURES) for one in SETS], name


def test_the_guide_to_the_length_of_a_code_has_the_figures_of_the_published_runs():
    names, lengths = ("map1000", "map10", "recall10"), []
    for cells in lines_of("how-to/code-length.md"):
        if found := re.match(r"(\d+)( |$)", cells[0]):
            lengths.append(bits := int(found[1]))
            variant = "default" if "MB" in cells[1] else "default, refined"
            # Runs of 128 bits did not record mAP@1000, which is the mAP of this protocol.
            some = ("map", *names[1:])
            assert " ".join(cells[-3:]) == published_figures(SETS[0], bits, variant, some)
    assert lengths == [16, 32, 64, 128, 16, 32, 64]


def test_sections_that_are_not_written_now_stay(tmp_path):
    page = tmp_path / "page.md"
    assert with_kept_sections(page, {"b": "new"}) == {"b": "new"}
    page.write_text(f"# T\n\nFound.\n\n## b\n\nold\n\n## c\n\n### d\n\n| x |\n\n## {MADE}\n\nSo.\n")
    assert list(with_kept_sections(page, {"b": "new", "a": "1"}).items()) == [
        ("a", "1"),
        ("b", "new"),
        ("c", "### d\n\n| x |"),
    ]
