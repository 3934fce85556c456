"""A real browser for tests of pages: Chromium, driven by playwright, and axe for accessibility."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NEEDS_BROWSER = "needs the browser Chromium; on Debian: apt-get install chromium"


@contextlib.contextmanager
def chromium():
    """A browser, for a fixture; where there is none, the test is skipped with the reason."""
    if CHROMIUM is None:
        pytest.skip(NEEDS_BROWSER)
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        with contextlib.closing(browser):
            yield browser


@dataclass
class Tab:
    """A page that is open, and what happened in it.

    Attributes
    ----------
    page : playwright.sync_api.Page
        The page.
    messages : list of str
        Errors and warnings of the console, and errors of scripts.
    requests : list of str
        Addresses that were asked for, but for those that hold their content.
    """

    page: object
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def evaluate(self, script):
        return self.page.evaluate(script)

    def show_all(self):
        """Scroll through the page, so that what is loaded late is loaded; until all is decoded."""
        self.page.evaluate(
            """async () => {
              for (const image of document.images) {
                image.scrollIntoView({behavior: "instant"});
                await image.decode().catch(() => {});
              }
              window.scrollTo(0, 0);
            }"""
        )

    def widths(self):
        """Of the images, in pixels of their files; 0 for one that is not shown."""
        return self.page.evaluate("[...document.images].map(image => image.naturalWidth)")

    def overflow(self):
        """By how much the content is wider than the window."""
        return self.page.evaluate(
            "document.scrollingElement.scrollWidth - document.documentElement.clientWidth"
        )

    def faults(self):
        """What axe finds, as one line each; contrast is among them."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{v['id']} ({v['impact']}): {v['nodes'][0]['html'][:200]}" for v in found]


@contextlib.contextmanager
def tab(browser, address, *, width=1280, height=900, scheme="light"):
    """Open a page: of a file, or of an address."""
    if isinstance(address, Path):
        address = address.absolute().as_uri()
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    shown = Tab(page)
    page.on(
        "console",
        lambda message: (
            shown.messages.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: shown.messages.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith("data:") else shown.requests.append(request.url)
        ),
    )
    try:
        page.goto(address)
        yield shown
    finally:
        context.close()
