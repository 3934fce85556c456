"""The benchmark of whole builds: what it runs, reads, resumes and compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import build
from hyperpq.cli import output

ROOT = Path(build.__file__).parents[1]


@pytest.fixture
def images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "imgs" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "imgs" / name / f"{i}.png")
    return tmp_path / "imgs"


@pytest.fixture
def built(monkeypatch):
    """Builds that take no time: those that were asked for, and what each measured."""
    asked = []

    def made(variant, images, names, n):
        asked.append((variant.name, variant.options, names.count(b"\n"), n))
        seconds = {"against": 100.0, "here": 40.0, "other": 80.0}[variant.name] + len(asked)
        facts = {"seconds": seconds, "cpu": 2 * seconds, "memory": 900.0, "machine": "m"}
        return {**facts, "phases": {"features": seconds / 2}, "map": 0.5, "precision10": 0.25}

    monkeypatch.setattr(build, "build", made)
    return asked


def test_builds_take_turns_and_are_resumed(images, tmp_path, built, capsys, monkeypatch):
    monkeypatch.setattr(build, "network_rate", lambda name: 99.0)
    command = ["--images", str(images), "--against", str(tmp_path), "--other", "--bits 16"]
    command += ["--rounds", "2", "--queries", "5", "--log", str(tmp_path / "log.jsonl")]
    options = ["--", "--epochs", "3"]
    build.main([*command, *options])
    turn = [
        ("against", ("--epochs", "3")),
        ("here", ("--epochs", "3")),
        ("other", ("--bits", "16")),
    ]
    assert built == [(*one, 5, 8) for one in turn * 2]
    text = capsys.readouterr().out
    # Medians of 101 and 104, and of 42 and 45.
    assert "here / against: 0.424 of the time" in text
    assert "| features, s | whole, s |" in text
    build.main([*command, *options])
    assert len(built) == 6, "the log holds them"
    assert capsys.readouterr().out == text
    build.main([*command, "--", "--epochs", "4"])
    assert [name for name, *_ in built[6:]] == ["against", "here"] * 2


def test_phases_are_those_that_a_build_prints():
    spent = {"list": 0.2, "features": 221.96, "train": 36.0, "encode": 0.01}
    text = output.table([("images", "5,000"), ("seconds", output.seconds(spent)), ("code", "x")])
    assert build.phases(text) == {"list": 0.2, "features": 222.0, "train": 36.0}


def test_a_command_runs_in_its_own_tree(tmp_path):
    """Packages at the top of the tree, too, whatever is installed."""
    for name in ("hyperpq", "cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "cli/main.py").write_text("import sys\ndef main(): print(__file__, sys.argv[1:])\n")
    variant = build.Variant("against", tmp_path, ())
    text, spent = build.run(variant.command("build", "--quiet"))
    assert text.split(" ", 1) == [str(tmp_path / "cli/main.py"), "['build', '--quiet']\n"]
    assert spent.memory > 1
    (tmp_path / "cli/main.py").write_text("def main(): raise SystemExit(3)\n")
    with pytest.raises(SystemExit, match=r"^build --quiet failed with 3$"):
        build.run(variant.command("build", "--quiet"))


def test_results_of_a_query_are_judged_by_their_folders(monkeypatch, images):
    answers = [
        {"query": "imgs/a/0.png", "results": [{"path": "imgs/a/1.png"}, {"path": "imgs/b/1.png"}]},
        {"query": "imgs/b/0.png", "results": [{"path": "imgs/b/2.png"}]},
    ]
    given = []

    def run(command, names):
        given.append((command[-5:], names))
        return "".join(json.dumps(answer) + "\n" for answer in answers), None

    monkeypatch.setattr(build, "run", run)
    variant = build.Variant("here", ROOT, ())
    relevant = build.search(variant, images, b"x\ny\n", 2, "--no-refine")
    assert relevant.tolist() == [[True, False], [True, False]]
    ((words, names),) = given
    assert words == ["--format", "ndjson", "--no-refine", "--index", str(images)]
    assert names == b"x\ny\n"


@pytest.mark.slow
def test_a_whole_build_is_measured(images):
    names = b"".join(str(path).encode() + b"\n" for path in sorted(images.rglob("*.png"))[:3])
    found = build.build(build.Variant("here", ROOT, ("--bits", "16")), images, names, 8)
    assert found["phases"]["features"] > 0
    assert found["cpu"] > 0.5
    assert 0 <= found["map"] <= 1
    assert found["memory"] > 50
