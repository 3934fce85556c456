"""`hyperpq query --html` and its neighbours: results as images, in a real process."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import json
import os
import pty
import stat
import struct
import subprocess
import sys
import termios
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hyperpq import ImageIndex


def run(hyperpq, place, *args, code=0, **options):
    done = hyperpq("query", *args, cwd=place, **options)
    assert done.returncode == code, done.stderr.decode()
    return done


class Page(HTMLParser):
    """What a page shows."""

    def __init__(self, path):
        super().__init__()
        self.images, self.headings, self.links, self.text = [], [], [], ""
        self._tag = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self._tag, values = tag, dict(attributes)
        if tag == "img":
            content = base64.b64decode(values["src"].partition(",")[2])
            self.images.append((values["alt"], Image.open(io.BytesIO(content)).convert("RGB")))
        if tag == "a":
            self.links.append(values["href"])

    def handle_data(self, data):
        if self._tag == "h2" and data.strip():
            self.headings.append(data)
        self.text += data


def test_a_page_shows_what_json_says(hyperpq, place, photos, tmp_path):
    """Both in one run: results as text go where they were asked to, and the page is whole."""
    out = tmp_path / "out.html"
    options = ("-k", "3", "--where", "width >= 10", "--exclude-self")
    done = run(
        hyperpq, place, photos[0], "gone.jpg", photos[3], *options, "--json", "--html", out, code=1
    )
    assert done.stderr == b"hyperpq: gone.jpg: no such file\n"
    first, second = json.loads(done.stdout)
    page = Page(out)
    assert page.headings == [photos[0].name, "gone.jpg", photos[3].name]
    for answer in (first, second):
        for result in answer["results"]:
            assert f"{result['distance']:.4f}" in page.text
            assert f"{result['similarity']:.1f}" in page.text
    shown = [first["query"], *(r["path"] for r in first["results"])]
    shown += [second["query"], *(r["path"] for r in second["results"])]
    files = [link.removeprefix("file://") for link in page.links if link.startswith("file://")]
    assert files == shown
    assert len(page.images) == 8
    for (_, image), path in zip(page.images, shown, strict=True):
        with Image.open(path) as original:
            assert image.size == original.size
            # The format is lossy: what the eye sees is the same.
            small = [np.asarray(i.convert("RGB").resize((8, 8)), float) for i in (image, original)]
        assert np.abs(small[0] - small[1]).mean() < 6
    for words in ("width >= 10", "hyperpq-index", "exclude self", "not answered: no such file"):
        assert words in page.text


def test_a_page_alone_is_followed_by_a_summary(hyperpq, place, photos, tmp_path):
    out = tmp_path / "page.html"
    done = run(hyperpq, place, photos[0], "--html", out, "--thumbnail-size", "20")
    assert done.stdout.decode().split() == ["queries", "1", "file", str(out)]
    assert done.stderr == b""
    assert {image.size for _, image in Page(out).images} == {(20, 20)}
    assert run(hyperpq, place, photos[0], "--html", out, "-q").stdout == b""
    # Without similarities and for failed queries, too.
    done = run(hyperpq, place, "gone.jpg", "--html", out, code=1)
    assert done.stderr == b"hyperpq: gone.jpg: no such file\n"
    assert "not answered: no such file" in Page(out).text


def test_a_contact_sheet_beside_a_page(hyperpq, place, photos, tmp_path):
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.jpg"
    options = ("--html", page, "--contact-sheet", sheet, "--thumbnail-size", "40")
    done = run(hyperpq, place, photos[0], *options)
    assert done.stdout.decode().split() == ["queries", "1", "file", str(page), "file", str(sheet)]
    with Image.open(sheet) as image:
        # Seven columns of 40 pixels, and two rows.
        assert (image.format, image.width) == ("JPEG", 7 * 40 + 8 * 6)
        assert image.height > 2 * 40
        assert len(image.resize((32, 32)).getcolors(1024)) > 100


def in_terminal(place, *args, way="auto", answer=b""):
    """Run `hyperpq query` in a terminal of 80 columns, and what it has written; its exit code.

    The terminal answers what it is asked before it is asked, so that no answer comes too late.
    """
    here = {"HYPERPQ_PREVIEW": way, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    own, other = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 800, 800))
    os.write(own, answer)
    command = [sys.executable, "-m", "hyperpq", "query", *map(os.fspath, args)]
    with subprocess.Popen(
        command, cwd=place, env={**os.environ, **here}, stdin=other, stdout=other, stderr=other
    ) as process:
        os.close(other)
        written = b""
        # The end of a terminal whose other side is closed is an error on Linux.
        with contextlib.suppress(OSError):
            while data := os.read(own, 1 << 16):
                written += data
        os.close(own)
    return written, process.returncode


@pytest.mark.parametrize(
    "way, answer, mark",
    [
        ("blocks", b"", "▀".encode()),
        ("kitty", b"", b"\x1b_G"),
        ("auto", b"\x1b[?62;4c", b"\x1bP"),  # the terminal says that it shows Sixel
        ("auto", b"\x1b[?62c\x1b_Gi=1;no\x1b\\", "▀".encode()),  # and here that it shows neither
    ],
)
def test_a_preview_in_a_terminal(place, photos, way, answer, mark):
    pytest.importorskip("textual_image")
    written, code = in_terminal(place, photos[0], "-k", "3", "--preview", way=way, answer=answer)
    assert code == 0, written
    # The images of the query, those of the results, and the results as text after them.
    assert written.count(mark) >= 2
    images, _, table = written.rpartition(b"\r\n" + bytes(photos[0]) + b"\r\n")
    assert mark in images
    assert mark not in table
    assert len(table.split(b"\r\n")) == 4


def test_a_preview_needs_a_terminal(hyperpq, place, photos):
    done = run(hyperpq, place, photos[0], "--preview", code=2)
    assert done.stdout == b""
    assert b"stdout is no terminal, which a preview needs; write a page with --html" in done.stderr


def test_files_of_vectors_have_a_page_on_an_index_of_images(hyperpq, place, tmp_path):
    index = ImageIndex.open(place / "hyperpq-index", device="cpu").index
    np.save(tmp_path / "x.npy", index.features_of(index.ids)[:2])
    out = tmp_path / "out.html"
    done = run(hyperpq, place, tmp_path / "x.npy", "-k", "4", "--html", out)
    assert done.stdout.decode().split() == ["queries", "2", "file", str(out)]
    assert Page(out).headings == ["query 0", "query 1"]
    assert len(Page(out).images) == 8
    np.save(tmp_path / "y.npy", np.ones((20, 8), np.float32))
    hyperpq("import", tmp_path / "y.npy", "--index", tmp_path / "vectors", "--epochs", "0")
    done = run(
        hyperpq, place, tmp_path / "y.npy", "--index", tmp_path / "vectors", "--html", out, code=2
    )
    assert b"--html is for an index of images; " in done.stderr


def test_the_page_is_opened_in_a_browser(hyperpq, place, photos, tmp_path):
    """By the program of the desktop, which is given the file."""
    opened = tmp_path / "opened"
    program = tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1" > "{opened}.part"; mv "{opened}.part" "{opened}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    out = tmp_path / "a page%41.html"
    run(hyperpq, place, photos[0], "--html", out, "--open", env=env)
    for _ in range(6000):
        if opened.exists():
            break
        time.sleep(0.01)
    assert opened.read_text().strip() == str(out)


@pytest.mark.parametrize(
    "options, words",
    [
        (("--open",), "--open is given without --html"),
        (("--thumbnail-size", "64"), "--thumbnail-size is given without --html or --"),
        (("--contact-sheet", "out.gif"), "out.gif has none of the endings .png"),
        (("--html", "photos"), "photos is a folder"),
        (("--html", "no/out.html"), "there is no folder no"),
        (("--html", "out.html", "--thumbnail-size", "5"), "16<=x<=2048"),
    ],
)
def test_wrong_use(hyperpq, place, photos, options, words):
    done = run(hyperpq, place, photos[0], *options, code=2)
    (line,) = done.stderr.decode().splitlines()
    assert words in line
