"""Images in a terminal: as characters, whose colours are those of the images, and captions."""

from __future__ import annotations

import io
import os
import re

import pytest
from PIL import Image

from hyperpq.errors import InvalidInputError, MissingDependencyError
from hyperpq.gallery import Section, Shown, print_preview
from hyperpq.gallery.terminal import check_terminal
from hyperpq.images.results import Result


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    pytest.importorskip("textual_image")
    monkeypatch.setenv("HYPERPQ_PREVIEW", "blocks")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "50")


@pytest.fixture
def sections(tmp_path):
    """A query of two images, and three results, of which the last cannot be read."""
    paths = []
    for name, colour in (("red", "#ff0000"), ("green", "#00ff00"), ("blue", "#0000ff")):
        Image.new("RGB", (50, 50), colour).save(tmp_path / f"{name}.png")
        paths.append(bytes(tmp_path / f"{name}.png"))
    found = [*paths[1:], os.fsencode(tmp_path / "go\x1b[2Jne.png")]
    results = [Result(n, n / 7, 50.0 + n, n, os.fsdecode(p)) for n, p in enumerate(found, 1)]
    query = [Shown(paths[0], b"red.png", 1.0), Shown(paths[2], b"blue.png", -0.5)]
    return [Section("a\x1b[31m query", query, results), Section("b", error="no such file")]


def test_images_and_captions(sections):
    shown = Terminal()
    print_preview(sections, file=shown)
    lines = shown.getvalue().splitlines()
    text = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]
    captions = [re.sub(" {2,}", "  ", line) for line in text if line and "▀" not in line]
    assert captions == [
        r"a\x1b[31m query: 3 images",
        "query +1  query \N{MINUS SIGN}0.5",
        "red.png  blue.png",
        "1  51.0  0.1429  2  52.0  0.2857",
        "green.png  blue.png",
        # As many are beside each other as there is room for; the rest follows below.
        "3  53.0  0.4286",
        "no such file",
        "b: not answered: no such file",
    ]
    colours = [re.findall(r"38;2;(\d+;\d+;\d+)", line) for line in lines if "▀" in line]
    middle = len(colours) // 4
    assert {len(row) for row in colours} == {39}
    assert set(colours[middle][2:18]) == {"255;0;0"}
    assert set(colours[middle][21:38]) == {"0;0;255"}
    assert set(colours[3 * middle][2:18]) == {"0;255;0"}
    # No control character of a name is among them.
    assert not re.search(r"\x1b(?!\[[0-9;]*m)", shown.getvalue())
    assert "\x1b[31m" not in shown.getvalue()


def test_what_is_needed(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"stdout is no terminal.* --html"):
        check_terminal()
    monkeypatch.setattr("sys.stdout", Terminal())
    check_terminal()
    monkeypatch.setenv("HYPERPQ_PREVIEW", "sixl")
    with pytest.raises(InvalidInputError, match=r"expected auto, kitty, .*did you mean 'sixel'"):
        check_terminal()
    monkeypatch.setenv("HYPERPQ_PREVIEW", "sixel")
    monkeypatch.setitem(__import__("sys").modules, "textual_image.renderable", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[preview\]'"):
        check_terminal()
