"""pytest plugin: FAISS's test files get `faiss_names.Faiss` for ``faiss``, and outcomes are kept.

The outcomes are written as JSON to ``HYPERPQ_SUITE_REPORT``: for each test its outcome, the last
line of its error, and the number of calls that reached hyperpq.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss as real
import faiss_names
import pytest

CONTRIB = (
    "datasets", "evaluation", "inspect_tools", "exhaustive_search", "factory_tools",
    "big_batch_search", "ivf_tools", "ondisk", "clustering",
)  # fmt: skip
# With FAISS itself: the helpers work on its own indexes.
for _name in CONTRIB:
    importlib.import_module(f"faiss.contrib.{_name}")

outcomes: dict[str, dict[str, Any]] = {}


def test_id(node_id: str) -> str:
    """``file::Class::test`` without the level of instructions that FAISS adds to its classes."""
    return re.sub(r"_NONE(?=::)", "", node_id.rpartition("/")[2])


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    # Only while a test file is imported: hyperpq itself uses FAISS.
    sys.modules["faiss"] = faiss_names.Faiss()
    try:
        return (yield)  # type: ignore[misc]
    finally:
        sys.modules["faiss"] = real


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    patterns = os.environ.get("HYPERPQ_SUITE_NOT_RUN", "").split()
    left_out = [
        item
        for item in items
        if any(fnmatch.fnmatchcase(test_id(item.nodeid), pattern) for pattern in patterns)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = faiss_names.Counter.calls
    try:
        return (yield)  # type: ignore[misc]
    finally:
        calls = faiss_names.Counter.calls - before
        outcomes.setdefault(test_id(item.nodeid), {})["calls"] = calls


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    kept = outcomes.setdefault(test_id(report.nodeid), {})
    if report.failed:
        # The last line of an error of unittest.TestCase is empty after a failed comparison.
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else str(report.longrepr)
        kept.update(outcome="failed", error=" ".join(message.split())[:300])
    elif kept.get("outcome") != "failed" and (report.when == "call" or report.skipped):
        kept["outcome"] = "skipped" if report.skipped else "passed"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        error = str(report.longrepr)[-300:]
        outcomes[test_id(report.nodeid)] = {"outcome": "error", "error": error, "calls": 0}


def pytest_sessionfinish() -> None:
    text = json.dumps(outcomes, indent=1)
    Path(os.environ["HYPERPQ_SUITE_REPORT"]).write_text(text, "utf-8")
