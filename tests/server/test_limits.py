"""Clients that are slow, endless or hostile, on real connections."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import time
import zlib

import httpx2
import pytest
from image_tools import build, fill
from PIL import Image
from server_tools import content, serving

from hyperpq import HiHPQIndex

PATIENCE = 20


def speak(running, *parts, read=True):
    """Send parts on a connection of its own; what is answered until it is closed."""
    with socket.create_connection(running.address, timeout=PATIENCE) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass
        answer = b""
        try:
            while read and (block := connection.recv(1 << 16)):
                answer += block
        except ConnectionResetError:
            pass
        return answer


def head(running, length, kind="application/json", path="/search"):
    host = "{}:{}".format(*running.address)
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def works(running):
    with running.http() as http:
        return http.get("/healthz").status_code == 200


def png(width, height):
    """A small file that announces many pixels, and has them."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_uploads_that_are_too_large_are_refused(server):
    with server.http() as http:
        answer = http.post("/search", files={"image": ("a", bytes(300_000))})
        assert answer.status_code == 413
        assert "at most 200,000 bytes" in answer.json()["detail"]

        def endless():
            for _ in range(400):
                yield bytes(1 << 16)

        headers = {"content-type": "application/json"}
        # Without a length; the connection may be closed while the body is sent.
        with contextlib.suppress(OSError, httpx2.TransportError):
            assert http.post("/search", content=endless(), headers=headers).status_code == 413
    answer = speak(server, head(server, 10**12), b"{" * 1000)
    assert answer.startswith(b"HTTP/1.1 413")
    answer = speak(server, head(server, 10**30), b"{" * 1000)
    assert answer[9:12] in (b"413", b"400")
    assert works(server)


def test_images_with_too_many_pixels_are_not_decoded(server):
    """The file has 16 kB, and its pixels would take 100 MB."""
    bomb = png(20_000, 5_000)
    assert len(bomb) < 20_000
    with server.http() as http:
        answer = http.post("/search", files={"image": ("bomb.png", bomb)})
        assert answer.status_code == 422
        assert "more than the limit of 1 megapixels" in answer.json()["detail"]
        huge = png(64, 64).replace(
            struct.pack(">II", 64, 64), struct.pack(">II", 2**31 - 1, 2**31 - 1)
        )
        answer = http.post("/search", files={"image": ("huge.png", huge)})
        assert answer.status_code == 422


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "BMP"])
def test_headers_that_announce_too_much(server, format):
    file = io.BytesIO()
    Image.new("RGB", (1100, 1000)).save(
        file, format, **({"compression": "tiff_deflate"} if format == "TIFF" else {})
    )
    data = file.getvalue()
    if len(data) > 190_000:
        data = data[:1000]
    with server.http() as http:
        answer = http.post("/search", files={"image": ("a", data)})
    assert answer.status_code == 422
    assert "limit" in answer.json()["detail"] or "truncated" in answer.json()["detail"]


def test_a_head_that_does_not_come_closes_the_connection(server):
    start = time.monotonic()
    assert speak(server) == b""
    assert speak(server, b"GET /healthz HTTP/1.1\r\nHost: local") == b""
    # Blank lines before a request do not count as one.
    assert speak(server, b"\r\n", b"\r\n") == b""
    assert time.monotonic() - start < PATIENCE
    assert works(server)


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(server):
    connection = socket.create_connection(server.address, timeout=PATIENCE)
    with connection, pytest.raises(OSError):
        for _ in range(1000):
            connection.sendall(b"G")
            time.sleep(0.02)
    assert works(server)


def test_a_second_request_on_a_connection_has_the_same_time(server):
    host = "{}:{}".format(*server.address)
    whole = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    answer = speak(server, whole, whole[:20])
    assert answer.count(b"HTTP/1.1 200") == 1


def test_a_head_that_does_not_end_is_refused(server):
    lines = (b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(10_000))
    answer = speak(server, b"GET /healthz HTTP/1.1\r\n", *lines)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert works(server)


def test_a_body_that_does_not_come_is_not_waited_for(server):
    answer = speak(server, head(server, 100), b'{"id"')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    kind = "multipart/form-data; boundary=b"
    assert speak(server, head(server, 100, kind), b"--b\r\n").startswith(b"HTTP/1.1 408")
    assert works(server)


def test_a_client_that_goes_away_is_forgotten(server):
    for _ in range(5):
        speak(server, head(server, 1000), b'{"id"', read=False)
    assert works(server)
    with server.http() as http:
        text = http.get("/metrics").text
    assert "hyperpq_held_bytes 0.0" in text


def test_a_client_that_reads_nothing_is_closed(tmp_path):
    """The file is larger than all buffers between the server and the client."""
    fill(tmp_path / "p", 8)
    Image.new("RGB", (2500, 2500)).save(tmp_path / "p/a.bmp")
    build([tmp_path / "p"], tmp_path / "index", bits=16)
    id = HiHPQIndex.load(tmp_path / "index").select(where=f"path == '{tmp_path}/p/a.bmp'")[0]
    done = 'hyperpq_requests_total{route="/images/{id}",status="200"} 1.0'
    with (
        serving(tmp_path / "index", limits={"write_seconds": 0.3}) as running,
        running.http() as http,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.settimeout(PATIENCE)
        connection.connect(running.address)
        connection.sendall(f"GET /images/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while done not in http.get("/metrics").text:
            time.sleep(0.05)
        read = 0
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(1 << 20):
                read += len(block)
        assert read < 3 * 2500 * 2500


@pytest.mark.parametrize(
    "text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"GET /healthz HTTP/1.1\r\n Host: x\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /index HTTP/1.1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /images/../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /index HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade, close\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /images/%zz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"GET /images/\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    ],
    ids=range(15),
)
def test_what_is_no_request_is_no_fault(server, text):
    answer = speak(server, text)
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert b"root:" not in answer
    assert works(server)


def test_nothing_was_logged_as_a_fault(photos):
    """Of what the tests above send, in a server of its own."""
    with serving(photos / "index", limits={"body_seconds": 0.2}) as running:
        speak(running, head(running, 100), b"{")
        speak(running, head(running, 1000), b'{"id"', read=False)
        speak(running, b"\x00" * 100)
        with running.http() as http:
            http.post("/search", files={"image": ("a", content(1)[:50])})
            http.get("/images/999")
        code, said = running.stop()
    assert (code, said) == (0, "")
