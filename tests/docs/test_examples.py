"""Commands and code of the documentation run as they stand."""

from __future__ import annotations

import configparser
import doctest
import itertools
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hyperpq.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(page.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", ".github/**/*.md")
    for page in ROOT.glob(pattern)
)
CODE = {"sh", "python", "pycon"}
TEXT = {"bibtex", "json", "math", "text"}
SERVER = "http://127.0.0.1:8000"
# Why a block may be shown and not run.
REASONS = {
    "downloads weights",
    "needs CIFAR-10",
    "needs a GPU",
    "needs a bucket",
    "needs a terminal",
    "needs a server of the web",
    "needs a file of your own",
    "takes minutes",
    "tests/store runs it",
}
# Options that name what is written in the place of stdout.
INTO_FILES = {"--out", "--links", "--html"}
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<content>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``reason`` says why it isn't run."""

    language: str
    content: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    return [Block(m["language"], m["content"], m["reason"]) for m in BLOCK.finditer(text)]


def predecessor(page: str) -> str | None:
    """The page whose files a page takes over."""
    text = (ROOT / page).read_text("utf-8")
    marks = re.findall(r"^<!-- continues: (.+) -->$", text, flags=re.MULTILINE)
    assert len(marks) <= 1
    return f"docs/{marks[0]}" if marks else None


RUNNING = [page for page in PAGES if any(b.language in CODE and not b.reason for b in blocks(page))]


class Run:
    """Runs the blocks of one page from top to bottom; counts what ran."""

    def __init__(self, page: str) -> None:
        self.page, self.names, self.examples = page, {}, 0
        self.commands: list[list[str]] = []
        self.server: subprocess.Popen | None = None
        self.address = SERVER

    def __call__(self) -> Run:
        try:
            for block in blocks(self.page):
                if block.language in CODE and block.reason is None:
                    content = block.content.replace(SERVER, self.address)
                    getattr(self, block.language)(content)
        finally:
            if self.server is not None:
                self.server.terminate()
                self.server.communicate(timeout=60)
        return self

    def pycon(self, content: str) -> None:
        test = doctest.DocTestParser().get_doctest(content, self.names, self.page, None, 0)
        result = doctest.DocTestRunner().run(test, clear_globs=False)
        self.names.update(test.globs)
        assert result.failed == 0
        self.examples += result.attempted

    def python(self, content: str) -> None:
        exec(compile(content, self.page, "exec"), self.names)
        self.examples += 1

    def sh(self, content: str) -> None:
        for line in content.splitlines():
            line = line.replace(SERVER, self.address)
            self.commands.append(words := shlex.split(line, comments=True))
            if words[:2] == ["hyperpq", "serve"] and words[-1] == "&":
                self.serve(words[1:-1])
            elif words[0] == "hyperpq":
                result = CliRunner().invoke(cli, words[1:], prog_name="hyperpq")
                assert result.exit_code == 0, f"{line}: {result.output}"
                files = [b for a, b in itertools.pairwise(words) if a in INTO_FILES]
                assert result.stdout or (files and all(map(os.path.exists, files))), line
            elif words[0] == "pip":
                check_pip(words)
            elif words[0] == "./run":
                check_run(words)
            else:
                commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
                env = {**os.environ, "PATH": commands}
                subprocess.run(["bash", "-ec", line], check=True, env=env)

    def serve(self, words: list[str]) -> None:
        """A server runs beside the page, on a free port in the place of that which is shown."""
        command = [sys.executable, "-m", "hyperpq", *words, "--port", "0"]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.address = self.server.stdout.readline().decode().split()[-1]
        ready = f"curl -sf --retry 60 --retry-delay 1 --retry-all-errors {self.address}/readyz"
        subprocess.run(shlex.split(ready), check=True, stdout=subprocess.DEVNULL)


def check_pip(words: list[str]) -> None:
    """Its own work isn't done here: that the requirements exist is checked."""
    assert words[:2] == ["pip", "install"]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for name, value in itertools.pairwise(words):
        if name == "-c":
            assert (ROOT / value).read_text().count("torch==") == 1
    [extras] = re.fullmatch(r"\.\[(.+)\]", words[-1]).groups()
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
    assert len({"train", "gpu"} & set(extras.split(","))) == 1


