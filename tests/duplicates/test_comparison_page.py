"""The comparison page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

import pytest
from browsing import tab

from hyperpq.duplicates import write_comparison
from hyperpq.errors import InvalidInputError


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    """The page of the collection."""
    path = tmp_path_factory.mktemp("page") / "groups.html"
    write_comparison(path, found, thumbnail_size=96)
    return path


def opened(shown):
    """Open the comparison of the first group of the images 0."""
    tile = shown.page.locator(".tile", has_text="0.jpg").first
    tile.get_by_role("button").click()
    return shown.page.locator("dialog")


def sides(shown):
    """What the captions of both sides name."""
    texts = shown.page.locator("dialog figcaption").all_text_contents()
    return [re.search(r"\w+\.(png|jpg)", text)[0] for text in texts]


def test_two_images_are_compared_and_swapped(page, browser):
    with tab(browser, page) as shown:
        dialog = opened(shown)
        assert dialog.is_visible()
        assert sides(shown) == ["0.png", "0.jpg"]
        dialog.get_by_role("button", name="Swap").click()
        assert sides(shown) == ["0.jpg", "0.png"]
        shown.page.keyboard.press("s")
        assert sides(shown) == ["0.png", "0.jpg"]
        shown.page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert shown.messages == []


def test_a_zoomed_image_is_read_from_its_file(page, browser, collection):
    with tab(browser, page) as shown:
        dialog = opened(shown)
        widths = "[...document.querySelectorAll('dialog img')].map(image => image.naturalWidth)"
        assert shown.evaluate(widths) == [96, 96]
        shown.page.keyboard.press("+")
        # The policy of the page forbids what playwright would wait with.
        for _ in range(500):
            if shown.evaluate(widths) == [192, 150]:
                break
            shown.page.wait_for_timeout(20)
        assert shown.evaluate(widths) == [192, 150]
        assert dialog.locator("output").text_content() == "150 %"
        for _ in range(20):
            shown.page.keyboard.press("-")
        assert dialog.locator("output").text_content() == "100 %"
        files = {(collection / name).as_uri() for name in ("photos/0.png", "copies/0.jpg")}
        assert set(shown.requests) - {page.as_uri()} == files
        assert shown.messages == []


def test_the_page_needs_no_files_to_be_read(found, tmp_path, browser, collection):
    """Thumbnails are in it; a zoomed image whose file is gone stays the thumbnail."""
    gone = tmp_path / "gone"
    shutil.copytree(collection / "photos", gone)
    (group, *_) = (g for g in found.groups if g.members[0].path.endswith(b"0.png"))
    moved = [
        replace(m, path=os.fsencode(gone / f"{number}.png"))
        for number, m in enumerate(group.members)
    ]
    write_comparison(tmp_path / "page.html", replace(found, groups=[replace(group, members=moved)]))
    shutil.rmtree(gone)
    with tab(browser, tmp_path / "page.html") as shown:
        shown.page.get_by_role("button").first.click()
        shown.page.keyboard.press("+")
        assert shown.page.locator("dialog output").text_content() == "150 %"
        assert shown.evaluate("document.querySelector('dialog img').naturalWidth") > 0


def test_it_says_which_is_larger_sharper_and_older(page, browser):
    with tab(browser, page) as shown:
        tiles = shown.page.locator(".tile", has_text="0.")
        assert "192 × 192" in tiles.first.text_content()
        assert "largest" in tiles.first.text_content()
        assert "largest" not in shown.page.locator(".tile", has_text="0.jpg").first.text_content()
        # All files are of one time.
        assert "oldest" not in shown.page.locator("main").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_everybody_can_read_it(page, browser, scheme, width):
    with tab(browser, page, width=width, scheme=scheme) as shown:
        assert shown.faults() == []
        assert shown.overflow() <= 0
        opened(shown)
        assert shown.faults() == []


def test_names_are_text(found, tmp_path, browser):
    group = found.groups[0]
    name = b'/photos/"><img src=x onerror=alert(1)>.png'
    odd = replace(group, members=[replace(m, path=name) for m in group.members])
    write_comparison(tmp_path / "page.html", replace(found, groups=[odd]))
    with tab(browser, tmp_path / "page.html") as shown:
        assert "onerror=alert(1)" in shown.page.locator(".name").first.text_content()
        assert shown.page.locator("img[src=x]").count() == 0
        assert shown.messages == []


def test_without_groups(found, tmp_path, browser):
    write_comparison(tmp_path / "page.html", replace(found, groups=[]))
    with tab(browser, tmp_path / "page.html") as shown:
        assert shown.page.locator(".tile").count() == 0
        assert shown.messages == []


def test_a_page_without_a_folder_is_an_error(found, tmp_path):
    with pytest.raises(InvalidInputError, match="no folder"):
        write_comparison(tmp_path / "missing" / "page.html", found)
