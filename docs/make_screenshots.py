"""Make the screenshots of `docs/img` that show pages of hyperpq, with hyperpq itself.

    python docs/make_screenshots.py [--work DIR]

The script draws 360 images, builds an index of them, searches it with two of them, and takes
screenshots in Chromium of the page with the results, of a map, of a report, and of the pages of
`hyperpq serve`: of a desktop in the light theme, of a telephone in the dark. It takes a minute on
two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from hyperpq import build_index
from hyperpq.datasets.drawn import draw_dataset
from hyperpq.diagnostics import describe_index
from hyperpq.explore import CodeDistances, Exploration, TrainingTrace
from hyperpq.gallery import Caption, sections_of, write_map, write_page, write_report

OUT = Path(__file__).parent / "img"
QUERIES = ("creatures/birds/owl/owl-000.jpg", "plants/flowers/daisy/daisy-000.jpg")
# Name, width and height of the window, theme, and pixels of the file for each of the window.
SHOTS = (("{}", 1200, 780, "light", 1.0), ("{}-phone", 390, 780, "dark", 1.25))


def main() -> None:
    """Draw, build, search and photograph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "imgs")
    work = parser.parse_args().work
    if not work.exists():
        draw_dataset(work, 360, size=256)
    index, _ = build_index([work], work.with_name("imgs-index"), resume=True)
    answers = index.query([work / name for name in QUERIES], 18, exclude_self=True)
    sections = sections_of(answers)
    facts = [("index", "hyperpq-index"), ("results", "at most 18 each"), ("exclude self", "yes")]
    page = work.with_name("imgs.html")
    write_page(page, sections, Caption.of(sections, facts))
    plan = work.with_name("imgs-map.html")
    exploration = Exploration(index.index.view())
    write_map(plan, exploration, Caption("Map of the collection", [("images", "360")]))
    report, folder = work.with_name("imgs-report.html"), work.with_name("imgs-index")
    write_report(
        report,
        exploration,
        describe_index(folder),
        distances=CodeDistances.of(exploration.view),
        trace=TrainingTrace.read(folder),
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, shown in _windows(browser, "gallery"):
            shown.goto(page.absolute().as_uri())
            _save(shown, name)
        for name, shown in _windows(browser, "map"):
            shown.goto(plan.absolute().as_uri())
            shown.wait_for_selector("html[data-ready]")
            _save(shown, name)
        for name, shown in _windows(browser, "report"):
            shown.goto(report.absolute().as_uri())
            shown.evaluate("document.querySelector('h2').scrollIntoView()")
            _save(shown, name)
        with _server(work.with_name("imgs-index")) as address:
            query = next(result.id for result in index.query([work / QUERIES[0]], 1)[0].results)
            for name, shown in _windows(browser, "serve"):
                shown.goto(f"{address}/?id={query}&k=48&where=width+%3E%3D+96")
                shown.wait_for_selector("#grid li")
                _save(shown, name)
            for view, ready in (("groups", "#typical img"), ("codewords", "#disk circle")):
                for name, shown in _windows(browser, view):
                    shown.goto(f"{address}/explore#{view}")
                    shown.wait_for_selector(ready)
                    _save(shown, name)
        browser.close()


def _windows(browser: Browser, name: str) -> Iterator[tuple[str, Page]]:
    """A page of each size, and the name of its file."""
    for shape, width, height, scheme, scale in SHOTS:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=scale,
        )
        yield shape.format(name), context.new_page()


def _save(shown: Page, name: str) -> None:
    """Take the screenshot when what is in the window has arrived."""
    first = "[...document.querySelectorAll('main img[src]')].slice(0, 9)"
    while not shown.evaluate(f"{first}.every(image => image.naturalWidth)"):
        shown.wait_for_timeout(50)
    image = Image.open(io.BytesIO(shown.screenshot()))
    image.save(OUT / f"{name}.webp", quality=82, method=6)


@contextlib.contextmanager
def _server(index: Path) -> Iterator[str]:
    """A server of an index, by its address."""
    command = [sys.executable, "-m", "hyperpq", "serve", "--index", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
