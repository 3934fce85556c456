"""Searches by images, ids and vectors: the answers of the library, together or alone."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from server_tools import content

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.errors import InvalidInputError, UnknownIdError
from hyperpq.filters.where import Where
from hyperpq.images import Combination
from hyperpq.images.nearest import Wanted
from hyperpq.images.sources import EncodedImage
from hyperpq.images.together import Query, answer_together
from hyperpq.server import Limits, ServerSettings


@pytest.fixture
def reader(photos, networks):
    return ImageIndex.open(photos / "index", device="cpu", read_only=True)


def test_queries_together_are_answered_as_alone(reader, networks):
    vector = np.random.default_rng(0).random(48).astype(np.float32)
    queries = [
        Query(images=(EncodedImage(content(3)),), wanted=Wanted(4)),
        Query((7,), wanted=Wanted(30)),
        Query((7,), wanted=Wanted(5), exclude_self=True),
        Query(vector=vector, wanted=Wanted(3, max_distance=4.0)),
        Query(images=(EncodedImage(content(99)),), wanted=Wanted(100)),
        Query(images=(EncodedImage(content(5)),), wanted=Wanted(9), where=Where("id < 6")),
        Query((2,), wanted=Wanted(2), where=Where("id < 6")),
        Query(images=(EncodedImage(content(5)),), wanted=Wanted(9, min_similarity=50.0)),
    ]
    alone = [
        *reader.query([content(3)], 4),
        *reader.query(like=7, k=30),
        *reader.query(like=7, k=5, exclude_self=True),
        *reader.query(vectors=vector, k=3, max_distance=4.0),
        *reader.query([content(99)], 100),
        *reader.query([content(5)], 9, where="id < 6"),
        *reader.query(like=2, k=2, where="id < 6"),
        *reader.query([content(5)], 9, min_similarity=50.0),
    ]
    seen = networks[0].seen
    together = answer_together(reader, queries)
    assert [answer.results for answer in together] == [answer.results for answer in alone]
    assert networks[0].seen == seen + 4
    assert [len(answer.results) for answer in together][:3] == [4, 30, 5]
    assert answer_together(reader, []) == []


def test_queries_share_a_scan_where_they_can(reader, monkeypatch):
    scans = []
    view = type(reader.index.view())
    search = view.search_similar

    def counted(self, x, k, **options):
        scans.append((len(x), k))
        return search(self, x, k, **options)

    monkeypatch.setattr(view, "search_similar", counted)
    wanted = [Wanted(k) for k in (3, 5, 10, 30)]
    answer_together(reader, [Query((i,), wanted=w) for i, w in enumerate(wanted)])
    answer_together(reader, [Query((i,), where=Where(f"id < {i + 8}")) for i in range(2)])
    assert scans == [(3, 10), (1, 30), (1, 30), (1, 30)]


def test_what_is_wrong_with_one_query_does_not_concern_the_others(reader):
    queries = [
        Query((1,), wanted=Wanted(2)),
        Query((77,)),
        Query(vector=np.zeros(3, np.float32)),
        Query(images=(EncodedImage(b"no image"),)),
        Query((1,), where=Where("colour == 'red'")),
        Query(images=(EncodedImage(content(1)[:60]),)),
        Query(images=(EncodedImage(content(1)),), wanted=Wanted(2)),
    ]
    good, unknown, wrong, text, column, torn, image = answer_together(reader, queries)
    assert len(good.results) == len(image.results) == 2
    assert isinstance(unknown, UnknownIdError) and "id 77" in str(unknown)
    assert isinstance(wrong, InvalidInputError) and "48" in str(wrong)
    assert text.error is not None and torn.error == "truncated"
    assert isinstance(column, InvalidInputError) and "colour" in str(column)


def test_a_search_has_the_answer_of_the_library(photos, reader, asked, upload):
    index = photos / "index"
    fields = {"k": "4", "where": "id >= 2", "refine": "true"}
    body = {"id": 3, "k": 5, "exclude_self": True, "min_similarity": 10}
    vector = reader.index.features_of([9])[0]
    by_image, by_id, by_vector = asked(
        index,
        upload(3, **fields),
        ("POST", "/search", {"json": body}),
        ("POST", "/search", {"json": {"vector": vector.tolist(), "existing": True}}),
    )
    [expected] = reader.query([content(3)], 4, where="id >= 2")
    assert by_image.json() == {
        "query": "query.png",
        "results": [result.to_dict() for result in expected.results],
    }
    [expected] = reader.query(like=3, k=5, exclude_self=True, min_similarity=10)
    assert by_id.json() == {k: v for k, v in expected.to_dict().items() if k != "error"}
    [expected] = reader.query(vectors=vector, k=10, existing=True)
    assert by_vector.json()["results"] == expected.to_dict()["results"]
    assert by_vector.json()["results"][0]["id"] == 9


def test_an_index_of_vectors_is_searched(vectors, asked):
    path, x = vectors
    requests = [
        {"vector": x[5].tolist(), "k": 4},
        {"vector": x[5].tolist(), "k": 4, "where": "width < 100"},
        {"id": 5, "k": 4, "exclude_self": True},
        {"id": 5, "k": 4, "refine": True},
        {"id": 5, "k": 4, "refine": True, "where": "width > 500"},
    ]
    answers = asked(path, *(("POST", "/search", {"json": body}) for body in requests))
    plain, filtered, without, refined, none = [answer.json() for answer in answers]
    index = HiHPQIndex.load(path, device="cpu")
    D, I = index.search(x[5], 4)  # noqa: E741
    assert plain == {
        "query": None,
        "results": [
            {"rank": rank, "distance": d, "id": i}
            for rank, (d, i) in enumerate(zip(D[0].tolist(), I[0].tolist(), strict=True), 1)
        ],
    }
    ids = [[result["id"] for result in found["results"]] for found in (filtered, without, refined)]
    assert ids[0] == index.search(x[5], 4, where="width < 100")[1][0].tolist()
    assert ids[1] == [i for i in index.search(x[5], 5)[1][0].tolist() if i != 5][:4]
    assert ids[2] == index.search(x[5], 4, refine="auto")[1][0].tolist()
    assert [result["rank"] for result in without["results"]] == [1, 2, 3, 4]
    assert none == {"query": 5, "results": []}


def test_an_index_of_vectors_has_no_images(vectors, asked, upload):
    path, _ = vectors
    by_image, image, thumbnail, similar, facts = asked(
        path,
        upload(1),
        ("GET", "/images/1", {}),
        ("GET", "/thumbnails/1", {}),
        ("POST", "/search", {"json": {"id": 1, "min_similarity": 3}}),
        ("GET", "/index", {}),
    )
    assert [by_image.status_code, similar.status_code] == [422, 422]
    assert "vectors of 16 numbers" in by_image.json()["detail"]
    assert [image.status_code, thumbnail.status_code] == [404, 404]
    assert facts.json() | {"version": ""} == {
        "kind": "vectors",
        "rows": 200,
        "snapshot": facts.json()["snapshot"],
        "d": 16,
        "code_bytes": 4,
        "nlist": 0,
        "recall": None,
        "attributes": ["width", "id"],
        "backbone": None,
        "max_k": 1000,
        "max_images": 10,
        "max_upload_bytes": 20 << 20,
        "version": "",
    }
    start, columns, sample = asked(path, *(("GET", at, {}) for at in ("/", "/columns", "/sample")))
    assert (start.status_code, start.headers["location"]) == (307, "/docs")
    assert [(column["name"], column["type"]) for column in columns.json()] == [
        ("width", "whole number"),
        ("id", "whole number"),
    ]
    assert sample.status_code == 404


def test_several_images_are_one_query(photos, asked, reader):
    """As a `Combination`, and beside other queries in one run of the network."""
    files = [("image", (f"{seed}.png", content(seed))) for seed in (3, 8, 11)]
    torn = [*files, ("image", ("torn.png", content(1)[:70]))]
    several, one, bad = asked(
        photos / "index",
        ("POST", "/search", {"files": files, "data": {"k": "9", "where": "id < 20"}}),
        ("POST", "/search", {"files": files[:1], "data": {"k": "4"}}),
        ("POST", "/search", {"files": torn}),
    )
    images = [content(seed) for seed in (3, 8, 11)]
    wanted = reader.query(Combination(images), 9, where="id < 20")[0]
    assert several.json()["results"] == [result.to_dict() for result in wanted.results]
    assert several.json()["query"] == "3.png"
    assert several.json()["parts"] == [
        {"path": f"{seed}.png", "weight": 1.0} for seed in (3, 8, 11)
    ]
    alone = reader.query(content(3), 4)[0]
    assert one.json() == {"query": "3.png", "results": [r.to_dict() for r in alone.results]}
    assert bad.status_code == 422
    assert "torn.png: " in bad.json()["detail"]


def test_ids_and_images_with_weights_are_one_query(photos, asked, reader):
    """As a `Combination`: ids as JSON, and together with files as a form."""
    weights = [1, 0.5, -0.25]
    parts = [{"id": id, "weight": weight} for id, weight in zip((3, 8, 11), weights, strict=True)]
    form = [{"id": 3}, {"image": 1, "weight": 0.5}, {"image": 0, "weight": -0.25}]
    files = [("image", (f"{seed}.png", content(seed))) for seed in (11, 8)]
    ids, mixed, single = asked(
        photos / "index",
        ("POST", "/search", {"json": {"parts": parts, "k": 9, "exclude_self": True}}),
        ("POST", "/search", {"files": files, "data": {"parts": json.dumps(form), "k": "30"}}),
        ("POST", "/search", {"json": {"parts": parts[:1], "k": 30}}),
    )
    wanted = reader.query(like=Combination([3, 8, 11], weights), k=9, exclude_self=True)[0]
    assert ids.json() == {k: v for k, v in wanted.to_dict().items() if k != "error"}
    assert not {3, 8, 11} & {result["id"] for result in ids.json()["results"]}
    # Kept features are rounded; those of the file are not.
    paths = [part.path for part in wanted.parts]
    numbers = [int(os.path.basename(path)[:3]) for path in paths]
    assert mixed.json()["parts"] == [
        {"path": paths[0], "weight": 1.0, "id": 3},
        {"path": "8.png", "weight": 0.5},
        {"path": "11.png", "weight": -0.25},
    ]
    images = [content(numbers[0]), content(8), content(11)]
    wanted = reader.query(Combination(images, weights), 30)[0]
    distances = {result.id: result.distance for result in wanted.results}
    found = {result["id"]: result["distance"] for result in mixed.json()["results"]}
    assert found == pytest.approx(distances, abs=0.02)
    alone = reader.query(like=3, k=30)[0]
    assert single.json()["results"] == [result.to_dict() for result in alone.results]


def test_vectors_with_weights_are_one_query(vectors, asked):
    path, x = vectors
    parts = [{"id": 5, "weight": 1.0}, {"id": 9, "weight": -0.25}]
    body = {"parts": parts, "k": 4, "exclude_self": True}
    found, unknown = asked(
        path,
        ("POST", "/search", {"json": body}),
        ("POST", "/search", {"json": {"parts": [{"id": 5}, {"id": 999}]}}),
    )
    index = HiHPQIndex.load(path, device="cpu")
    _, I = index.search(index.combine(x[[5, 9]], [1, -0.25]), 6)  # noqa: E741
    assert [result["id"] for result in found.json()["results"]] == [
        id for id in I[0].tolist() if id not in (5, 9)
    ][:4]
    assert found.json()["parts"] == parts
    assert unknown.status_code == 404 and "id 999" in unknown.json()["detail"]


def test_columns_and_a_sample_of_images(photos, asked, reader):
    columns, sample, few, wrong = asked(
        photos / "index",
        ("GET", "/columns", {}),
        ("GET", "/sample", {"params": {"n": 7}}),
        ("GET", "/sample", {"params": {"n": 1000}}),
        ("GET", "/sample", {"params": {"n": 0}}),
    )
    found = {column["name"]: column for column in columns.json()}
    assert set(found) == {"folder", "height", "mtime", "size", "width", "id", "path"}
    assert found["folder"] == {"name": "folder", "type": "text", "values": ["p"]}
    assert found["mtime"]["type"] == "time"
    images = few.json()
    assert [image["id"] for image in images] == reader.index.ids.tolist()
    assert images[3]["path"] == os.fsdecode(reader.index.view().paths_of([images[3]["id"]])[0])
    ids = [image["id"] for image in sample.json()]
    assert len(ids) == 7
    assert (ids[0], ids[-1]) == (images[0]["id"], images[-1]["id"])
    assert wrong.status_code == 422


WRONG = [
    ({"id": 99}, 404, "the index has no image with the id 99"),
    ({"id": -1}, 422, "id is -1"),
    ({"id": 2**63}, 422, "id is"),
    ({"id": "1"}, 422, "id is '1'"),
    ({"id": True}, 422, "id is True"),
    ({"id": 1, "k": 0}, 422, "k is 0"),
    ({"id": 1, "k": 51}, 422, "expected at most 50"),
    ({"id": 1, "k": 1.5}, 422, "k is 1.5"),
    ({"id": 1, "vector": [1.0]}, 422, "vector is"),
    ({"id": 1, "K": 3}, 422, "K is 3"),
    ({"vector": []}, 422, "vector is []"),
    ({"vector": [1.0] * 47}, 422, "48"),
    ({"vector": [1e39] * 48}, 422, "vector.0 is 1e+39"),
    ({"vector": ["a"] * 48}, 422, "vector.0 is 'a'"),
    ({"vector": "abc"}, 422, "vector is 'abc'"),
    ({"id": 1, "where": "folder = 3"}, 422, "where"),
    ({"id": 1, "where": "a" * 10_001}, 422, "where is"),
    ({"id": 1, "where": "colour == 'red'"}, 422, "colour"),
    ({"id": 1, "where": "__import__('os')"}, 422, "where"),
    ({"id": 1, "where": "id < 3\0"}, 422, "where"),
    ({"id": 1, "min_similarity": 101}, 422, "min_similarity"),
    ({"id": 1, "max_distance": "near"}, 422, "max_distance"),
    ({"id": 1, "exclude_self": "yes"}, 422, "exclude_self"),
    ({"parts": []}, 422, "parts is []"),
    ({"parts": [{"id": 1}] * 11}, 422, "at most 10"),
    ({"parts": [{"id": 1}, {"id": 99}]}, 404, "id 99"),
    ({"parts": [{"id": 1, "weight": -1}]}, 422, "above 0"),
    ({"parts": [{"id": 1, "weight": 1e9}]}, 422, "parts.0.weight is 1000000000.0"),
    ({"parts": [{"image": 0}]}, 422, "parts.0.id"),
    ({"parts": [{"id": "1"}]}, 422, "parts.0.id is '1'"),
    ({"parts": [{"id": 1}], "id": 1}, 422, "parts is"),
    ({"parts": [{"id": 1}, {"id": 1, "weight": -1}]}, 422, ""),
    ({}, 422, "vector"),
    ([], 422, ""),
    ("id", 422, ""),
]


def test_what_is_wrong_is_said_in_a_sentence(photos, asked):
    settings = ServerSettings(limits=Limits(k=50))
    requests = [("POST", "/search", {"json": body}) for body, *_ in WRONG]
    answers = asked(photos / "index", *requests, settings=settings)
    for answer, (body, status, said) in zip(answers, WRONG, strict=True):
        assert answer.status_code == status, (body, answer.text)
        detail = answer.json()["detail"]
        assert said in detail and detail.endswith(".") and "\n" not in detail, detail


RAW = [
    (b"", "application/json", 422),
    (b"{", "application/json", 422),
    (b"null", "application/json", 422),
    (b"\xff\xfe", "application/json", 422),
    (b'{"id": 1e999}', "application/json", 422),
    (b'{"vector": [NaN]}', "application/json", 422),
    (b'{"id": 1, "where": "\\ud800"}', "application/json", 422),
    (b"[" * 100_000, "application/json", 422),
    (b'{"id": ' + b"9" * 10_000 + b"}", "application/json", 422),
    (b"id=1", "application/x-www-form-urlencoded", 415),
    (b"image", "text/plain", 415),
    (b"image", "", 415),
    (b"", "multipart/form-data", 400),
    (b"--b--", "multipart/form-data; boundary=b", 422),
    (b"no boundary here", "multipart/form-data; boundary=b", 400),
    (b"--b\r\nx: y\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b", 400),
    (b"--b\r\n\r\n", "multipart/form-data; boundary=" + "b" * 1000, 400),
    (b"", "multipart/form-data; boundary=\u00fc", 422),
]


@pytest.mark.parametrize(("body", "kind", "status"), RAW, ids=range(len(RAW)))
def test_malformed_bodies_are_refused(photos, asked, body, kind, status):
    headers = {"content-type": kind.encode("latin-1")}
    [answer] = asked(photos / "index", ("POST", "/search", {"content": body, "headers": headers}))
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"].endswith(".")


FORMS = [
    ({"files": {"image": ("a", b"no image")}}, 422, "not an image"),
    ({"files": {"image": ("a", b"")}}, 422, "empty file"),
    ({"files": {"image": ("a", content(1)[:80])}}, 422, "truncated"),
    ({"files": {"photo": ("a", content(1))}}, 422, "'photo'"),
    ({"files": [("image", ("a", b"1"))] * 11}, 400, "Too many files"),
    ({"files": {"image": ("a", content(1))}, "data": {"k": "many"}}, 422, "k is 'many'"),
    ({"files": {"image": ("a", content(1))}, "data": {"id": "3"}}, 422, "id is '3'"),
    ({"files": {"image": ("a", content(1))}, "data": {"k": ["1", "2"]}}, 422, "twice"),
    ({"files": {"k": (None, "3")}}, 422, "no file"),
    ({"files": {"image": ("a", content(1))}, "data": {"parts": "[]"}}, 422, "from 0 to 0 once"),
    ({"files": {"image": ("a", content(1))}, "data": {"parts": "x"}}, 422, "parts is 'x'"),
    (
        {"files": {"image": ("a", content(1))}, "data": {"parts": '[{"image": 0}, {}]'}},
        422,
        "image and id",
    ),
    (
        {"files": {"image": ("a", content(1))}, "data": {"parts": '[{"image": "0"}]'}},
        422,
        "parts.0.image is '0'",
    ),
    ({"files": {"image": (None, "/etc/passwd")}}, 422, "image"),
    ({"files": {"image": ("a", content(1)), "where": (None, "x" * 70_000)}}, 400, "maximum size"),
]


def test_forms_that_are_wrong_are_refused(photos, asked):
    requests = [("POST", "/search", options) for options, *_ in FORMS]
    for answer, (_, status, said) in zip(asked(photos / "index", *requests), FORMS, strict=True):
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


def test_the_name_of_an_upload_is_no_path(photos, asked):
    names = ["../../etc/passwd", "/etc/passwd", "C:\\a\\b.png", "ümläut.png", ""]
    requests = [("POST", "/search", {"files": {"image": (n, content(1))}}) for n in names]
    answers = asked(photos / "index", *requests)
    found = [json.loads(answer.content).get("query") for answer in answers]
    assert found[:4] == ["passwd", "passwd", "b.png", "ümläut.png"]
