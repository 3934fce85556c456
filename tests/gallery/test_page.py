"""The page of results: in a real browser, with hostile names, missing files and many results."""

from __future__ import annotations

import base64
import gc
import io
import os
import re
import shutil
import tracemalloc
from html.parser import HTMLParser

import numpy as np
import pytest
from browsing import tab
from PIL import Image

from hyperpq.errors import InvalidInputError
from hyperpq.gallery import Caption, Section, Shown, sections_of, thumbnails, write_page
from hyperpq.images import Combination
from hyperpq.images.results import Answer, Result

# Each would run a script or end an element, if it were not escaped where it is shown.
HOSTILE = [
    b'"><script>alert(1)</script>.jpg',
    b'x" onload="alert(1)" y=\'.jpg',
    b"<img src=x onerror=alert(1)>.jpg",
    b"two\nlines\ttab.jpg",
    b"caf\xe9 \xff\xfe.jpg",
    b"gpj.\xe2\x80\xaetxt.jpg",
    b"$title ${title} $$ &lt; &amp;.jpg",
    b"--><!--]]>.jpg",
    b"javascript:alert(1).jpg",
    "日本語 👩\u200d🚀 naïve.jpg".encode(),
    b"long" * 60 + b".jpg",
    b"%2e%2e%00#frag?query.jpg",
]


def results(paths):
    return [
        Result(rank, rank / 7, 100 - rank, rank, os.fsdecode(path))
        for rank, path in enumerate(paths, 1)
    ]


def section(query, paths):
    return Section(query.name, [Shown(bytes(query), bytes(query))], results(paths))


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def odd_names(images, tmp_path_factory):
    folder = os.fsencode(tmp_path_factory.mktemp("odd"))
    paths = [os.path.join(folder, name) for name in HOSTILE]
    for path, image in zip(paths, images, strict=False):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(image, path)
    return paths


@pytest.fixture(scope="module")
def written(images, odd_names, tmp_path_factory):
    """Three queries: one plain, one whose names are hostile, one that failed."""
    folder = tmp_path_factory.mktemp("page")
    torn = folder / "torn.jpg"
    torn.write_bytes(images[0].read_bytes()[:60])
    sections = [
        section(images[0], [bytes(path) for path in images[1:13]]),
        Section(
            os.fsdecode(HOSTILE[0]),
            [Shown(odd_names[0], odd_names[0], 1.0), Shown(odd_names[1], odd_names[1], -0.5)],
            results([*odd_names, bytes(folder / "gone.jpg"), bytes(torn), b"no file"]),
        ),
        Section("gone.jpg", [Shown(bytes(folder / "gone.jpg"), b"gone.jpg")], error="no such file"),
        Section("query 3", [], results([bytes(images[5])])),
    ]
    path = folder / "out.html"
    facts = [("index", "</dd><script>alert(2)</script>"), ("where", "width >= 40 and \"a\" < 'b'")]
    write_page(path, sections, Caption("Similar to <4> queries", facts))
    return path


def test_the_page_holds_all_that_it_shows(written, images, odd_names):
    """Nothing is loaded, nothing is executed but the one script, and paths lead to the files."""
    text = written.read_text("utf-8")
    page = Elements(text)
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert not any("style" in attributes for _, attributes in page.found)
    for image in page.of("img"):
        assert image["src"].startswith("data:image/webp;base64,")
        content = base64.b64decode(image["src"].partition(",")[2], validate=True)
        assert Image.open(io.BytesIO(content)).size == (int(image["width"]), int(image["height"]))
        assert image["alt"]
    assert len(page.of("img")) == 1 + 12 + 2 + 12 + 1
    links = [a["href"] for a in page.of("a")]
    assert links.count(images[1].as_uri()) == 1
    assert all(link.startswith(("#", "file:///")) for link in links)
    # The address of a name that is not UTF-8 has its bytes.
    assert any(link.endswith("/caf%E9%20%FF%FE.jpg") for link in links)
    assert "\u202e" not in text
    assert r"caf\xe9 \xff\xfe.jpg" in text
    shown = "".join(page.text)
    for words in ("no such file", "truncated", "Similar to <4> queries", "0.1429", "99.0", "−0.5"):
        assert words in shown
    assert page.of("html") == [{"lang": "en"}]


