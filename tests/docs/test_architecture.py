"""The table of rooms is the truth: every file has its line, and imports run downwards only."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hyperpq": "hyperpq", "cli": "hyperpq.cli", "datasets": "hyperpq.datasets"}


def module_name(file: str) -> str:
    """``cli/main.py`` -> ``hyperpq.cli.main``."""
    top, *rest = Path(file).with_suffix("").parts
    return ".".join([PACKAGES[top], *(part for part in rest if part != "__init__")])


def rooms() -> list[str]:
    """Files of the table, from top to bottom."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    return re.findall(r"^\| `([^`]+\.pyi?)` \|", text, flags=re.MULTILINE)


FILES = sorted(
    str(file.relative_to(ROOT))
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py*")
    if file.suffix in (".py", ".pyi")
)
MODULES = {module_name(file) for file in FILES}


def imports(source: str) -> set[str]:
    """Modules of hyperpq that a source imports anywhere in it."""
    out = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole package"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            out |= names & MODULES or {str(node.module)}
    return {name for name in out if name.split(".")[0] == "hyperpq"}


def test_imports_are_found_however_they_are_written():
    source = (
        "import hyperpq.codes\n"
        "from hyperpq import lorentz\n"
        "from hyperpq.errors import StoreError\n"
        "def f():\n    from hyperpq.store import IndexStore\n    import numpy\n"
    )
    assert imports(source) == {
        "hyperpq.codes",
        "hyperpq.geometry.lorentz",
        "hyperpq.errors",
        "hyperpq.store",
    }


def test_every_file_has_its_line():
    listed = rooms()
    assert sorted(listed) == FILES, "docs/architecture.md lists other files than there are"


@pytest.mark.parametrize("file", FILES)
def test_imports_run_downwards(file):
    order = {module_name(room): line for line, room in enumerate(rooms())}
    here = order[module_name(file)]
    upwards = {
        name for name in imports((ROOT / file).read_text("utf-8")) if order.get(name, -1) <= here
    }
    assert not upwards, f"{file} imports {sorted(upwards)}, which docs/architecture.md has above it"
