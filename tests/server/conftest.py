"""Small indexes of images and vectors, their applications, and a server in another process."""

from __future__ import annotations

import asyncio

import httpx2
import numpy as np
import pytest
from image_tools import build, fill
from server_tools import content, install_grid, serving

from hyperpq import HiHPQIndex
from hyperpq.server import ServedIndex, ServerSettings, create_app


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder ``p`` with 30 images, and their index; not to be changed."""
    place = tmp_path_factory.mktemp("server")
    build([fill(place / "p", 30)], place / "index", bits=32)
    return place


@pytest.fixture(scope="session")
def vectors(tmp_path_factory):
    """An index of 200 vectors with an attribute, and the vectors."""
    place = tmp_path_factory.mktemp("vectors")
    x = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    index = HiHPQIndex(16, M=4, features="float32", device="cpu")
    index.train(x, epochs=1)
    index.add(x, attributes={"width": np.arange(200)})
    index.save(place / "index")
    return place / "index", x


@pytest.fixture
def copy(tmp_path):
    """As `photos`, with 20 images; to change."""
    place = tmp_path / "copy"
    build([fill(place / "p", 20)], place / "index", bits=16)
    return place


@pytest.fixture
def networks(monkeypatch):
    """The networks that were loaded, each of which counts the images that it sees."""
    return install_grid(monkeypatch)


@pytest.fixture
def asked(networks):
    """Send requests to the application of an index, all at once; returns the answers."""

    def ask(index, *requests, settings=None, app=None, **options):
        app = app or create_app(ServedIndex(index, device="cpu"), settings or ServerSettings())

        async def send():
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            base = "http://127.0.0.1:8000"
            async with httpx2.AsyncClient(transport=transport, base_url=base, **options) as client:
                return await asyncio.gather(*(client.request(*r[:2], **r[2]) for r in requests))

        return asyncio.run(send())

    return ask


@pytest.fixture
def upload():
    """A request with an image, by its number."""

    def make(seed, **fields):
        files = {"image": ("query.png", content(seed))}
        return "POST", "/search", {"files": files, "data": fields}

    return make


@pytest.fixture(scope="module")
def server(photos):
    """A server of `photos` in another process, with short limits."""
    limits = {
        "upload_bytes": 200_000,
        "megapixels": 1.0,
        "head_seconds": 0.5,
        "body_seconds": 0.7,
        "write_seconds": 0.5,
    }
    with serving(photos / "index", limits=limits) as running:
        yield running
