"""A process for each command, and one small index that all tests read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_hyperpq(*args, cwd=None, env=None, stdin=b"", timeout=120):
    """Run the command line in a new process; the output is bytes."""
    return subprocess.run(
        [sys.executable, "-m", "hyperpq", *map(os.fspath, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def hyperpq():
    return run_hyperpq


@pytest.fixture(scope="session")
def place(drawn, tmp_path_factory) -> Path:
    """A folder with images in photos/ (24 of 12 species) and their index; not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    for path in sorted(drawn.rglob("*.*"))[::3]:
        if path.suffix in (".png", ".jpg"):
            target = folder / "photos" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    built = run_hyperpq("build", "--images", "photos", "--epochs", "1", cwd=folder)
    assert built.returncode == 0, built.stderr.decode()
    (folder / "build.txt").write_bytes(built.stdout)
    return folder


@pytest.fixture(scope="session")
def photos(place) -> list[Path]:
    return sorted(path for path in (place / "photos").rglob("*") if path.is_file())


@pytest.fixture
def copy(place, tmp_path) -> Path:
    """A copy of `place` to change."""
    shutil.copytree(place, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"
