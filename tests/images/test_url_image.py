"""Images of the web: fetched within limits, from http and https alone, whatever a server does."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hyperpq.errors import ImageError, ImageUnavailableError, InvalidInputError
from hyperpq.images import FetchLimits, UrlImage

CONTENT = b"\x89PNG" + bytes(range(256)) * 40
LIMITS = FetchLimits(max_bytes=20_000, timeout=20)


class Handler(BaseHTTPRequestHandler):
    """Each path is a kind of server."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        self.do(self.path.strip("/").partition("/")[0].partition("?")[0])

    def do(self, kind):
        if kind == "image.png":
            self.answer(CONTENT)
        elif kind == "short":
            self.answer(CONTENT[:50], {"Content-Length": "100"})
        elif kind == "announced":
            self.answer(b"", {"Content-Length": "30000000000"})
        elif kind == "endless":
            self.answer(b"", {"Content-Length": ""})
            while True:
                self.wfile.write(b"x" * 4096)
        elif kind == "slow":
            self.answer(b"", {"Content-Length": "1000"})
            while not self.server.stopped.wait(0.02):
                self.wfile.write(b"x")
        elif kind == "silent":
            self.server.stopped.wait(60)
        elif kind == "nonsense":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
        elif kind == "loop":
            self.redirect("/loop")
        elif kind == "hop":
            self.redirect("/image.png")
        elif kind == "file":
            self.redirect("file:///etc/passwd")
        elif kind == "ftp":
            self.redirect("ftp://127.0.0.1/x.png")
        elif kind == "data":
            self.redirect("data:image/png;base64,AAAA")
        else:
            self.send_error(404, "gone\x1b[31m")

    def answer(self, content, headers=None):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def redirect(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def log_message(self, *args):
        pass

    def handle(self):
        try:
            super().handle()
        except OSError:  # the reader has had enough
            self.close_connection = True


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.seen = True, []
        server.stopped = threading.Event()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        server.address = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.stopped.set()
        server.shutdown()


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


def test_content_and_name(server):
    before = len(server.seen)
    image = UrlImage(f"{server.address}/image.png?size=2", LIMITS)
    assert image.name == f"{server.address}/image.png?size=2".encode()
    assert len(server.seen) == before  # nothing is sent before it is read
    first, second = image.read(), image.read()
    assert first is not second
    assert first.read() == second.read() == CONTENT
    # By the ending of its name some camera files are told from others.
    assert first.name == b"/image.png"
    [(path, headers)] = server.seen[before:]
    assert path == "/image.png?size=2"
    assert headers["User-Agent"].startswith("hyperpq/")
    assert "Cookie" not in headers and "Authorization" not in headers


def test_threads_share_one_request(server):
    before, image, got = len(server.seen), UrlImage(f"{server.address}/hop", LIMITS), []
    threads = [threading.Thread(target=lambda: got.append(image.read().read())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [CONTENT] * 4
    assert [path for path, _ in server.seen[before:]] == ["/hop", "/image.png"]


@pytest.mark.parametrize(
    "path, kind, words",
    [
        ("short", ImageUnavailableError, "cannot be fetched|ended too early"),
        ("announced", ImageError, "more than the limit of"),
        ("endless", ImageError, "more than the limit of"),
        ("nonsense", ImageUnavailableError, "cannot be fetched"),
        ("loop", ImageUnavailableError, "answered 302"),
        ("file", ImageUnavailableError, "answered 302"),
        ("data", ImageUnavailableError, "answered 302"),
        ("ftp", ImageUnavailableError, "redirected to an address with the scheme 'ftp'"),
        ("missing", ImageUnavailableError, "the server answered 404"),
    ],
)
def test_servers_that_do_harm(server, path, kind, words):
    image = UrlImage(f"{server.address}/{path}", LIMITS)
    for _ in range(2):  # the second call does not ask again
        with pytest.raises(ImageError, match=words) as caught:
            image.read()
        assert type(caught.value) is kind
    assert sum(seen == f"/{path}" for seen, _ in server.seen) <= 6


@pytest.mark.parametrize("path", ["slow", "silent"])
def test_servers_that_take_long(server, path):
    """The limit is one for everything: bytes that come now and then do not prolong it."""
    with pytest.raises(ImageUnavailableError, match=r"not fetched within 0.3 seconds|timed out"):
        UrlImage(f"{server.address}/{path}", FetchLimits(timeout=0.3)).read()


def test_no_server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(ImageUnavailableError, match="refused"):
        UrlImage(f"http://127.0.0.1:{port}/x.jpg", LIMITS).read()
    with pytest.raises(ImageUnavailableError, match="cannot be fetched"):
        UrlImage("http://no-such-host.invalid/x.jpg", LIMITS).read()


@pytest.mark.parametrize(
    "url, words",
    [
        ("file:///etc/passwd", "expected one that begins with https://"),
        ("ftp://host/x.jpg", "expected one that begins with https://"),
        ("cat.jpg", "expected one that begins with https://"),
        ("http://", "expected one that begins with https://"),
        ("http://host:port/x", "no valid address"),
        ("http://user:secret@host/x", "has a user or a password"),
        ("http://host/a b.jpg", "expected ASCII without spaces"),
        ("http://host/x\r\nHost: other", "expected ASCII without spaces"),
        ("http://host/" + "x" * 3000, "longer than 2,048"),
    ],
)
def test_addresses_that_are_none(url, words):
    with pytest.raises(InvalidInputError, match=words) as caught:
        UrlImage(url)
    assert "secret" not in str(caught.value)
