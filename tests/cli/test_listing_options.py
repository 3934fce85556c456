"""What is listed in a folder is recorded with it, and every option can be taken back."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from hyperpq import ImageIndex
from hyperpq.cli.main import cli
from hyperpq.images.roots import recorded_roots


@pytest.fixture
def run(copy, place, photos, monkeypatch):
    """Run a command in a copy of `place` that has a folder ``own``; returns stdout."""
    monkeypatch.chdir(copy)
    for number, name in enumerate(("a.jpg", "raw/b.jpg", ".hidden/c.jpg")):
        path = copy / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another content: what is equal is recognised as moved.
        path.write_bytes(photos[0].read_bytes() + bytes(number + 1))

    def invoke(*args, code=0):
        done = CliRunner().invoke(cli, list(args), prog_name="hyperpq")
        assert done.exit_code == code, done.output
        return done.stderr if code else done.stdout

    return invoke


def listed(copy):
    """How ``own`` is listed, and the names of its images in the index."""
    images = ImageIndex.open(copy / "hyperpq-index", device="cpu")
    (root,) = (root for root in recorded_roots(images.index) if root.path.endswith(b"/own"))
    names = {path.split("/own/")[1] for path in images.paths() if "/own/" in path}
    return root.exclude, root.include_hidden, names


def test_what_is_excluded_and_hidden_can_be_taken_back(run, copy):
    run("add", "own", "--exclude", "raw", "--include-hidden")
    assert listed(copy) == (("raw",), True, {"a.jpg", ".hidden/c.jpg"})
    run("build", "own", "--no-exclude", "--no-include-hidden")
    assert listed(copy) == ((), False, {"a.jpg", "raw/b.jpg"})


def test_patterns_together_with_none(run):
    for command in ("build", "add"):
        for options in (("--exclude", "a", "--no-exclude"), ("--no-exclude", "--exclude", "a")):
            said = run(command, "own", *options, code=2)
            assert "--exclude and --no-exclude exclude each other; choose one." in said
