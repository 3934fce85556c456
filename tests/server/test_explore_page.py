"""The page of map, groups and codewords in a real browser, and the JSON that it shows."""

from __future__ import annotations

import json
import time

import pytest
from browsing import tab
from server_tools import serving

from hyperpq import ImageIndex
from hyperpq.codes import unpack
from hyperpq.server import ServedIndex, ServerSettings, create_app

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def served(photos):
    with serving(photos / "index") as running:
        with running.http() as http:
            explored(http, "map")
        yield running


def explored(http, name):
    """The JSON of a route, when it is ready."""
    for _ in range(600):
        answer = http.get(f"/explore/{name}")
        if answer.status_code != 503:
            return answer.json()
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.05)
    raise AssertionError(answer.text)


def until(page, expression):
    """Wait for something; playwright's way needs ``eval``, which the policy forbids."""
    for _ in range(3000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"{expression} is not so")


def test_groups_map_and_codewords_are_those_of_the_index(photos, served):
    index = ImageIndex.open(photos / "index", device="cpu", read_only=True).index
    ids = index.ids.tolist()
    with served.http() as http:
        groups, places, words = (explored(http, n) for n in ("groups", "map", "codewords"))
        numbers = [group["number"] for group in groups["clusters"]]
        assert numbers == list(range(len(numbers)))
        assert groups["clusters"][0]["size"] == len(ids)
        for group in groups["clusters"]:
            parts = [groups["clusters"][child] for child in group["children"]]
            assert not parts or sum(part["size"] for part in parts) == group["size"]
            assert {image["id"] for image in group["representatives"]} <= set(ids)
        assert sorted(file[2] for file in places["files"]) == ids
        coder = index.view().coder
        codes = unpack(index.view().codes_of(ids), coder.M, coder.nbits)
        for disk in words["disks"]:
            assert sum(disk["usage"]) == len(ids)
        most = max(range(1 << coder.nbits), key=words["disks"][1]["usage"].__getitem__)
        found = http.get(f"/explore/codewords/1/{most}", params={"n": 1000}).json()
        assert [image["id"] for image in found] == [
            id for id, code in zip(ids, codes[:, 1].tolist(), strict=True) if code == most
        ]
        for wrong in (f"{coder.M}/0", "0/4096", "-1/0", "0/x", "0/0?n=0", "0/0?n=1001"):
            answer = http.get(f"/explore/codewords/{wrong}")
            assert answer.status_code == 422, wrong
            assert answer.json()["detail"].endswith(".")


def test_a_changed_index_is_explored_anew(copy, networks):
    from hyperpq.server.batcher import BusyError
    from hyperpq.server.exploring import Explorations

    served = ServedIndex(copy / "index", device="cpu")
    explorations = Explorations(served)

    def rows():
        for _ in range(600):
            try:
                return json.loads(explorations.current().tree)["clusters"][0]["size"]
            except BusyError:
                time.sleep(0.05)
        raise AssertionError

    assert rows() == 20
    first = explorations.current()
    assert explorations.current() is first
    other = ImageIndex.open(copy / "index", device="cpu")
    other.remove(ids=other.index.ids[:3])
    assert served.reload()
    for _ in range(600):
        if rows() == 17:
            break
        time.sleep(0.05)
    assert rows() == 17
    explorations.close()


def test_vectors_have_no_page_of_this_kind(vectors, asked):
    app = create_app(ServedIndex(vectors[0], device="cpu"), ServerSettings())
    names = ("/explore", "/explore/groups", "/explore/map", "/explore/codewords/0/0")
    answers = asked(vectors[0], *(("GET", name, {}) for name in names), app=app)
    assert [answer.status_code for answer in answers] == [404] * 4


@pytest.fixture
def opened(browser, served):
    with tab(browser, served.url + "/explore") as found:
        until(found.page, "document.documentElement.dataset.ready === ''")
        yield found


def pixels(page):
    """How many colours the map has."""
    return page.evaluate(
        """() => { const c = document.querySelector('.stage canvas');
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        const found = new Set();
        for (let i = 0; i < d.length; i += 4000) found.add(`${d[i]},${d[i + 1]},${d[i + 2]}`);
        return found.size; }"""
    )


