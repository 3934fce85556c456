"""Queries of several images, of the web and on stdin, in a real process."""

from __future__ import annotations

import csv
import functools
import io
import json
import shutil
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from hyperpq import ImageIndex
from hyperpq.errors import InvalidInputError
from hyperpq.images import Combination
from hyperpq.images.query_parts import split_weight


def run(hyperpq, place, *args, code=0, **options):
    done = hyperpq("query", *args, "--json", cwd=place, **options)
    assert done.returncode == code, done.stderr.decode()
    return json.loads(done.stdout) if done.stdout else done.stderr.decode()


@pytest.fixture(scope="module")
def index(place):
    return ImageIndex.open(place / "hyperpq-index", device="cpu")


def found(answer):
    return [result.to_dict() for result in answer.results]


def test_several_images_are_one_query(hyperpq, place, photos, index):
    """Each image is combined with the others, which are no results either."""
    options = ("--plus", photos[4], "--minus", f"{photos[8]}:0.4", "--plus", f"{photos[9]}:.5")
    where = ("--where", "width > 10", "-k", "5")
    answers = run(hyperpq, place, photos[0], photos[2], *options, *where, "--exclude-self")
    assert [answer["query"] for answer in answers] == [str(photos[0]), str(photos[2])]
    others = [photos[4], photos[9], photos[8]]
    wanted = index.query(
        [Combination([photos[n], *others], [1, 1, 0.5, -0.4]) for n in (0, 2)],
        5,
        exclude_self=True,
    )
    assert [answer["results"] for answer in answers] == [found(answer) for answer in wanted]
    parts = {str(path) for path in (photos[0], *others)}
    assert not parts & {result["path"] for result in answers[0]["results"]}
    # The defaults: 1 and -0.25.
    short = run(hyperpq, place, photos[0], "--plus", photos[4], "--minus", photos[8], "-k", "5")
    long = index.query(Combination([photos[0], photos[4], photos[8]], [1, 1, -0.25]), 5)
    assert short[0]["results"] == found(long[0])


def test_results_name_all_images_of_a_query(hyperpq, place, photos):
    """What reads only ``query``, or columns by place, reads what it read before."""
    query = ("query", photos[0], photos[2], "--plus", f"{photos[4]}:.5", "--minus", photos[8])

    def parts(first):
        return [
            {"path": str(path), "weight": weight}
            for path, weight in ((first, 1.0), (photos[4], 0.5), (photos[8], -0.25))
        ]

    wanted = [parts(photos[0]), parts(photos[2])]
    answers = json.loads(hyperpq(*query, "-k", "2", "--json", cwd=place).stdout)
    assert [answer["parts"] for answer in answers] == wanted
    lines = hyperpq(*query, "-k", "2", "--format", "ndjson", cwd=place).stdout.splitlines()
    assert [json.loads(line) for line in lines] == answers
    table = hyperpq(*query, "-k", "1", "--format", "csv", cwd=place).stdout.decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert list(rows[0])[:6] == ["query", "rank", "distance", "similarity", "id", "path"]
    assert [json.loads(row["parts"]) for row in rows] == wanted
    plain = hyperpq("query", photos[0], "-k", "1", "--format", "csv", cwd=place).stdout.decode()
    assert plain.splitlines()[0] == "query,rank,distance,similarity,id,path"
    assert "parts" not in json.loads(hyperpq("query", photos[0], "--json", cwd=place).stdout)[0]


