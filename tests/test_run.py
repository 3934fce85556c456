"""`./run demo`: an index of a folder, three queries, and a page that shows their images."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_demo_ends_with_a_page(drawn, tmp_path):
    """The environment is this one: only the installation is left out."""
    script = (ROOT / "run").read_text("utf-8")
    place = tmp_path / "checkout"
    program = place / ".venv" / "bin" / "hyperpq"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hyperpq "$@"\n')
    program.chmod(0o755)
    start, end = script.index("\nsetup() {"), script.index("\nwants_cpu_builds()")
    (place / "run").write_text(f"{script[:start]}\nsetup() {{ :; }}\n{script[end:]}", "utf-8")
    shutil.copytree(drawn, tmp_path / "my images")
    done = subprocess.run(
        ["bash", place / "run", "demo", "my images"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    [page] = re.findall(r"^hyperpq: these images on a page for a browser: (.+)$", done.stderr, re.M)
    text = Path(page).read_text("utf-8")
    assert Path(page).parent == place
    assert text.count('<section class="query"') == 3
    assert text.count("<img ") == 3 * (1 + 5)
    # The results as text are there, too.
    assert len(re.findall(r"^ +\d  ", done.stdout, re.M)) >= 15
