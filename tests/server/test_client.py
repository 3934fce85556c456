"""The clients: the answers of the library, and its errors."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest
from image_tools import build, fill
from server_tools import content, install_grid, serving

from hyperpq import ImageIndex
from hyperpq.errors import InvalidInputError, ServerError, UnknownIdError
from hyperpq.images import Combination
from hyperpq.server import AsyncClient, Client
from hyperpq.store.columns import as_json

TOKEN = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A server with a token, of images of which one has a name that is not UTF-8."""
    folder = tmp_path_factory.mktemp("client")
    fill(folder / "p", 24)
    with open(os.fsencode(folder / "p") + b"/\xff.png", "wb") as file:
        file.write(content(99))
    build([folder / "p"], folder / "index", bits=16)
    with serving(folder / "index", token=TOKEN) as running:
        yield running, folder


@pytest.fixture
def client(place):
    with Client(place[0].url, token=TOKEN) as client:
        yield client


@pytest.fixture
def reader(place, monkeypatch):
    install_grid(monkeypatch)
    return ImageIndex.open(place[1] / "index", device="cpu")


def as_local(results):
    """Results of the library as clients have them: times are text."""

    def names_and_values(result):
        return {name: as_json(value) for name, value in result.attributes.items()}

    return [(r.rank, r.distance, r.similarity, r.id, r.path, names_and_values(r)) for r in results]


def test_answers_are_those_of_the_library(client, reader, place):
    path = place[1] / "p/004.png"
    for image in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        answer = client.search(image, k=30)
        assert as_local(answer.results) == as_local(reader.query([path], 30)[0].results)
    assert client.search(path).query == "004.png"
    options = {"where": "width >= 3", "min_similarity": 1.0, "existing": True}
    answer = client.search(id=3, k=4, exclude_self=True, **options)
    expected = reader.query(like=3, k=4, exclude_self=True, **options)[0]
    assert as_local(answer.results) == as_local(expected.results)
    vector = reader.index.features_of([5])[0]
    answer = client.search(vector=vector, k=4, refine=False)
    expected = reader.query(vectors=vector, k=4, refine=0)[0]
    assert as_local(answer.results) == as_local(expected.results)
    form = client.search(path, k=4, where="id < 9", refine=False, existing=True)
    expected = reader.query([path], 4, where="id < 9", refine=0, existing=True)[0]
    assert as_local(form.results) == as_local(expected.results)
    for options in ({"nprobe": 2}, {"recall": 0.9}):
        with pytest.raises(InvalidInputError, match="but the index has no cells"):
            client.search(id=3, **options)
    assert (client.info().nlist, client.info().recall) == (0, None)


def test_several_images_are_one_query(client, reader, place):
    paths = [place[1] / "p/004.png", place[1] / "p/009.png"]
    answer = client.search([paths[0], paths[1].read_bytes()], k=5)
    wanted = reader.query(Combination(paths), 5)[0]
    assert as_local(answer.results) == as_local(wanted.results)
    assert [(part.path, part.weight) for part in answer.parts] == [("004.png", 1.0), ("image", 1.0)]
    assert client.search(paths[0]).parts == ()
    with pytest.raises(InvalidInputError, match="image and id are empty"):
        client.search([])


def test_images_and_ids_with_weights_are_one_query(client, reader, place):
    wanted = reader.query(like=Combination([4, 9, 2], [1, 0.5, -0.25]), k=6, exclude_self=True)[0]
    answer = client.search(id=[4, 9, 2], weights=[1, 0.5, -0.25], k=6, exclude_self=True)
    assert as_local(answer.results) == as_local(wanted.results)
    assert answer.parts == wanted.parts
    # The same file as an upload.
    mixed = client.search(Path(wanted.parts[0].path), id=[9, 2], weights=[1, 0.5, -0.25], k=25)
    wanted = reader.query(Combination([p.path for p in wanted.parts], [1, 0.5, -0.25]), 25)[0]
    assert [r.id for r in mixed.results] == [r.id for r in wanted.results]
    assert [(part.weight, part.id) for part in mixed.parts] == [(1, None), (0.5, 9), (-0.25, 2)]


