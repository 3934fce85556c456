"""Images in object storage, which a server reads only if it is told to."""

from __future__ import annotations

import pytest
from image_tools import build, fill

from hyperpq import ImageIndex
from hyperpq.server import ServerSettings


@pytest.fixture
def place(tmp_path):
    """An index of 12 images in a file system in memory."""
    fsspec = pytest.importorskip("fsspec")
    storage = fsspec.filesystem("memory")
    for path in fill(tmp_path / "p", 12).iterdir():
        storage.pipe_file(f"/served/p/{path.name}", path.read_bytes())
        storage.pipe_file(f"/served/private/{path.name}", path.read_bytes())
    build(["memory://served/p"], tmp_path / "index", bits=16)
    yield tmp_path
    storage.rm("/served", recursive=True)


@pytest.fixture
def get(asked):
    """Ask for one path."""
    return lambda index, path, settings=None, **options: asked(
        index, ("GET", path, options), settings=settings
    )[0]


def test_images_in_storage_are_served_when_asked(place, networks, get, monkeypatch, caplog):
    import fsspec

    remote = ServerSettings(remote_images=True)
    storage = fsspec.filesystem("memory")
    index = ImageIndex.open(place / "index", device="cpu")
    name = index.paths()[3].rpartition("/")[2]
    answer = get(place / "index", "/images/3", settings=remote)
    assert answer.content == (place / "p" / name).read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert get(place / "index", "/thumbnails/3", settings=remote).status_code == 200
    part = get(
        place / "index", "/images/3", settings=remote, headers={"range": "bytes=1-3"}
    ).content
    assert part == b"PNG"

    # By default no request is sent.
    def asked(*args, **options):
        raise AssertionError("the storage was asked")

    with monkeypatch.context() as patch:
        for method in ("info", "cat_file", "ls"):
            patch.setattr(type(storage), method, asked)
        for path in ("/images/3", "/thumbnails/3"):
            answer = get(place / "index", path)
            assert answer.status_code == 404
            assert "object storage" in answer.json()["detail"]
        assert "--remote-images" in caplog.text

    # What is in no recorded folder, gone, or no image.
    [outside] = index.add("memory://served/private/000.png").ids.tolist()
    assert get(place / "index", f"/images/{outside}", settings=remote).status_code == 404
    storage.pipe_file(f"/served/p/{name}", b"<html>")
    assert get(place / "index", "/images/3", settings=remote).status_code == 404
    storage.rm(f"/served/p/{name}")
    assert get(place / "index", "/images/3", settings=remote).status_code == 404
    assert "cannot be served: no such object" in caplog.text


def test_a_search_asks_no_storage(place, networks, asked, monkeypatch):
    """Also not for results whose files have to exist."""
    from fsspec.implementations.memory import MemoryFileSystem

    def refused(*args, **options):
        raise AssertionError("the storage was asked")

    for method in ("info", "cat_file", "ls"):
        monkeypatch.setattr(MemoryFileSystem, method, refused)
    body = {"id": 3, "k": 2, "existing": True}
    [answer] = asked(place / "index", ("POST", "/search", {"json": body}))
    assert answer.status_code == 200 and len(answer.json()["results"]) == 2, answer.text
