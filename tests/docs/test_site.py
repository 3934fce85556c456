"""The documentation builds as a site: strictly, for readers without a connection, with formulas."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
# Attributes of elements that a browser loads by itself.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src")}


class Elements(HTMLParser):
    """Counts elements and collects what they refer to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.count, self.loaded, self.links, self.ids = {}, [], [], set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids |= {values["id"]} if values.get("id") else set()
        for name, value in attrs:
            if (tag, name) in LOADED and values.get("rel") not in ("canonical", "next", "prev"):
                self.loaded.append(value)
            if (tag, name) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `./run docs` builds it; a warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site):
    return {page: Elements(page) for page in site.rglob("*.html") if page.name != "404.html"}


def test_every_page_is_in_the_navigation(site):
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    named = set(re.findall(r"([\w/.-]+\.md)$", settings, flags=re.MULTILINE))
    from_outside = {"index.md", "contributing.md", "changelog.md", "security.md"}
    from_outside.add("results/benchmarks.md")
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert named == there | from_outside


def test_nothing_is_loaded_from_another_host(site, pages):
    assert len(pages) > 40
    for page, elements in pages.items():
        for target in elements.loaded:
            parts = urlsplit(target)
            assert not parts.netloc, f"{page} loads {target}"
            if not parts.scheme:
                assert (page.parent / unquote(parts.path)).exists(), f"{page} loads {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text("utf-8")), style


def test_links_and_anchors_lead_somewhere(pages):
    for page, elements in pages.items():
        for link in elements.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page} links to {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].ids, f"{page} links to {link}"


def test_formulas_are_mathml(site):
    """As many as the source has; none is left as text."""
    for name in ("method", "method/fidelity"):
        source = (ROOT / f"docs/{name}.md").read_text("utf-8")
        blocks = len(re.findall(r"^```math$", source, flags=re.MULTILINE))
        spans = len(re.findall(r"\$`.+?`\$", re.sub(r"```math\n.*?```", "", source, flags=re.S)))
        text = (site / name / "index.html").read_text("utf-8")
        assert text.count("<math") == blocks + spans
        assert text.count('class="formula"') == blocks
        assert "$`" not in text
        assert "$<" not in text
    assert (site / "assets/stix-two-math.woff2").stat().st_size > 50_000


def test_public_names_are_in_the_reference(site):
    """Every name of the packages that the reference has pages for."""
    anchors = set()
    for page in (site / "reference/python").rglob("index.html"):
        anchors |= Elements(page).ids
    stubs = ("hyperpq", "hyperpq/index", "hyperpq/images", "hyperpq/codec", "hyperpq/geometry")
    for package in stubs:
        text = (ROOT / package / "__init__.pyi").read_text("utf-8")
        for name in re.findall(r" as ([A-Z]\w+|build_\w+|\w+_index|get_\w+)$", text, re.MULTILINE):
            if name.isupper() or name in ("Metric", "GeometryName"):
                continue
            assert any(anchor.endswith(f".{name}") for anchor in anchors), f"{package}: {name}"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Loads each page in a frame of a telephone's width, widens it, and reports how wide its content is.
HARNESS = """<!doctype html><iframe height="900"></iframe><script>
const frame = document.querySelector("iframe");
(async () => {
  const found = [];
  for (const page of PAGES) for (const width of [400, 1280]) {
    frame.width = width;
    if (width === 400) await new Promise(done => { frame.onload = done; frame.src = page; });
    await new Promise(requestAnimationFrame);
    // What moves to another place as the frame becomes wider is there at once.
    for (const animation of frame.contentDocument.getAnimations())
      if (animation instanceof frame.contentWindow.CSSTransition) animation.finish();
    const root = frame.contentDocument.scrollingElement;
    const broken = [...frame.contentDocument.images].filter(image => !image.naturalWidth).length;
    found.push({page, width, content: root.scrollWidth, broken});
  }
  await fetch("/report", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the site without a log, and keeps what the page of the harness reports."""

    def do_GET(self):
        # From it each page makes the index of its search, which takes longer than all else.
        if self.path.endswith("/search_index.json"):
            self.send_error(404)
        else:
            super().do_GET()

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.reports.put(json.loads(text))

    def log_message(self, *args):
        pass


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser Chromium")
def test_pages_fit_into_a_telephone_and_show_their_figures(site, pages, tmp_path):
    """In a real browser: no page is wider than the window, and every figure is drawn."""
    names = sorted("/" + str(page.relative_to(site)) for page in pages)
    (site / "harness.html").write_text(HARNESS.replace("PAGES", repr(names)), "utf-8")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        server.reports = Queue()
        Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        address = f"http://127.0.0.1:{server.server_port}/harness.html"
        with (
            open(tmp_path / "log", "wb") as log,
            subprocess.Popen(
                [CHROMIUM, *options, "--remote-debugging-port=0", address],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as browser,
        ):
            try:
                found = server.reports.get(timeout=300)
            finally:
                os.killpg(browser.pid, signal.SIGKILL)
                server.shutdown()
    assert len(found) == 2 * len(names)
    for one in found:
        assert one["content"] <= one["width"], one
        assert one["broken"] == 0, one
