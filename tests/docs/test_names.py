"""Names that pages and docstrings mention can be imported from where a reader would look."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import hyperpq
from hyperpq import errors

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
# Pages for users, who import from `hyperpq` what has no module beside it.
FOR_USERS = [
    page
    for page in PAGES
    if page == "README.md" or re.match(r"docs/(start|tutorials|how-to|reference)/", page)
]
# Endings of files: `hyperpq.building` is a folder, and so on.
FILES = {"py", "pyi", "md", "json", "csv", "h5", "toml", "cfg", "building"}


def sources() -> list[Path]:
    folders = ("hyperpq", "cli", "datasets")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def dotted_names(text: str) -> set[str]:
    """``hyperpq.package.name`` and what ``from hyperpq.package import`` names."""
    names = set(re.findall(r"(?<![\w./-])hyperpq(?:\.\w+)+", text))
    for module, listed in re.findall(r"\bfrom (hyperpq[\w.]*) import (\([\w\s,]+\)|[\w ,]+)", text):
        parts = (part.split()[0] for part in listed.strip("()").split(",") if part.split())
        names |= {f"{module}.{part}" for part in parts}
    return {name for name in names if name.rpartition(".")[2] not in FILES}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            # Attributes that an object gets in its constructor are only annotated.
            if part in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_of_pages_exist(page):
    names = dotted_names((ROOT / page).read_text("utf-8"))
    assert [name for name in sorted(names) if not exists(name)] == []


def test_dotted_names_of_docstrings_exist():
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, kinds):
                found |= dotted_names(ast.get_docstring(node) or "")
    assert len(found) > 3
    assert [name for name in sorted(found) if not exists(name)] == []


def classes() -> set[str]:
    """Names of all classes that hyperpq defines."""
    out = set()
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        out |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return out


@pytest.mark.parametrize("page", FOR_USERS)
def test_classes_of_pages_for_users_can_be_imported(page):
    """`docs/reference/faiss.md` named selectors that `hyperpq` did not offer."""
    text = (ROOT / page).read_text("utf-8")
    with_module = {name.rpartition(".")[2] for name in dotted_names(text)}
    named = set(re.findall(r"`(\w+)(?:\([^`\n]*\))?(?:\.\w+)*`", text)) & classes()
    assert [
        name
        for name in sorted(named - with_module)
        if not hasattr(hyperpq, name) and not hasattr(errors, name)
    ] == []


def test_public_names_of_the_package_can_be_imported():
    for package in pkgutil.iter_modules(hyperpq.__path__):
        if package.name == "__main__" or package.name.startswith("_"):
            continue
        module = importlib.import_module(f"hyperpq.{package.name}")
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"hyperpq.{package.name}.{name}"
    for name in hyperpq.__all__:
        assert hasattr(hyperpq, name), name


def test_selectors_have_their_names_in_faiss():
    from hyperpq import filters

    selectors = [name for name in filters.__all__ if name.startswith("IDSelector")]
    assert len(selectors) == 10
    for name in [*selectors, "SearchParameters"]:
        assert getattr(hyperpq, name) is getattr(filters, name)