def test_names_that_are_not_unicode_come_back(client):
    [result] = client.search(content(99), k=1).results
    assert os.path.basename(result.path_bytes) == b"\xff.png"
    assert client.image(result.id) == content(99)
    assert client.search(os.fsdecode(result.path_bytes), k=1).results[0].id == result.id


def test_images_thumbnails_and_facts(client):
    assert client.image(3)[:4] == b"\x89PNG"
    assert client.thumbnail(3, size=16)[8:12] == b"WEBP"
    info = client.info()
    assert (info.kind, info.rows, info.d, info.backbone) == ("images", 25, 48, "lite0")
    assert "folder" in info.attributes


def test_the_async_client_does_the_same(client, place):
    async def main():
        async with AsyncClient(place[0].url, token=TOKEN) as other:
            found = await asyncio.gather(*(other.search(content(i), k=3) for i in range(9)))
            found.append(await other.search(content(1), id=3, weights=[1, -0.2], k=3))
            return found, await other.image(3), await other.thumbnail(3), await other.info()

    found, image, thumbnail, info = asyncio.run(main())
    assert found == [
        *(client.search(content(i), k=3) for i in range(9)),
        client.search(content(1), id=3, weights=[1, -0.2], k=3),
    ]
    assert (image, thumbnail, info) == (client.image(3), client.thumbnail(3), client.info())


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda c: c.search(), InvalidInputError, "nothing given"),
        (lambda c: c.search(vector=[1.0], id=1), InvalidInputError, "id and vector given"),
        (lambda c: c.search(id=[1, 2], weights=[1]), InvalidInputError, "1 numbers; expected 2"),
        (lambda c: c.search(id=[1, 2], weights=[-1, 0]), InvalidInputError, "above 0"),
        (lambda c: c.search(id=range(11)), TypeError, "range"),
        (lambda c: c.search(id=[1] * 11), InvalidInputError, "at most 10"),
        (lambda c: c.search(id=99), UnknownIdError, "id 99"),
        (lambda c: c.search(id=1, where="colour == 1"), InvalidInputError, "colour"),
        (lambda c: c.search(id=1, k=0), InvalidInputError, "k is 0"),
        (lambda c: c.search(b"no image"), InvalidInputError, "not an image"),
        (lambda c: c.search("no/such.png"), InvalidInputError, "no/such.png cannot be read"),
        (lambda c: c.search(vector=[1.0]), InvalidInputError, "48"),
        (lambda c: c.image(99), UnknownIdError, "id 99"),
        (lambda c: c.thumbnail(1, size=1), InvalidInputError, "size is '1'"),
    ],
)
def test_errors_are_those_of_the_library(client, call, kind, said):
    with pytest.raises(kind, match=said):
        call(client)


def test_a_server_that_refuses_or_is_not_there(place):
    with Client(place[0].url) as client, pytest.raises(ServerError, match="Bearer") as error:
        client.info()
    assert error.value.status == 401
    with (
        Client("http://127.0.0.1:9", timeout=5) as client,
        pytest.raises(ServerError, match="hyperpq serve") as error,
    ):
        client.info()
    assert error.value.status is None


def test_a_busy_server_is_asked_again(client, monkeypatch):
    """After the time that it names, three times; then that is the error."""
    import httpx2

    from hyperpq.server import client as module

    waited = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    left = [2]

    def answer(request):
        if left[0]:
            left[0] -= 1
            return httpx2.Response(503, headers={"retry-after": "7"}, json={"detail": "busy."})
        return httpx2.Response(200, json={"query": None, "results": []})

    client._client = httpx2.Client(base_url="http://x", transport=httpx2.MockTransport(answer))
    assert client.search(id=1).results == []
    assert waited == [7.0, 7.0]
    left[0] = 9
    with pytest.raises(ServerError, match="busy") as error:
        client.search(id=1)
    assert error.value.status == 503
    assert len(waited) == 5


def test_the_token_is_not_sent_by_a_proxy_of_the_environment(place, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(place[0].url, token=TOKEN) as client:
        assert client.info().rows == 25
