"""One image of all results: what is drawn where, its limits, and names that are odd or long."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from hyperpq.errors import InvalidInputError
from hyperpq.gallery import Caption, Section, Shown, write_contact_sheet
from hyperpq.images.results import Result

COLOURS = ["#d03030", "#30a050", "#3050d0", "#c0a020", "#a030c0", "#20b0b0", "#806040", "#e07090"]


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Images of one colour each; the second is wide."""
    folder = tmp_path_factory.mktemp("colours")
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (80, 40) if number == 1 else (20, 20), colour).save(
            folder / f"{number}.png"
        )
    return [bytes(folder / f"{number}.png") for number in range(len(COLOURS))]


def section(query, paths, error=None):
    found = [Result(n, n / 7, None, n, os.fsdecode(path)) for n, path in enumerate(paths, 1)]
    return Section("a query", [Shown(path, path) for path in query], found, error)


def colours(sheet):
    """Names of the colours whose squares are on a sheet, row by row; each has 60 pixels a side."""
    pixels = np.asarray(sheet.convert("RGB"), int)
    found = []
    for number, colour in enumerate(COLOURS):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        where = np.argwhere(np.abs(pixels - wanted).max(-1) < 12)
        if len(where) > 500:
            found.append((tuple(np.median(where, 0).astype(int) // 40), number))
    return [number for _, number in sorted(found)]


@pytest.mark.parametrize("ending", ["png", "JPG"])
def test_query_and_results_are_in_their_order(coloured, tmp_path, ending):
    out = tmp_path / f"sheet.{ending}"
    sections = [section(coloured[:1], coloured[1:5]), section(coloured[5:6], coloured[6:])]
    write_contact_sheet(out, sections, Caption("Two", [("where", "a < b")]), thumbnail_size=60)
    with Image.open(out) as sheet:
        assert sheet.format == {"png": "PNG", "JPG": "JPEG"}[ending]
        assert colours(sheet) == list(range(8))
        # The captions are dark on white, below the images.
        assert np.asarray(sheet.convert("L")).min() < 60


def test_sheets_grow_by_rows(coloured, tmp_path):
    sizes = []
    for n in (1, 6, 7, 14):
        out = tmp_path / "sheet.png"
        write_contact_sheet(out, [section(coloured[:1], coloured[1:2] * n)], thumbnail_size=40)
        with Image.open(out) as sheet:
            sizes.append(sheet.size)
    assert sizes[0][0] < sizes[1][0] == sizes[2][0] == sizes[3][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1] < sizes[3][1]


def test_what_cannot_be_read_or_was_not_answered_is_drawn_as_such(coloured, tmp_path):
    odd = os.fsencode(tmp_path / "gone") + b"\xff\n\xe2\x80\xae" + b"long" * 60
    sections = [
        section(coloured[:1], [coloured[1], odd, b"no file"]),
        section([odd], [], "no such file"),
        section([], coloured[2:3]),
    ]
    write_contact_sheet(tmp_path / "sheet.png", sections, thumbnail_size=60)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert colours(sheet) == [0, 1, 2]


@pytest.mark.parametrize(
    "name, n, words",
    [
        ("sheet.gif", 1, r"sheet.gif has none of the endings .png, .jpg, .jpeg"),
        ("no/sheet.png", 1, "there is no folder"),
        ("sheet.png", 5000, "a sheet of these results has 15328 x .* ask for fewer results"),
    ],
)
def test_what_cannot_be_a_sheet(coloured, tmp_path, name, n, words):
    with pytest.raises(InvalidInputError, match=words):
        write_contact_sheet(
            tmp_path / name, [section([], coloured[:1] * n)], thumbnail_size=2000 if n > 1 else 60
        )
    assert list(tmp_path.iterdir()) == []
