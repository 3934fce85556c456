"""Who may ask, by which name, and what browsers are told."""

from __future__ import annotations

import socket

import pytest
from server_tools import content

from hyperpq.errors import InvalidInputError
from hyperpq.server import ServerSettings
from hyperpq.server import security as security_module

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def get(photos, asked):
    def one(path="/index", headers=None, **settings):
        options = {"headers": headers or {}}
        [answer] = asked(
            photos / "index", ("GET", path, options), settings=ServerSettings(**settings)
        )
        return answer

    return one


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN}0", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer \u00fc\u00ff".encode("latin-1"), 401),
    ],
)
def test_a_token_is_demanded(get, given, status):
    headers = {} if given is None else {"authorization": given}
    answer = get(headers=headers, token=TOKEN)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "rows" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/index",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/images/1",
        "/columns",
        "/sample",
        "/no",
        "/static",
        "//static/page.js",
    ],
)
def test_nothing_but_its_health_is_told_without_a_token(get, path):
    assert get(path, token=TOKEN).status_code == 401
    assert get("/healthz", token=TOKEN).status_code == 200
    assert get("/readyz", token=TOKEN).status_code == 503


def test_the_page_itself_needs_no_token_and_has_nothing_of_the_index(photos, get):
    """It asks for the token, and is the same for each index."""
    for path in ("/", "/static/page.js", "/static/gallery.css", "/static/api.css"):
        answer = get(path, token=TOKEN)
        assert answer.status_code == 200
        assert str(photos) not in answer.text
    for path in ("/static/../index", "/static/%2e%2e/index", "/static/..%2f..%2fapp.py"):
        assert get(path, token=TOKEN).status_code in (401, 404)


def test_tokens_are_compared_in_constant_time(get, monkeypatch):
    compared = []

    def compare(a, b):
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(security_module.hmac, "compare_digest", compare)
    get(headers={"authorization": "Bearer x"}, token=TOKEN)
    assert compared == [(32, 32)]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("127.0.0.1", 200),
        ("127.8.9.1:1", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("[::1]:8000", 200),
        ("photos.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example#localhost", 421),
        ("localhost@evil.example", 421),
        ("10.0.0.1", 421),
        ("0x7f000001.evil.example", 421),
        ("", 421),
        ("[", 421),
        ("[::1", 421),
    ],
)
def test_a_server_of_this_machine_answers_to_its_own_names(get, host, status):
    """A name that stands for 127.0.0.1 by DNS leads foreign pages here."""
    settings = {"allowed_hosts": ("photos.example",)}
    assert get(headers={"host": host}, **settings).status_code == status


def test_two_names_are_none(photos, asked):
    headers = [("host", "localhost"), ("host", "evil.example")]
    [answer] = asked(photos / "index", ("GET", "/index", {"headers": headers}))
    assert answer.status_code == 421


def test_a_server_with_a_token_has_any_name(get):
    headers = {"host": "photos.example", "authorization": f"Bearer {TOKEN}"}
    assert get(headers=headers, token=TOKEN, host="0.0.0.0").status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://127.0.0.1:9000", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://[", 403),
    ],
)
def test_a_form_of_a_foreign_page_is_refused(photos, asked, origin, status):
    options = {"files": {"image": ("a", content(1))}, "headers": {"origin": origin}}
    [answer] = asked(photos / "index", ("POST", "/search", options))
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index",
        "/images/1",
        "/thumbnails/1",
        "/docs",
        "/static/api.css",
        "/static/gallery.css",
        "/no",
        "/images/x",
    ],
)
def test_browsers_are_told_what_an_answer_may_do(get, path):
    headers = get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    is_page = path in ("/docs", "/")
    assert ("script-src 'self'" in headers["content-security-policy"]) == is_page
    assert headers["cache-control"] in ("no-store", "private, max-age=300", "no-cache")
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers


def test_preflights_of_other_pages_are_not_answered(photos, asked):
    headers = {"origin": "http://127.0.0.1:8000", "access-control-request-method": "POST"}
    [answer] = asked(photos / "index", ("OPTIONS", "/search", {"headers": headers}))
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_need_a_token(host):
    with pytest.raises(InvalidInputError, match="there is no token"):
        ServerSettings(host=host)
    assert not ServerSettings(host=host, token=TOKEN).is_local


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert ServerSettings(host=host).is_local


def test_a_name_that_may_lead_elsewhere_needs_a_token(monkeypatch):
    both = [(2, 1, 6, "", ("127.0.0.1", 0)), (2, 1, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)
    with pytest.raises(InvalidInputError, match="there is no token"):
        ServerSettings(host="both.example")


@pytest.mark.parametrize(
    "token", ["", "short", "with spaces in it, and long", "ü" * 20, "a\n" * 20]
)
def test_tokens_that_are_none(token):
    with pytest.raises(InvalidInputError, match="the token has"):
        ServerSettings(token=token)


def test_a_page_describes_all_routes_and_loads_nothing(photos, asked):
    page, document, css = asked(
        photos / "index",
        ("GET", "/docs", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/static/api.css", {}),
    )
    paths = document.json()["paths"]
    assert set(paths) == {
        "/search",
        "/index",
        "/columns",
        "/sample",
        "/healthz",
        "/readyz",
        "/metrics",
        "/images/{id}",
        "/thumbnails/{id}",
        "/explore/groups",
        "/explore/map",
        "/explore/codewords",
        "/explore/codewords/{m}/{codeword}",
    }
    for path in paths:
        assert path in page.text
    for name in document.json()["components"]["schemas"]:
        assert f'id="{name}"' in page.text
    assert "http://" not in page.text and "https://" not in page.text and "//" not in css.text
    assert "<script" not in page.text and " style=" not in page.text
