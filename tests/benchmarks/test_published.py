"""The committed pages of results are those that the committed runs make."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import (
    ablation_page,
    growth,
    growth_page,
    levels_page,
    quality_page,
    robustness,
    scan_page,
    store,
    trees_page,
)
from benchmarks.ablation_variants import VARIANTS
from benchmarks.pages import MADE, with_kept_sections

RESULTS = Path(__file__).parents[2] / "docs/results"
WRITERS = {
    "ablation": lambda out: ablation_page.write_ablation_page(out, VARIANTS),
    "growth": lambda out: growth_page.write_growth_page(out, [c.name for c in growth.CURVES]),
    "levels": levels_page.write_levels_page,
    "quality": quality_page.write_quality_page,
    "robustness": robustness.write_robustness_page,
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


def test_sections_that_are_not_written_now_stay(tmp_path):
    page = tmp_path / "page.md"
    assert with_kept_sections(page, {"b": "new"}) == {"b": "new"}
    page.write_text(f"# T\n\nFound.\n\n## b\n\nold\n\n## c\n\n### d\n\n| x |\n\n## {MADE}\n\nSo.\n")
    assert list(with_kept_sections(page, {"b": "new", "a": "1"}).items()) == [
        ("a", "1"),
        ("b", "new"),
        ("c", "### d\n\n| x |"),
    ]
