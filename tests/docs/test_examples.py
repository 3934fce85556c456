"""Commands and code of the documentation run as they stand."""

from __future__ import annotations

import configparser
import doctest
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperpq.cli.main import cli

ROOT = Path(__file__).parents[2]


def blocks(page: str, *languages: str) -> list[tuple[str, str]]:
    """Fenced blocks (language, content) of a page, in order."""
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, content) for language, content in found if language in languages]


def test_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYPERPQ_INDEX", raising=False)
    commands, names, ran = [], {}, 0
    for language, content in blocks("README.md", "sh", "pycon"):
        if language == "pycon":
            test = doctest.DocTestParser().get_doctest(content, names, "README.md", None, 0)
            result = doctest.DocTestRunner().run(test, clear_globs=False)
            names.update(test.globs)
            assert result.failed == 0
            ran += result.attempted
        else:
            for line in content.splitlines():
                commands.append(command := shlex.split(line))
                if command[0] == "hyperpq":
                    result = CliRunner().invoke(cli, command[1:], prog_name="hyperpq")
                    assert result.exit_code == 0, f"{command}: {result.output}"
                    assert result.stdout
    assert ran >= 12
    used = [command[1] for command in commands if command[0] == "hyperpq"]
    assert used == ["draw", "build", "query", "query", "info", "verify", "build"]
    [pip] = [command for command in commands if command[0] == "pip"]
    assert pip[:4] == ["pip", "install", "-c", "constraints.txt"]
    assert (ROOT / pip[3]).read_text().count("torch==") == 1


def test_extras_of_the_readme_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## Install\n")[2]
    table = re.findall(r"^\| (`.+?) \|", section.partition("\n## ")[0], flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(
        setup["options.extras_require"]
    )


def test_python_versions_of_the_readme_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    versions = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    assert setup["options"]["python_requires"] == f">={versions[0]}"
    want = f"Python {versions[0]} to {versions[-1]}"
    assert want in (ROOT / "README.md").read_text("utf-8")
    assert want in (ROOT / "run").read_text("utf-8")


def test_readme_begins_with_two_commands_of_run():
    readme = (ROOT / "README.md").read_text("utf-8")
    title, sentence, block, *_ = readme.split("\n\n")
    assert title == "# hyperpq"
    assert sentence.count(". ") == 0
    assert [line.strip() for line in block.splitlines()] == ["./run demo [DIR]", "./run test"]


def test_run_says_how_it_is_used():
    """Its own work isn't done here: that would run these tests again."""
    script = ROOT / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    shown = subprocess.run([script], capture_output=True, text=True)
    assert shown.returncode == 2
    pages = "".join((ROOT / page).read_text("utf-8") for page in ("README.md", "CONTRIBUTING.md"))
    used = set(re.findall(r"\./run (\w+)", pages))
    assert used == {"demo", "test", "setup"}
    for word in used:
        assert re.search(rf"^ *\./run {word}\b", shown.stdout, flags=re.MULTILINE)
        assert re.search(rf"^ *{word}\) ", script.read_text(), flags=re.MULTILINE)


def benchmark_commands() -> list[list[str]]:
    text = (ROOT / "benchmarks/README.md").read_text("utf-8")
    return [shlex.split(line) for line in re.findall(r"^    (python -m \S+.*)$", text, re.M)]


@pytest.mark.parametrize("command", benchmark_commands(), ids=lambda command: command[2])
def test_benchmarks_know_the_options_that_are_named(command):
    shown = subprocess.run(
        [sys.executable, *command[1:3], "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    for option in command[3:]:
        if option.startswith("-"):
            assert option in shown.stdout
