"""The map in a real browser: zoom, groups, images, hostile names, files that are gone."""

from __future__ import annotations

import json
import os
import re
import shutil
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from browsing import tab

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError
from hyperpq.explore import Exploration
from hyperpq.gallery import Caption, map_page, write_map

HOSTILE = [
    b"</script><script>alert(1)</script>.jpg",
    b"<!--.jpg",
    b"caf\xe9 \xff?#%.jpg",
    b"&lt;.jpg",
]


@pytest.fixture(scope="module")
def exploration(images, tmp_path_factory):
    """96 rows: 24 images in two folders, with three names each; one is no image, one is gone."""
    folder = tmp_path_factory.mktemp("map")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 16)).astype(np.float32)
    x[48:] += 4
    paths = []
    for number in range(96):
        kind = "cats" if number < 48 else "d<b>gs"
        name = b"%03d.jpg" % number if number % 24 >= len(HOSTILE) else b"%d" % number
        name += b"" if number % 24 >= len(HOSTILE) else HOSTILE[number % 24].replace(b"/", b"_")
        path = os.path.join(os.fsencode(folder / kind), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(images[number % 24], path)
        paths.append(path)
    os.unlink(paths[20])
    with open(paths[21], "wb") as file:
        file.write(b"no image")
    index = HiHPQIndex(16, 4, 4, metric="l2", device="cpu")
    index.train(x)
    folders = ["cats"] * 48 + ["d<b>gs"] * 48
    index.collection.add(index.encode(x), paths=paths, attributes={"folder": folders})
    return Exploration(index.view())


@pytest.fixture(scope="module")
def written(exploration, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "map.html"
    write_map(path, exploration, Caption("Map </title>", [("images", "96")]))
    return path


def ready(shown):
    shown.page.wait_for_selector("html[data-ready]")
    return shown.page


def until(page, script):
    """Wait for something that a script says; the policy of the page keeps playwright from it."""
    for _ in range(600):
        if page.evaluate(script):
            return
        page.wait_for_timeout(50)
    raise AssertionError(script)


def data_of(path):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())
    return json.loads(found[1])


def test_the_page_has_every_image_and_no_other_script(written, exploration):
    data = data_of(written)
    tree = exploration.tree
    assert [c["size"] for c in data["clusters"]] == [c.size for c in tree.clusters]
    assert len(data["files"]) == 96
    places = [file[2] for file in data["files"]]
    # One is gone, and one is no image.
    assert places.count(-1) == 2
    assert sorted(place for place in places if place >= 0) == list(range(94))
    paths = exploration.view.paths_of(tree.ids)
    for (folder, name, _, *address), path in zip(data["files"], paths, strict=True):
        address = data["folders"][folder][1] + "/" + (address[0] if address else name)
        assert unquote_to_bytes(address.removeprefix("file://")) == path
    text = written.read_text("utf-8")
    assert len(re.findall("<script", text)) == 2
    assert "alert(1)</script>" not in text


def test_zooming_leads_from_groups_to_images(written, browser, exploration):
    tree = exploration.tree
    with tab(browser, written) as shown:
        page = ready(shown)
        parts = page.locator(".parts button")
        assert page.locator(".group h2").text_content() == "All images"
        assert parts.count() == len(tree.root.children)
        canvas = page.locator(".stage canvas")
        before = canvas.screenshot()
        canvas.hover(position={"x": 200, "y": 200})
        for _ in range(12):
            page.mouse.wheel(0, -400)
        until(page, "document.querySelectorAll('.path li').length > 1")
        assert canvas.screenshot() != before
        page.locator("[data-do=all]").click()
        until(page, "document.querySelectorAll('.path li').length === 1")
        # Down by the list: to a part, and to one of its images.
        while page.locator(".about").text_content().endswith("parts"):
            parts.first.click()
        assert page.locator(".path li").count() == len(tree.levels)
        name = parts.first.text_content()
        parts.first.click()
        page.wait_for_selector(".chosen:not([hidden])")
        assert page.locator(".chosen h2").text_content() == name
        page.wait_for_selector(".chosen img:not([hidden])")
        assert page.locator(".open").get_attribute("href").startswith("file:///")
        # A click on the map selects an image, too.
        page.wait_for_timeout(500)
        box = canvas.bounding_box()
        page.locator(".back").click()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(".chosen:not([hidden])")
        assert page.locator(".chosen h2").text_content() == name
        # The browser says that a file is gone.
        assert not [message for message in shown.messages if "ERR_FILE_NOT_FOUND" not in message]
        assert not [url for url in shown.requests if not url.startswith("file:")]
        assert page.title() == "Map </title>"


def test_images_that_cannot_be_read_are_still_there(written, browser, exploration):
    with tab(browser, written) as shown:
        page = ready(shown)
        ids = exploration.tree.ids.tolist()
        page.evaluate(f"select({ids.index(21)}, true)")
        assert page.locator(".chosen h2").text_content() == "021.jpg"
        page.wait_for_timeout(200)
        assert page.locator(".chosen img").is_hidden()
        page.evaluate(f"select({ids.index(2)}, true)")
        page.wait_for_selector(".chosen img:not([hidden])")
        assert page.locator(".chosen h2").text_content() == r"2caf\xe9 \xff?#%.jpg"


def test_the_keyboard_does_what_the_mouse_does(written, browser):
    with tab(browser, written) as shown:
        page = ready(shown)
        canvas = page.locator(".stage canvas")
        canvas.focus()
        before = canvas.screenshot()
        for _ in range(9):
            page.keyboard.press("+")
        page.keyboard.press("ArrowLeft")
        until(page, "document.querySelectorAll('.path li').length > 1")
        assert canvas.screenshot() != before
        page.keyboard.press("Enter")
        depth = page.locator(".path li").count()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert page.locator(".path li").count() < depth
        page.keyboard.press("0")
        until(page, "document.querySelectorAll('.path li').length === 1")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_everybody_can_read_it(written, browser, width, scheme):
    with tab(browser, written, width=width, scheme=scheme) as shown:
        page = ready(shown)
        for _ in range(4):
            assert shown.faults() == []
            assert shown.overflow() <= 0
            page.locator(".parts button").first.click()


def test_a_part_of_the_thumbnails_and_of_the_images(exploration, tmp_path, monkeypatch):
    write_map(tmp_path / "out.html", exploration, thumbnails=12)
    data = data_of(tmp_path / "out.html")
    typical = data["clusters"][0]["typical"]
    assert all(data["files"][place][2] >= 0 for place in typical)
    assert sum(file[2] >= 0 for file in data["files"]) <= 12
    monkeypatch.setattr(map_page, "MAX_SHOWN", 20)
    write_map(tmp_path / "out.html", exploration, thumbnails=0)
    data = data_of(tmp_path / "out.html")
    standing = {id for c in exploration.tree.clusters for id in c.representatives}
    assert max(20, len(standing)) <= len(data["files"]) <= 20 + len(standing)
    assert data["clusters"][0]["size"] == 96
    assert data["clusters"][0]["files"] == [0, len(data["files"])]


def test_images_without_thumbnails_are_read_when_they_are_large(exploration, browser, tmp_path):
    write_map(tmp_path / "out.html", exploration, thumbnails=0)
    with tab(browser, tmp_path / "out.html", width=1600) as shown:
        page = ready(shown)
        assert shown.requests == [(tmp_path / "out.html").as_uri()]
        while page.locator(".about").text_content().endswith("parts"):
            page.locator(".parts button").first.click()
        until(page, "[...originals.values()].some((image) => image.naturalWidth)")
        assert page.evaluate("reading <= 4")
        group = int(page.evaluate("group"))
        assert set(page.evaluate("[...originals.keys()]")) >= {
            exploration.tree.clusters[group].start
        }


def test_it_is_written_completely_or_not_at_all(exploration, tmp_path):
    index = HiHPQIndex(16, 4, 4, metric="l2", device="cpu")
    index.train(np.eye(16, dtype=np.float32))
    index.add(np.eye(16, dtype=np.float32))
    for path, shown, words in [
        (tmp_path / "no" / "map.html", exploration, "no folder"),
        (tmp_path / "map.html", Exploration(index.view()), "paths"),
    ]:
        with pytest.raises(InvalidInputError, match=words):
            write_map(path, shown)
    assert os.listdir(tmp_path) == []
