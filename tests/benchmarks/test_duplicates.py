"""The page of near-duplicates has the figures of the published run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RUN = [json.loads(line) for line in (DOCS / "results/runs/duplicates.jsonl").open()]
# Methods that find nothing at the share of wrong copies are not in the table.
SHOWN = [row for row in RUN if any(row["recall"].values())]


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row["name"])
def test_the_table_has_the_figures_of_the_run(row):
    text = (DOCS / "method/duplicates.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {row['name']} ")]
    shares = [*row["recall"].values(), *row["shots"].values(), row["frames"]]
    found = sum(row["recall"].values()) / len(row["recall"])
    expected = [f"{100 * row['wrong']:.2f}", *(f"{100 * share:.1f}" for share in (found, *shares))]
    assert line.strip("| ").split(" | ")[1:] == expected
