"""Files of vectors as queries of an index of images: the answers are those to images."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner

from hyperpq import ImageIndex
from hyperpq.cli.main import cli
from hyperpq.io import search_vectors

K = 4


@pytest.fixture(scope="module")
def index(place):
    return ImageIndex.open(place / "hyperpq-index", device="cpu")


@pytest.fixture(scope="module")
def x(index):
    """Features of no image of the index, but near to some."""
    kept = index.index.features_of(index.index.ids[:6])
    return kept[:5] + 0.3 * (kept[1:] - kept[:5])


@pytest.fixture(scope="module")
def files(x, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    np.save(folder / "a.npy", x[:2])
    np.save(folder / "b.npy", x[2:])
    return [folder / "a.npy", folder / "b.npy"]


@pytest.fixture
def run(place, files, monkeypatch):
    """The output of a query by the vectors, in this process and in batches of two queries."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(search_vectors, "_BATCH_IMAGES", 2 * K)

    def invoke(*options, code=0):
        arguments = ["query", *map(str, files), "-k", str(K), "--quiet", *map(str, options)]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == code, done.output
        return done.stderr if code else done.stdout

    return invoke


def lines_of(answers):
    """What the table has for the answers."""
    for number, answer in enumerate(answers):
        yield f"query {number}"
        for r in answer.results:
            yield f"{r.rank:>5}  {r.distance:>9.4f}  {r.similarity:>5.1f}  {r.path}"


def test_a_process_prints_paths(hyperpq, place, files, index, x):
    done = hyperpq("search", *files, "-k", str(K), "--quiet", cwd=place)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [*lines_of(index.query(vectors=x, k=K))]


@pytest.mark.parametrize("options", [(), ("--refine",), ("--no-refine",), ("--where", "id < 9")])
def test_json_is_that_of_images(run, index, x, options):
    changes = {"--no-refine": {"refine": 0}, "--where": {"where": "id < 9"}}
    answers = index.query(vectors=x, k=K, **changes.get(options[0] if options else "", {}))
    wanted = [
        {"query": number, "results": [result.to_dict() for result in answer.results]}
        for number, answer in enumerate(answers)
    ]
    assert json.loads(run("--json", *options)) == wanted
    assert list(map(json.loads, run("--format", "ndjson", *options).splitlines())) == wanted


def test_csv_and_paths(run, index, x, tmp_path):
    answers = index.query(vectors=x, k=K)
    header, *rows = csv.reader(io.StringIO(run("--format", "csv")))
    assert header == ["query", "rank", "distance", "similarity", "id", "path"]
    assert rows == [
        [str(n), str(r.rank), str(r.distance), str(r.similarity), str(r.id), r.path]
        for n, answer in enumerate(answers)
        for r in answer.results
    ]
    paths = [r.path for answer in answers for r in answer.results]
    assert run("-o", tmp_path / "found.txt") == ""
    assert (tmp_path / "found.txt").read_text().splitlines() == paths
    assert run("--format", "paths").splitlines() == paths


def test_arrays_have_the_same_results(run, index, x, tmp_path):
    # More than there are images.
    run("-o", tmp_path / "found.npz", "-k", 99)
    answers = index.query(vectors=x, k=99)
    with np.load(tmp_path / "found.npz") as arrays:
        D, I = arrays["D"], arrays["I"]  # noqa: E741
    assert I.shape == D.shape == (5, 99)
    for distances, ids, answer in zip(D, I, answers, strict=True):
        n = len(answer.results)
        assert n == len(index)
        assert ids[:n].tolist() == [r.id for r in answer.results]
        assert distances[:n].tolist() == [r.distance for r in answer.results]
        assert (ids[n:] == -1).all() and np.isinf(distances[n:]).all()


def test_what_is_for_images_alone(run):
    assert "--existing is for images; files of vectors were given" in run("--existing", code=2)
    assert "the format npz is not text; name a file with --out" in run("--format", "npz", code=2)
