"""Search for the vectors in files, and the files of its results."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError
from hyperpq.io import result_files, search_vectors

X = np.random.default_rng(5).normal(size=(60, 6)).astype(np.float32)
K = 4


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    index = HiHPQIndex(6, 2, device="cpu")
    index.train(X, epochs=0)
    index.add(X, attributes={"year": np.arange(60)})
    index.save(folder / "index")
    np.save(folder / "a.npy", X[:7])
    np.save(folder / "b.npy", X[7:20])
    np.save(folder / "none.npy", X[:0])
    return folder


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of five queries."""
    monkeypatch.setattr(search_vectors, "_BATCH_RESULTS", 5 * K)


def found(here, *names, **options):
    paths = [here / name for name in names]
    k = options.pop("k", K)
    return list(search_vectors.search_vectors(paths, here / "index", k, device="cpu", **options))


def searched(here, x, **options):
    return HiHPQIndex.load(here / "index", device="cpu").search(x, options.pop("k", K), **options)


def test_results_are_those_of_the_index(here, small_batches):
    batches = found(here, "a.npy", "none.npy", "b.npy")
    assert [batch.start for batch in batches] == [0, 5, 7, 12, 17]
    D, I = searched(here, X[:20])  # noqa: E741
    np.testing.assert_array_equal(np.concatenate([batch.D for batch in batches]), D)
    np.testing.assert_array_equal(np.concatenate([batch.I for batch in batches]), I)


def test_a_file_without_queries_before_others(here):
    """The CSV had its header twice."""
    text = "".join(map(result_files.as_csv, found(here, "none.npy", "none.npy", "a.npy")))
    assert text == "".join(map(result_files.as_csv, found(here, "a.npy")))
    text = "".join(map(result_files.as_csv, found(here, "none.npy", "none.npy")))
    assert text == "query,rank,distance,id\n"


def test_a_condition_and_a_file_without_queries(here):
    (batch,) = found(here, "a.npy", where="year < 2")
    _, I = searched(here, X[:7], where="year < 2")  # noqa: E741
    np.testing.assert_array_equal(batch.I, I)
    assert (batch.I[:, 2:] == -1).all()
    (batch,) = found(here, "none.npy")
    assert batch.I.shape == (0, K)


@pytest.mark.parametrize(
    "names, options, error",
    [
        (["a.npy", "gone.npy"], {}, InvalidInputError),
        (["a.npy"], {"k": 0}, InvalidInputError),
        (["a.npy"], {"where": "year <"}, InvalidInputError),
        (["a.npy"], {"dataset": "x"}, InvalidInputError),
        (["a.npy"], {"refine": -1}, InvalidInputError),
        (["a.npy"], {"refine": "auto"}, InvalidInputError),
    ],
)
def test_wrong_arguments_are_found_before_the_first_search(here, names, options, error):
    with pytest.raises(error):
        found(here, *names, **options)


def test_results_are_refined_where_features_are_kept(here, tmp_path):
    source = HiHPQIndex.load(here / "index", device="cpu")
    index = HiHPQIndex.from_codec(source.codec, device="cpu", features="int8")
    index.add(X)
    index.save(tmp_path / "kept")
    (batch,) = search_vectors.search_vectors([here / "a.npy"], tmp_path / "kept", K, refine=20)
    for found_, wanted in zip((batch.D, batch.I), index.search(X[:7], K, refine=20), strict=True):
        np.testing.assert_array_equal(found_, wanted)


def test_no_index(here, tmp_path):
    with pytest.raises(IndexNotFoundError):
        next(search_vectors.search_vectors([here / "a.npy"], tmp_path, K))


def flat(D, I):  # noqa: E741
    """(query, rank, distance, id) of each result."""
    return [
        (q, rank + 1, D[q, rank], I[q, rank]) for q, rank in np.ndindex(*I.shape) if I[q, rank] >= 0
    ]


@pytest.fixture(params=[None, "year < 2"])
def written(request, here, small_batches, tmp_path):
    """Writes results in a format; gives the file, D and I."""

    def write(format):
        out = tmp_path / "out"
        batches = iter(found(here, "a.npy", "b.npy", where=request.param))
        assert result_files.write_results(batches, out, format) == 20
        return out, *searched(here, X[:20], where=request.param)

    return write


def test_npz(written):
    out, D, I = written("npz")  # noqa: E741
    with np.load(out) as arrays:
        assert sorted(arrays) == ["D", "I"]
        np.testing.assert_array_equal(arrays["D"], D)
        np.testing.assert_array_equal(arrays["I"], I)
        assert arrays["I"].dtype == np.int64


def test_ivecs(written):
    out, _, I = written("ivecs")  # noqa: E741
    rows = np.fromfile(out, "<i4").reshape(20, 1 + K)
    assert (rows[:, 0] == K).all()
    np.testing.assert_array_equal(rows[:, 1:], I)


def test_csv(written):
    out, D, I = written("csv")  # noqa: E741
    header, *rows = csv.reader(io.StringIO(out.read_text()))
    assert header == ["query", "rank", "distance", "id"]
    values = [(int(q), int(rank), np.float32(d), int(id)) for q, rank, d, id in rows]
    assert values == flat(D, I)


def test_ndjson(written):
    out, D, I = written("ndjson")  # noqa: E741
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [answer["query"] for answer in answers] == list(range(20))
    values = [
        (answer["query"], r["rank"], np.float32(r["distance"]), r["id"])
        for answer in answers
        for r in answer["results"]
    ]
    assert values == flat(D, I)


def test_table(written):
    out, D, I = written("table")  # noqa: E741
    expected = []
    for q in range(20):
        expected.append(f"query {q}")
        expected += [f"{r:>5}  {d:>9.4f}  {id}" for n, r, d, id in flat(D, I) if n == q]
    assert out.read_text().splitlines() == expected


def test_ids_that_ivecs_cannot_hold(tmp_path):
    D, I = np.zeros((1, 2), np.float32), np.array([[2**31 - 1, 2**31]])  # noqa: E741
    batch = search_vectors.FoundVectors(0, D, I)
    with pytest.raises(InvalidInputError, match="an id is 2147483648"):
        result_files.write_results([batch], tmp_path / "out", "ivecs")
    assert list(tmp_path.iterdir()) == []
    batch = search_vectors.FoundVectors(0, D[:, :1], I[:, :1])
    assert result_files.write_results([batch], tmp_path / "out", "ivecs") == 1


def test_an_error_leaves_the_old_file(here, tmp_path):
    def torn():
        yield found(here, "a.npy")[0]
        raise StoreError("disk")

    (tmp_path / "out").write_text("old")
    with pytest.raises(StoreError):
        result_files.write_results(torn(), tmp_path / "out", "csv")
    assert (tmp_path / "out").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InvalidInputError, match="format is 'xml'; expected one of table, csv"):
        result_files.write_results([], tmp_path / "out", "xml")


def test_the_command_knows_the_same_formats_and_endings():
    """They are repeated there, so that its help loads nothing."""
    from hyperpq.cli.query_vectors import FORMATS, are_vectors
    from hyperpq.io import result_files, vector_files

    assert set(FORMATS) == {*result_files.TEXTS, "npz", "ivecs"}
    assert set(result_files.ENDINGS.values()) < set(FORMATS)
    assert are_vectors([f"a{ending}" for ending in vector_files.ENDINGS])
    assert not are_vectors(["a.jpg", "a.npy.png", "npy"])