def test_the_policy_allows_the_style_and_the_script_alone(written, browser):
    """In a browser: all images are there, no error, no request, and no script of a name ran."""
    with tab(browser, written) as shown:
        shown.page.on("dialog", lambda dialog: shown.messages.append(dialog.message))
        shown.show_all()
        assert len(shown.widths()) == 28
        assert min(shown.widths()) > 0
        # The script ran: its control is shown.
        assert shown.page.locator(".sizes").is_visible()
        before = shown.page.locator(".tile").first.bounding_box()["width"]
        shown.page.locator(".sizes input").fill("320")
        assert shown.page.locator(".tile").first.bounding_box()["width"] > before
        assert shown.page.locator("script").count() == 1
        assert shown.messages == []
        assert shown.requests == [written.as_uri()]
        # What is added later is refused.
        shown.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "document.title = 'broken'";
              document.body.append(script);
            }"""
        )
        assert shown.page.title() == "Similar to <4> queries"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_everybody_can_read_it(written, browser, scheme, width):
    """axe finds nothing, contrast among it; no page is wider than a telephone."""
    with tab(browser, written, width=width, scheme=scheme) as shown:
        shown.show_all()
        assert shown.faults() == []
        assert shown.overflow() <= 0
        colour = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour)[:3])) > 3 * 128) == (scheme == "light")


def test_the_keyboard_reaches_results(written, browser):
    with tab(browser, written) as shown:
        shown.page.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "Skip to the results"
        shown.page.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.id") == "results"
        shown.page.keyboard.press("Tab")
        shown.page.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.querySelector('img').alt").startswith(
            "Result 1: "
        )
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"


def test_a_thousand_results(images, browser, tmp_path):
    """The page stays usable: what is not on the screen is not laid out."""
    paths = [bytes(path) for path in images] * 42
    write_page(tmp_path / "out.html", [section(images[0], paths)], thumbnail_size=64)
    with tab(browser, tmp_path / "out.html") as shown:
        assert shown.page.locator(".tile").count() == 1008
        last = shown.page.locator(".tile").last
        last.scroll_into_view_if_needed()
        last.locator("img").evaluate("image => image.decode()")
        assert last.locator("img").evaluate("image => image.naturalWidth") > 0
        assert shown.messages == []


def test_memory_does_not_grow_with_the_number_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "_KEPT_PIXELS", 0)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "0.png")
    paths = [tmp_path / f"{number}.png" for number in range(100)]
    for path in paths[1:]:
        path.hardlink_to(paths[0])

    def peak(n):
        shown = section(paths[0], [bytes(path) for path in paths[:n]])
        gc.collect()
        tracemalloc.start()
        write_page(tmp_path / "out.html", [shown], thumbnail_size=200)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)  # what is imported and cached
    few, many = peak(20), peak(100)
    assert many - few < (tmp_path / "out.html").stat().st_size / 10


def test_answers_become_sections(images):
    answer = Answer(str(images[0]), results([bytes(images[1])]))
    (of_file,) = sections_of([answer])
    assert of_file.title == images[0].name
    assert of_file.query[0].source == bytes(images[0])
    # A query without a file has what it is given.
    picture = Image.open(images[0])
    (given,) = sections_of([Answer("", answer.results)], [picture])
    assert (given.title, given.query[0].source) == (images[0].name, picture)
    (several,) = sections_of([answer], [Combination([images[0], picture, images[1]], [1, 2, -0.5])])
    assert [shown.signed_weight for shown in several.query] == ["+1", "+2", "−0.5"]
    assert several.title.startswith(f"+1 {images[0].name} +2 ")
    (bare,) = sections_of([Answer("", answer.results)])
    assert (bare.title, list(bare.query)) == ("query 0", [])


def test_images_of_all_kinds_have_thumbnails(images, tmp_path):
    wide = Image.new("RGBA", (900, 30), (255, 0, 0, 128))
    wide.save(tmp_path / "wide.png")
    turned = Image.new("L", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    paths = [bytes(tmp_path / "wide.png"), bytes(tmp_path / "turned.jpg")]
    sections = [Section("x", [Shown(wide, b"")], results(paths))]
    write_page(tmp_path / "out.html", sections, thumbnail_size=100)
    sizes = [
        (int(image["width"]), int(image["height"]))
        for image in Elements((tmp_path / "out.html").read_text("utf-8")).of("img")
    ]
    assert sizes == [(100, 3), (100, 3), (20, 40)]


def test_a_page_is_written_completely_or_not_at_all(images, tmp_path, monkeypatch):
    out = tmp_path / "out.html"
    out.write_text("before")
    monkeypatch.setattr(Shown, "label", property(lambda shown: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        write_page(out, [section(images[0], [bytes(images[1])])])
    assert out.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.html"]
    for path, size, words in [
        (tmp_path, 64, "is a folder"),
        (tmp_path / "no" / "out.html", 64, "no folder"),
        (out, 8, "size of thumbnails is 8; expected an integer of at least 16"),
    ]:
        with pytest.raises(InvalidInputError, match=words):
            write_page(path, [], thumbnail_size=size)