def test_one_of_the_images_cannot_be_read(hyperpq, place, photos, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(photos[0].read_bytes()[:80])
    done = hyperpq("query", photos[0], photos[1], "--plus", tmp_path / "torn.jpg", cwd=place)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().splitlines() == [
        f"hyperpq: {photo}: {tmp_path / 'torn.jpg'}: truncated" for photo in photos[:2]
    ]


def test_several_images_on_a_page(hyperpq, place, photos, tmp_path):
    page = tmp_path / "out.html"
    run(hyperpq, place, photos[0], "--minus", photos[8], "--html", page)
    text = page.read_text("utf-8")
    assert f"+1 {photos[0].name} −0.25 {photos[8].name}" in text
    assert text.count('alt="Query: ') == 2


def test_ids_are_combined_in_python(index):
    """By kept features, which differ a little from those of the files."""
    rows = index.index.view()
    features = rows.features_of([3, 9])
    combined = index.query(vectors=rows.combine(features, [1, -0.2]), k=6)
    by_ids = index.query(like=Combination([3, 9], [1, -0.2]), k=6)
    assert [(part.id, part.weight) for part in by_ids[0].parts] == [(3, 1), (9, -0.2)]
    assert found(by_ids[0]) == found(combined[0])
    without = index.query(like=Combination([3, 9]), k=24, exclude_self=True)[0]
    assert len(without.results) == 22
    assert {3, 9}.isdisjoint(result.id for result in without.results)
    lost = index.query(like=Combination([3, 99]))[0]
    assert lost.error == "the index has no image with the id 99"
    with pytest.raises(InvalidInputError, match="members is empty"):
        Combination([])
    with pytest.raises(InvalidInputError, match=r"members is 'a.jpg'"):
        Combination("a.jpg")


def test_an_image_on_stdin(hyperpq, place, photos, tmp_path):
    content = photos[3].read_bytes()
    (answer,) = run(hyperpq, place, "-", "--stdin-image", stdin=content)
    (named,) = run(hyperpq, place, photos[3])
    assert (answer["query"], answer["results"]) == ("-", named["results"])
    page = tmp_path / "out.html"
    both = ("--plus", "-:2", "--stdin-image", "--html", page)
    (combined,) = run(hyperpq, place, photos[0], *both, stdin=content)
    (wanted,) = run(hyperpq, place, photos[0], "--plus", f"{photos[3]}:2")
    assert combined["results"] == wanted["results"]
    assert combined["parts"][1] == {"path": "-", "weight": 2.0}
    assert page.read_text("utf-8").count('alt="Query: ') == 2
    # Without the option it is still a list of names, and a message says what to do.
    assert run(hyperpq, place, "-", stdin=bytes(photos[3]))[0]["results"] == named["results"]
    said = run(hyperpq, place, "-", stdin=content, code=2)
    assert "stdin has the content of an image (JPEG); expected" in said
    assert "give --stdin-image" in said


def test_an_image_of_the_web(hyperpq, place, photos, tmp_path):
    shutil.copy(photos[5], tmp_path / "5.jpg")
    (tmp_path / "page.jpg").write_text("<html>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        env = {"no_proxy": "127.0.0.1"}
        images = (f"{address}/5.jpg", f"{address}/page.jpg", photos[0])
        done = hyperpq("query", *images, "--json", cwd=place, env=env)
        codes = hyperpq("encode", images[0], "-o", tmp_path / "codes.npy", cwd=place)
        server.shutdown()
    assert codes.stdout.decode() == f"{address}/5.jpg\n"
    assert len(np.load(tmp_path / "codes.npy")) == 1
    assert done.returncode == 1
    assert done.stderr.decode() == f"hyperpq: {address}/page.jpg: not an image\n"
    first, second = json.loads(done.stdout)
    assert first["query"] == f"{address}/5.jpg"
    assert first["results"] == run(hyperpq, place, photos[5])[0]["results"]
    assert second["query"] == str(photos[0])


def test_names_in_a_list_make_no_connection(hyperpq, place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        names = [f"{kind}://{host}/x.jpg" for kind in ("ftp", "http", "sftp", "webhdfs")]
        done = hyperpq("query", "-", cwd=place, stdin="\n".join(names).encode(), timeout=60)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [f"hyperpq: {name}: no such file" for name in names]


@pytest.mark.parametrize(
    "options, words",
    [
        (("--plus", "cat.jpg:-1"), "'cat.jpg:-1' is no image with a weight"),
        (("--minus", ":2"), "':2' is no image with a weight"),
        (("--plus", "-"), "- is a list of names on stdin, and one image is expected"),
        (("--plus", "nowhere://host/x.jpg"), None),
        (("--plus", "ftp://127.0.0.1/x.jpg"), None),
        (("--plus", "http://user:pass@host/x.jpg"), "has a user or a password"),
        (("--stdin-image",), "--stdin-image is given without the name -"),
    ],
)
def test_wrong_use(hyperpq, place, photos, options, words):
    done = hyperpq("query", photos[0], *options, cwd=place)
    if words is None:  # the name of a file that does not exist
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.endswith("no such file")
        return
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert words in line


@pytest.mark.parametrize(
    "word, name, weight",
    [
        ("a.jpg", "a.jpg", 9),
        ("a.jpg:0.5", "a.jpg", 0.5),
        ("a:b.jpg:2", "a:b.jpg", 2),
        ("a.jpg:1e-3", "a.jpg", 1e-3),
        ("a.jpg:x", "a.jpg:x", 9),
        ("http://host:80/x.jpg", "http://host:80/x.jpg", 9),
        ("http://host/x.jpg:.5", "http://host/x.jpg", 0.5),
        ("-:3", "-", 3),
        ("a:2:1", "a:2", 1),
    ],
)
def test_weights(word, name, weight):
    assert split_weight(word, 9.0) == (name, weight)
