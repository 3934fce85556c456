"""The page of searches in a real browser, with a real server behind it."""

from __future__ import annotations

import base64
import itertools
import json
from urllib.parse import parse_qs, urlsplit

import pytest
from browsing import tab
from server_tools import content, serving

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def served(photos):
    with serving(photos / "index") as running:
        yield running


@pytest.fixture
def opened(browser, served):
    """The page, with 60 tiles or fewer of the index."""
    with tab(browser, served.url) as found:
        found.page.wait_for_selector("#grid li")
        yield found


def upload(page, *seeds, name="mine{}.png"):
    files = [
        {"name": name.format(seed), "mimeType": "image/png", "buffer": content(seed)}
        for seed in seeds
    ]
    page.set_input_files("#file", files)


def until(page, expression):
    """Wait for something; playwright's way needs ``eval``, which the policy forbids."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"{expression} is not so")


def titled(page, text):
    until(page, f"document.title.startsWith({json.dumps(text)})")
    page.wait_for_selector("#grid:not([aria-busy])")


def names(page):
    return page.locator("#grid .name").all_text_contents()


def options(page):
    return parse_qs(urlsplit(page.url).query)


def said(page):
    page.wait_for_selector("#problem:not([hidden])")
    return page.inner_text("#problem p")


def found_by(http, seed, **fields):
    answer = http.post("/search", files={"image": ("a.png", content(seed))}, data=fields)
    return [result["path"].rpartition("/")[2] for result in answer.json()["results"]]


def test_it_starts_with_images_of_the_index(opened, served):
    page = opened.page
    opened.show_all()
    assert len(names(page)) == 30
    widths = "[...document.querySelectorAll('#grid img')].map(image => image.naturalWidth)"
    assert min(page.evaluate(widths)) > 0
    assert page.inner_text("#facts").startswith("30 images, ")
    assert "exact" not in page.inner_text("#facts")
    assert all(address.startswith((served.url, "blob:")) for address in opened.requests)
    assert opened.messages == []


def test_it_says_that_the_server_has_a_recall(opened):
    page = opened.page

    def with_recall(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"nlist": 4, "recall": 0.95})

    page.route("**/index", with_recall)
    page.reload()
    page.wait_for_selector("#grid li")
    assert "searches find about 95 % of the exact results, " in page.inner_text("#facts")


def test_an_upload_and_the_way_on_and_back(opened, served):
    page = opened.page
    upload(page, 7)
    titled(page, "Like mine7.png")
    with served.http() as http:
        assert names(page) == found_by(http, 7, k="50")
    assert names(page)[0] == "007.png"
    assert page.locator(".similarity").first.text_content() == "100.0"
    assert page.inner_text("#status") == "Like mine7.png: 30 images"
    assert page.evaluate("document.activeElement.id") == "asked-title"
    # It is no part of the address, which the page says.
    assert options(page) == {}
    assert "cannot hold" in page.inner_text("#asked-note")
    first = names(page)
    page.click("#grid li:nth-child(4) a.frame")
    titled(page, f"Like {first[3]}")
    assert set(options(page)) == {"id"}
    assert first[3] not in names(page)  # the query is none of its results
    second = names(page)
    page.go_back()
    titled(page, "Like mine7.png")
    assert names(page) == first
    page.go_forward()
    titled(page, f"Like {first[3]}")
    assert names(page) == second
    page.go_back()
    page.go_back()
    titled(page, "Image search")
    assert page.is_visible("#drop") and len(names(page)) == 30
    assert opened.messages == []


def test_back_leads_to_the_tile_that_was_clicked(opened):
    page = opened.page
    upload(page, 7)
    titled(page, "Like mine7.png")
    page.focus("#grid li:nth-child(26) a.frame")
    top = "document.querySelector('#grid li:nth-child(26)').getBoundingClientRect().top"
    before, name = page.evaluate(top), names(page)[25]
    assert page.evaluate("window.scrollY") > 0
    page.keyboard.press("Enter")
    titled(page, f"Like {name}")
    assert page.evaluate("window.scrollY") == 0
    page.go_back()
    titled(page, "Like mine7.png")
    assert abs(page.evaluate(top) - before) < 2
    focused = "document.activeElement.closest('li')?.querySelector('.name').textContent"
    assert page.evaluate(focused) == name


def test_the_address_can_be_shared(opened, browser):
    page = opened.page
    page.click("#grid li:nth-child(3) a.frame")
    titled(page, "Like 002.png")
    page.fill("#k", "5")
    page.fill("#where", "id < 20")
    page.press("#where", "Enter")
    until(page, "location.search.includes('where')")
    titled(page, "Like 002.png")
    assert options(page) == {
        "id": [
            page.evaluate("String(history.state && new URLSearchParams(location.search).get('id'))")
        ],
        "k": ["5"],
        "where": ["id < 20"],
    }
    assert len(names(page)) == 5
    with tab(browser, page.url) as other:
        titled(other.page, "Like 002.png")
        assert names(other.page) == names(page)
        assert other.page.input_value("#where") == "id < 20"
        assert other.page.input_value("#k") == "5"
    # Tiles lead to addresses with the same options, for a new window.
    link = page.get_attribute("#grid a.frame", "href")
    assert parse_qs(urlsplit(link).query)["where"] == ["id < 20"]


def test_several_images_are_one_query(opened, served):
    page = opened.page
    upload(page, 3, 8)
    titled(page, "Like mine3.png and mine8.png")
    assert page.locator("#asked .frame img").count() == 2
    files = [("image", (f"{seed}.png", content(seed))) for seed in (3, 8)]
    with served.http() as http:
        answer = http.post("/search", files=files, data={"k": "50"}).json()
    assert names(page) == [result["path"].rpartition("/")[2] for result in answer["results"]]
    upload(page, *range(11))
    assert said(page) == "11 images were given; a query has at most 10."


def found_by_parts(served, parts, seeds=()):
    """Names of the results of a query of several images."""
    files = [("image", (f"{seed}.png", content(seed))) for seed in seeds]
    with served.http() as http:
        answer = (
            http.post("/search", files=files, data={"k": "50", "parts": json.dumps(parts)})
            if files
            else http.post("/search", json={"k": 50, "parts": parts, "exclude_self": True})
        )
    return [result["path"].rpartition("/")[2] for result in answer.json()["results"]]


def press(page, tile, label):
    """Press a button of a tile; the id of its image."""
    place = page.locator(f"#grid li:nth-child({tile})")
    id = int(place.locator("a.frame").get_attribute("data-id"))
    place.get_by_label(label).focus()
    page.keyboard.press("Enter")
    return id


def test_results_make_a_query_of_several_images_with_weights(opened, browser, served):
    page = opened.page
    page.click("#grid li:nth-child(3) a.frame")
    titled(page, "Like 002.png")
    first = int(options(page)["id"][0])
    second = press(page, 2, "More like")
    titled(page, "Like 2 images")
    third = press(page, 4, "Less like")
    titled(page, "Like 3 images")
    assert options(page) == {"parts": [f"{first},{second},{third}:-0.25"]}
    parts = [{"id": first}, {"id": second}, {"id": third, "weight": -0.25}]
    assert names(page) == found_by_parts(served, parts)
    with tab(browser, page.url) as other:
        titled(other.page, "Like 3 images")
        assert names(other.page) == names(page)
        assert other.page.locator("#asked .frame img").count() == 3
    weight = page.get_by_label(f"Weight of image {second}")
    weight.fill("0.5")
    weight.press("Enter")
    until(page, "location.search.includes('0.5')")
    page.wait_for_selector("#grid:not([aria-busy])")
    parts[1]["weight"] = 0.5
    assert names(page) == found_by_parts(served, parts)
    page.get_by_label(f"Leave image {second} out").click()
    titled(page, "Like 2 images")
    assert options(page) == {"parts": [f"{first},{third}:-0.25"]}
    page.get_by_label(f"Leave image {third} out").click()
    titled(page, "Like 002.png")
    assert options(page) == {"id": [str(first)]}
    page.go_back()
    titled(page, "Like 2 images")


def test_an_upload_and_a_result_are_one_query(opened, served):
    page = opened.page
    upload(page, 3)
    titled(page, "Like mine3.png")
    id = press(page, 5, "Less like")
    titled(page, "Like 2 images")
    assert options(page) == {}
    parts = [{"image": 0}, {"id": id, "weight": -0.25}]
    assert names(page) == found_by_parts(served, parts, [3])
    page.go_back()
    titled(page, "Like mine3.png")


@pytest.mark.parametrize("parts", ["3,x", "3:", "3:1:2", ",", ""])
def test_parts_that_make_no_sense_are_explained(browser, served, parts):
    with tab(browser, f"{served.url}/?parts={parts}") as found:
        assert said(found.page).startswith(f"The address has the parts {parts};")


TRANSFER = """([type, place, data, name]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type: "image/png"}));
    const given = {bubbles: true, cancelable: true};
    const event = type === "paste"
        ? new ClipboardEvent(type, {...given, clipboardData: transfer})
        : new DragEvent(type, {...given, dataTransfer: transfer});
    document.querySelector(place).dispatchEvent(event);
    return event.defaultPrevented;
}"""


@pytest.mark.parametrize(
    ("type", "place"), [("paste", "body"), ("paste", "#where"), ("drop", "main")]
)
def test_an_image_is_pasted_or_dropped(opened, type, place):
    page = opened.page
    data = base64.b64encode(content(5)).decode()
    if type == "drop":
        assert not page.evaluate(TRANSFER, ["dragenter", place, data, "x.png"])
        assert page.is_visible("#dropping")
        assert page.evaluate(TRANSFER, ["dragover", place, data, "x.png"])
    assert page.evaluate(TRANSFER, [type, place, data, "x.png"])
    titled(page, "Like x.png")
    assert names(page)[0] == "005.png"
    assert page.is_hidden("#dropping")


def test_names_and_values_are_completed(opened):
    page = opened.page
    page.click("#grid li:nth-child(3) a.frame")
    titled(page, "Like 002.png")
    items = page.locator("#suggestions li")
    field = page.locator("#where")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "where"
    until(page, "document.querySelectorAll('#suggestions li').length === 7")
    field.press_sequentially("fo")
    assert items.all_text_contents() == ["folder text"]
    field.press("ArrowDown")
    assert field.get_attribute("aria-activedescendant") == items.first.get_attribute("id")
    field.press("Enter")
    assert items.all_text_contents() == ["==", "!="]
    field.press("ArrowDown")
    field.press("Enter")
    assert items.all_text_contents() == ["'p'"]
    items.first.click()
    assert field.input_value() == "folder == 'p' "
    assert field.get_attribute("aria-expanded") == "true"  # and, or
    field.press_sequentially("and wid")
    field.press("Escape")
    assert page.is_hidden("#suggestions") and field.input_value().endswith("wid")
    field.fill("folder == 'p' and id < 9")
    field.press("Enter")
    until(page, "location.search.includes('where')")
    titled(page, "Like 002.png")
    assert len(names(page)) == 8
    assert "folder == 'p' and id < 9" in page.inner_text("#asked-count")


def test_a_wrong_condition_is_explained(opened):
    page = opened.page
    page.click("#grid li:nth-child(3) a.frame")
    titled(page, "Like 002.png")
    page.fill("#where", "colour == 'red'")
    page.press("#where", "Enter")
    assert said(page).startswith("The filter names 'colour', which is no column")
    assert page.locator("#problem").get_attribute("role") == "alert"
    assert page.get_attribute("#where", "aria-invalid") == "true"
    page.fill("#where", "")
    page.fill("#k", "0")
    page.press("#k", "Enter")
    assert said(page).startswith("Results is 0; expected a number from 1 to 1000")
    page.fill("#k", "3")
    page.press("#k", "Enter")
    until(page, "document.querySelectorAll('#grid li').length === 3")
    assert page.is_hidden("#problem")


def test_files_that_are_no_images_are_refused(opened):
    page = opened.page
    page.set_input_files(
        "#file", [{"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}]
    )
    assert "the image cannot be used" in said(page).lower()
    assert page.locator("#problem button").count() == 0  # again would be in vain
    assert names(page) == []
    page.go_back()
    page.wait_for_selector("#grid li")
    assert page.is_hidden("#problem")


def test_too_large_files_are_not_sent(browser, photos):
    with (
        serving(photos / "index", limits={"upload_bytes": 1 << 20}) as running,
        tab(browser, running.url) as found,
    ):
        page = found.page
        page.wait_for_selector("#grid li")
        large = {
            "name": "big.bmp",
            "mimeType": "image/bmp",
            "buffer": content(1, "BMP", (900, 700)),
        }
        page.set_input_files("#file", [large])
        assert said(page) == "big.bmp has 1.8 MiB; the server takes at most 1.0 MiB."
        assert not [address for address in found.requests if address.endswith("/search")]
        upload(page, 3)
        titled(page, "Like mine3.png")
        assert page.is_hidden("#problem")


def test_an_upload_is_gone_when_the_page_is_loaded_again(opened):
    page = opened.page
    upload(page, 7)
    titled(page, "Like mine7.png")
    page.reload()
    assert "was not kept" in said(page)
    assert page.is_visible("#drop")


def test_an_unknown_id_is_explained(browser, served):
    for address, text in (("/?id=4711", "no image with the id 4711"), ("/?id=x", "is no number")):
        with tab(browser, served.url + address) as found:
            assert text in said(found.page)


def test_comparison_by_keys_and_by_mouse(opened):
    page = opened.page
    page.click("#grid li:nth-child(3) a.frame")
    titled(page, "Like 002.png")
    results = names(page)
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    focused = "document.activeElement.closest('li').querySelector('.name').textContent"
    assert page.evaluate(focused) == results[2]
    page.keyboard.press("ArrowDown")
    below = page.evaluate(focused)
    assert results.index(below) > 3
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == results[2]
    page.keyboard.press("c")
    page.wait_for_selector("#compare[open]")
    assert page.inner_text("#compare-title") == f"Result 3 of 29: {results[2]}"
    until(
        page,
        "[...document.querySelectorAll('.pane img')].every(image => image.naturalWidth === 32)",
    )
    page.keyboard.press("ArrowLeft")
    assert results[1] in page.inner_text("#compare-title")
    page.keyboard.press("+")
    place = "[...document.querySelectorAll('.pane img')].map(image => image.style.transform)"
    left, right = page.evaluate(place)
    assert left == right and "scale(1.5)" in left
    box = page.locator(".pane").first.bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.wheel(0, -400)
    until(page, "document.querySelector('#zoom').textContent !== '150%'")
    before = page.evaluate(place)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 180)
    page.mouse.up()
    after = page.evaluate(place)
    assert after[0] == after[1] != before[0]
    page.keyboard.press("0")
    assert page.inner_text("#zoom") == "100%"
    page.keyboard.press("Escape")
    assert page.is_hidden("#compare")
    # The focus is where it is of use.
    until(page, f"{focused} === {json.dumps(results[1])}")
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    titled(page, f"Like {results[1]}")
    assert opened.messages == []


def test_a_token_is_asked_for(browser, photos):
    with serving(photos / "index", token=TOKEN) as running, tab(browser, running.url) as found:
        page = found.page
        page.wait_for_selector("#token[open]")
        assert names(page) == []
        page.keyboard.press("Escape")
        assert page.is_visible("#token")
        page.fill("#token-value", "not the token at all")
        page.press("#token-value", "Enter")
        until(page, "document.querySelector('#token-problem').textContent")
        page.fill("#token-value", TOKEN)
        page.press("#token-value", "Enter")
        page.wait_for_selector("#grid li")
        found.show_all()
        until(
            page, "[...document.querySelectorAll('#grid img')].every(image => image.naturalWidth)"
        )
        upload(page, 4)
        titled(page, "Like mine4.png")
        assert names(page)[0] == "004.png"
        # Of this tab alone, and in no address.
        assert TOKEN not in "".join(found.requests)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()
        page.wait_for_selector("#problem:not([hidden])")
        assert page.is_hidden("#token")


def test_a_server_that_stops_and_comes_back(browser, photos):
    with serving(photos / "index") as running, tab(browser, running.url) as found:
        page = found.page
        page.wait_for_selector("#grid li")
        running.stop()
        page.click("#grid li:nth-child(3) a.frame")
        assert said(page).startswith("The server does not answer.")
        # What stands for a server that is there again.
        with serving(photos / "index") as other:
            page.route(
                "**/search",
                lambda route: route.fulfill(
                    response=route.fetch(
                        url=f"{other.url}/search",
                        headers={
                            **route.request.headers,
                            "origin": other.url,
                            "host": urlsplit(other.url).netloc,
                        },
                    )
                ),
            )
            page.click("#problem button")
            titled(page, "Like 002.png")
            assert len(names(page)) == 29
        assert page.is_hidden("#problem")


def test_a_busy_server_is_asked_again(opened):
    page = opened.page
    refusals = itertools.count()

    def answer(route):
        if next(refusals) < 2:
            route.fulfill(status=503, headers={"retry-after": "0.2"}, json={"detail": "busy."})
        else:
            route.continue_()

    page.route("**/search", answer)
    page.click("#grid li:nth-child(3) a.frame")
    assert said(page) == "The server is busy. Trying again in 0.2 s."
    titled(page, "Like 002.png")
    page.wait_for_selector("#grid .rank:not(:empty)")
    assert page.is_hidden("#problem")
    page.unroute("**/search")
    page.route(
        "**/search", lambda route: route.fulfill(status=500, json={"detail": "it is broken."})
    )
    page.click("#grid li:nth-child(2) a.frame")
    until(page, "document.querySelector('#problem').textContent.includes('broken')")
    assert page.is_visible("#problem button")


def test_a_lost_file_is_named(browser, copy):
    with serving(copy / "index") as running:
        (copy / "p" / "004.png").unlink()
        with tab(browser, running.url) as found:
            found.page.wait_for_selector("#grid .missing")
            assert found.page.inner_text("#grid .missing").startswith("004.png cannot be shown")


def test_hostile_names_are_text(browser, served):
    """Names of files come from anywhere."""
    name = "<img src=x onerror=alert(1)>'\"&amp;.png"
    results = [
        {"rank": i, "distance": i / 9, "similarity": None, "id": i, "path": f"/p/{name}"}
        for i in (1, 2)
    ]
    with tab(browser, served.url) as found:
        page = found.page
        page.route(
            "**/search", lambda route: route.fulfill(json={"query": name, "results": results})
        )
        page.wait_for_selector("#grid li")
        page.click("#grid li:nth-child(3) a.frame")
        titled(page, "Like <img")
        assert names(page) == [name, name]
        assert page.locator("#grid img").count() == 2
        page.keyboard.press("Tab")
        page.keyboard.press("c")
        assert name in page.inner_text("#compare-title")
        assert found.messages == []


def test_a_thousand_results_are_shown_at_once(browser, served):
    """Of the images only those near the window are asked for."""
    results = [
        {"rank": i, "distance": i / 9, "similarity": 9.0, "id": i, "path": f"/p/{i}/{i}.png"}
        for i in range(1, 1001)
    ]
    with tab(browser, served.url) as found:
        page = found.page
        page.route(
            "**/search", lambda route: route.fulfill(json={"query": "q", "results": results})
        )
        page.route("**/thumbnails/*", lambda route: route.fulfill(body=content(1)))
        page.wait_for_selector("#grid li")
        page.click("#grid li:nth-child(3) a.frame")
        until(page, "document.querySelectorAll('#grid li').length === 1000")
        shows = "document.querySelectorAll('#grid img')[{}].naturalWidth > 0"
        until(page, shows.format(20))
        assert not page.evaluate(shows.format(999))
        assert len([address for address in found.requests if "/thumbnails/" in address]) < 500
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        until(page, shows.format(999))


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser, served, width, height, scheme):
    with tab(browser, served.url, width=width, height=height, scheme=scheme) as found:
        page = found.page
        page.wait_for_selector("#grid li")
        assert (found.faults(), found.overflow()) == ([], 0)
        upload(page, 7)
        titled(page, "Like mine7.png")
        page.fill("#where", "fo")
        page.wait_for_selector("#suggestions li")
        assert (found.faults(), found.overflow()) == ([], 0)
        page.press("#where", "Escape")
        page.click(".more summary")
        assert (found.faults(), found.overflow()) == ([], 0)
        page.keyboard.press("Escape")
        page.fill("#where", "colour == 1")
        page.press("#where", "Enter")
        said(page)
        assert (found.faults(), found.overflow()) == ([], 0)
        page.go_back()
        page.wait_for_selector("#grid li")
        page.focus("#grid a.frame")
        page.keyboard.press("c")
        page.wait_for_selector("#compare[open]")
        assert (found.faults(), found.overflow()) == ([], 0)
        assert found.messages in ([], [message for message in found.messages if "422" in message])