def check_run(words: list[str]) -> None:
    """Its own work isn't done here: that would run these tests again."""
    script = (ROOT / "run").read_text()
    assert re.search(rf"^#   \./run {words[1]}\b", script, flags=re.MULTILINE)
    assert re.search(rf"^ *{words[1]}\) ", script, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where pages run, and where the files that a page left are kept for those that continue it.

    An index of images holds absolute paths, so every page runs in the same folder.
    """
    return tmp_path_factory.mktemp("examples"), {}


@pytest.fixture
def run_page(place, monkeypatch):
    """Run a page in a folder of its own, or with the files of the page that it continues."""
    top, left = place
    work = top / "work"
    monkeypatch.delenv("HYPERPQ_INDEX", raising=False)

    def run(page: str) -> Run:
        before = predecessor(page)
        if before and before not in left:
            run(before)
        shutil.rmtree(work, ignore_errors=True)
        if before:
            shutil.copytree(left[before], work)
        else:
            work.mkdir()
        monkeypatch.chdir(work)
        done = Run(page)()
        end_workers_of_joblib()
        if page not in left and any(predecessor(other) == page for other in RUNNING):
            left[page] = shutil.copytree(work, top / f"left-{len(left)}")
        return done

    return run


def end_workers_of_joblib() -> None:
    """They would be there for later tests, in a folder that is gone, where MKL ends a process."""
    loky = sys.modules.get("joblib.externals.loky")
    if loky is not None:
        loky.get_reusable_executor().shutdown(wait=True)


def marked(page: str) -> object:
    """A page as a parameter; most build indexes of images, half a minute on two cores."""
    is_fast = "hyperpq build" not in (ROOT / page).read_text("utf-8") and not predecessor(page)
    return page if is_fast else pytest.param(page, marks=pytest.mark.slow)


@pytest.mark.parametrize("page", [marked(page) for page in RUNNING if page != "README.md"])
def test_page_runs_from_top_to_bottom(page, run_page):
    done = run_page(page)
    assert done.examples + len(done.commands) > 0


def test_readme_shows_the_main_commands(run_page):
    done = run_page("README.md")
    assert done.examples >= 12
    used = [command[1] for command in done.commands if command[0] == "hyperpq"]
    assert used == ["draw", "build", "query", "query", "ls", "info", "verify", "query", "build"]
    [pip] = [command for command in done.commands if command[0] == "pip"]
    assert pip[:4] == ["pip", "install", "-c", "constraints.txt"]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_known_language(page):
    text = (ROOT / page).read_text("utf-8")
    found = blocks(page)
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2 * len(found)
    for block in found:
        assert block.language in CODE | TEXT, block
        assert block.reason is None or block.language in CODE
    assert text.count("<!-- not run") == sum(block.reason is not None for block in found)


SHOWN = [(page, block) for page in PAGES for block in blocks(page) if block.reason]


@pytest.mark.parametrize(("page", "block"), SHOWN, ids=[page for page, _ in SHOWN])
def test_what_is_not_run_is_right_as_far_as_can_be_told(page, block):
    assert block.reason in REASONS
    if block.language == "python":
        compile(block.content, page, "exec")
    elif block.language == "sh":
        for line in block.content.splitlines():
            words = shlex.split(line)
            if words[0] == "hyperpq":
                # click keeps what it finds for --help, which the program has as -h, too.
                parent = click.Context(cli, **cli.context_settings)
                cli.get_command(parent, words[1]).make_context(words[1], words[2:], parent=parent)
            else:
                assert words in benchmark_commands()


def test_extras_of_the_installation_page_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    page = (ROOT / "docs/start/installation.md").read_text("utf-8")
    section = page.partition("\n## Extras\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(table))) == sorted(
        setup["options.extras_require"]
    )


def test_python_versions_of_the_documentation_are_those_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    versions = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    assert setup["options"]["python_requires"] == f">={versions[0]}"
    want = f"Python {versions[0]} to {versions[-1]}"
    for file in ("README.md", "run", "docs/start/installation.md"):
        assert want in (ROOT / file).read_text("utf-8"), file


def test_readme_begins_with_what_a_reader_decides_by():
    """Its first screen: a sentence, a figure, the comparison of four rows, the two commands."""
    readme = (ROOT / "README.md").read_text("utf-8")
    title, sentence, figure, caption, table, lead, block, *_ = readme.split("\n\n")
    assert title == "# hyperpq"
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")
    [image] = re.fullmatch(r"!\[.{20,}\]\((docs/img/[\w.-]+)\)", figure.replace("\n", " ")).groups()
    assert (ROOT / image).stat().st_size < 300_000
    assert "docs/make_figure.py" in caption
    rows = table.splitlines()
    assert rows[1] == "| --- | --- |"
    assert len(rows) == 2 + 4
    assert ["hyperpq" in rows[2], "FAISS" in rows[3], "CLIP" in rows[4]] == [True] * 3
    assert lead.endswith(":")
    fence, *commands, end = block.splitlines()
    assert [fence, end] == ["```sh", "```"]
    assert [shlex.split(line, comments=True) for line in commands] == [
        ["./run", "demo", "[DIR]"],
        ["./run", "test"],
    ]


def test_run_says_how_it_is_used():
    """Its own work isn't done here: that would run these tests again."""
    script = ROOT / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    shown = subprocess.run([script], capture_output=True, text=True)
    assert shown.returncode == 2
    pages = "".join((ROOT / page).read_text("utf-8") for page in ("README.md", "CONTRIBUTING.md"))
    used = set(re.findall(r"\./run (\w+)", pages))
    assert used == {"demo", "test", "setup", "docs"}
    for word in used:
        assert re.search(rf"^ *\./run {word}\b", shown.stdout, flags=re.MULTILINE)
        assert re.search(rf"^ *{word}\) ", script.read_text(), flags=re.MULTILINE)


def benchmark_commands() -> list[list[str]]:
    text = (ROOT / "benchmarks/README.md").read_text("utf-8").replace("\\\n", " ")
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