def test_the_map_leads_to_a_search(opened, served):
    page = opened.page
    assert page.inner_text(".group h2") == "All images"
    for _ in range(300):
        if pixels(page) > 20:
            break
        page.wait_for_timeout(20)
    assert pixels(page) > 20  # images, and not one colour
    box = page.locator(".stage canvas").bounding_box()
    before = page.evaluate("document.querySelector('.stage canvas').toDataURL()")
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.mouse.wheel(0, -300)
    until(page, f"document.querySelector('.stage canvas').toDataURL() !== {json.dumps(before)}")
    for _ in range(9):
        if page.is_visible(".chosen"):
            break
        page.click(".parts li:first-child button")
        page.wait_for_timeout(50)
    assert page.inner_text(".chosen .open") == "Search on from this"
    name = page.inner_text(".chosen h2")
    # The link moves when the image above it arrives.
    page.focus(".chosen .open")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?id=*")
    page.wait_for_selector("#grid li")
    until(page, f"document.title.startsWith('Like {name}')")
    page.go_back()
    page.wait_for_url("**/explore*")
    page.wait_for_selector(".group h2")
    until(page, "document.documentElement.dataset.ready === ''")
    # That the test itself reads the canvas is no fault of the page.
    assert [text for text in opened.messages if "willReadFrequently" not in text] == []


def test_groups_are_browsed(opened, served):
    page = opened.page
    with served.http() as http:
        clusters = explored(http, "groups")["clusters"]
    page.click(".views a[href='#groups']")
    page.wait_for_selector("#groups-list li")
    children = clusters[0]["children"]
    assert page.locator("#groups-list li").count() == len(children)
    assert page.locator("#typical li").count() == len(clusters[0]["representatives"])
    page.focus("#groups-list li:nth-child(2) a")
    page.keyboard.press("Enter")
    until(page, f"location.hash === '#groups={children[1]}'")
    until(page, "document.activeElement.id === 'groups-title'")
    assert page.locator("#trail li").count() == 2
    assert f"{clusters[children[1]]['size']} image" in page.inner_text("#groups-about")
    page.go_back()
    until(page, "document.querySelectorAll('#trail li').length === 1")
    with tab(browser_of(page), f"{served.url}/explore#groups={children[1]}") as other:
        other.page.wait_for_selector("#trail li:nth-child(2)")
    page.click("#typical li:first-child a")
    until(page, "location.search.includes('id=')")
    assert opened.messages == []


def browser_of(page):
    return page.context.browser


def test_codewords_lead_to_their_images(opened, served):
    page = opened.page
    with served.http() as http:
        disks = explored(http, "codewords")["disks"]
    page.click(".views a[href='#codewords']")
    page.wait_for_selector("#disk a")
    assert page.locator("#disk a").count() == len(disks[0]["usage"])
    assert page.locator("#disk a[tabindex='0']").count() == 1
    page.focus("#disk a[tabindex='0']")
    first = page.evaluate("document.activeElement.dataset.codeword")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.codeword") != first
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    usage = disks[0]["usage"][int(first)]
    until(page, f"document.querySelectorAll('#codeword-images li').length === {usage}")
    assert page.inner_text("#codeword-title") == f"Codeword {first} of subspace 1"
    page.select_option("#subspace", "1")
    until(page, "location.hash === '#codewords=1'")
    page.go_back()
    until(page, f"location.hash === '#codewords=0,{first}'")
    until(page, "document.querySelector('#subspace').value === '0'")
    assert opened.messages == []


def test_a_token_is_asked_for(browser, photos):
    with (
        serving(photos / "index", token=TOKEN) as running,
        tab(browser, running.url + "/explore#groups") as found,
    ):
        page = found.page
        page.wait_for_selector("#token[open]")
        page.fill("#token-value", TOKEN)
        page.press("#token-value", "Enter")
        page.wait_for_selector("#groups-list li")
        until(page, "[...document.querySelectorAll('#typical img')].every(i => i.naturalWidth)")


def test_it_waits_while_the_images_are_grouped(browser, served):
    answers = iter([True, True])
    with tab(browser, served.url) as found:
        page = found.page

        def answer(route):
            if next(answers, None):
                route.fulfill(status=503, headers={"retry-after": "0.2"}, json={"detail": "busy."})
            else:
                route.continue_()

        page.route("**/explore/groups", answer)
        page.goto(served.url + "/explore#groups")
        page.wait_for_selector("#problem.waiting:not([hidden])")
        assert "being grouped" in page.inner_text("#problem")
        page.wait_for_selector("#groups-list li")
        assert page.is_hidden("#problem")


@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 900, "light"), (390, 844, "dark")])
def test_everybody_can_use_it(browser, served, width, height, scheme):
    address = served.url + "/explore"
    with tab(browser, address, width=width, height=height, scheme=scheme) as found:
        page = found.page
        until(page, "document.documentElement.dataset.ready === ''")
        assert (found.faults(), found.overflow()) == ([], 0)
        for view, part in (("groups", "#groups-list li"), ("codewords", "#disk a")):
            page.click(f".views a[href='#{view}']")
            page.wait_for_selector(part)
            assert (found.faults(), found.overflow()) == ([], 0)
        page.evaluate(
            "location.hash = 'codewords=0,' + document.querySelector('#disk a').dataset.codeword"
        )
        page.wait_for_selector("#codeword-images li")
        assert (found.faults(), found.overflow()) == ([], 0)
        assert found.messages == []
