"""Exported files, read by csv, NumPy, h5py and pyarrow, compared with what was exported."""

from __future__ import annotations

import csv
import datetime
import errno
import itertools
import re
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, MissingDependencyError, StoreError
from hyperpq.io.export import FORMATS, export_index, export_rows
from hyperpq.io.export_batches import ExportBatch, batches_of, path_bytes, path_text
from hyperpq.store.columns import Categories

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
parquet = pytest.importorskip("pyarrow.parquet")

PATHS = [
    b"a.jpg",
    b'with,comma "and quote".jpg',
    b"line\nbreak\r.jpg",
    b"caf\xc3\xa9",
    b"\xff\xfe",
    rb"\xff",
]
LABELS = ["red", None, "", 'a,"b"\nc', "gr\u00fcn\x00", "red"]
TIMES = np.array(["2020-02-29T12:00:00.123456789", "NaT", *["1969-12-31"] * 4], "M8[ns]")
FLOATS = np.array([0.1, np.nan, np.inf, -0.0, 1e-45, 3.4e38], np.float32)


def batch(rows, vectors=True):
    """Some of six rows with every kind of column, whose labels have different orders."""
    rows = np.array(rows, int)
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (6, 3), np.uint8)
    decoded = random.normal(size=(6, 2)).astype(np.float32)
    return ExportBatch(
        np.array([5, 3, 2**63 - 1, 0, 7, 8])[rows],
        codes[rows],
        decoded[rows] if vectors else None,
        [PATHS[row] for row in rows],
        {
            "colour": Categories.from_strings([LABELS[row] for row in rows]),
            "f32": FLOATS[rows],
            "f64": np.array([0.1, np.nan, -np.inf, 1 / 3, 5e-324, 1e308])[rows],
            "i32": np.arange(-3, 3, dtype=np.int32)[rows],
            "i64": np.array([-(2**63), 2**63 - 1, 0, 1, 2, 3])[rows],
            "taken": TIMES[rows],
        },
    )


ALL = batch(range(6))


def batches(vectors):
    """The six rows in three batches, one of them empty."""
    yield batch([0, 1], vectors)
    yield batch([], vectors)
    yield batch([2, 3, 4, 5], vectors)


def test_csv(tmp_path):
    assert export_rows(batches, tmp_path / "x.csv", "csv", vectors=True) == 6
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "id",
        "path",
        "colour",
        "f32",
        "f64",
        "i32",
        "i64",
        "taken",
        "code",
        "v0",
        "v1",
    ]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert [int(v) for v in columns["id"]] == ALL.ids.tolist()
    assert [path_bytes(v) for v in columns["path"]] == PATHS
    assert list(columns["colour"]) == [label or "" for label in LABELS]
    assert [bytes.fromhex(v) for v in columns["code"]] == [bytes(row) for row in ALL.codes]
    for name in ("f32", "f64", "i32", "i64"):
        kind = ALL.attributes[name].dtype
        found = np.array([int(v) if kind.kind == "i" else float(v) for v in columns[name]], kind)
        np.testing.assert_array_equal(found.tobytes(), ALL.attributes[name].tobytes())
    assert columns["taken"][:2] == ("2020-02-29T12:00:00.123456789Z", "")
    found = np.array([columns["v0"], columns["v1"]]).T.astype(np.float64).astype(np.float32)
    np.testing.assert_array_equal(found, ALL.vectors)


def test_parquet(tmp_path):
    assert export_rows(batches, tmp_path / "x.parquet", "parquet", vectors=True) == 6
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table["id"].to_pylist() == ALL.ids.tolist()
    assert [path_bytes(text) for text in table["path"].to_pylist()] == PATHS
    assert table["colour"].to_pylist() == LABELS
    assert [list(code) for code in table["code"].to_pylist()] == ALL.codes.tolist()
    for name in ("f32", "f64", "i32", "i64"):
        found = table[name].to_numpy()
        assert found.dtype == ALL.attributes[name].dtype
        assert found.tobytes() == ALL.attributes[name].tobytes()
    assert table["taken"].type == pyarrow.timestamp("ns", "UTC")
    assert table["taken"].null_count == 1
    assert table["taken"].cast(pyarrow.int64())[0].as_py() == TIMES[0].astype(np.int64)
    assert table["taken"][2].as_py().replace(tzinfo=None) == datetime.datetime(1969, 12, 31)
    assert table["vector"].to_pylist() == ALL.vectors.tolist()


def cut(offsets, data):
    return [bytes(data[a:b]) for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_arrays(tmp_path, format):
    path = tmp_path / f"x.{format}"
    assert export_rows(batches, path, format, vectors=True) == 6
    if format == "npz":
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    else:
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None
                )
            )
    for name in ("ids", "codes", "vectors"):
        want = getattr(ALL, name)
        assert found[name].dtype == want.dtype
        np.testing.assert_array_equal(found[name], want)
    assert cut(found["path_offsets"], found["path_bytes"]) == PATHS
    for name in ("f32", "f64", "i32", "i64"):
        values = found[f"attributes/{name}"]
        assert values.dtype == ALL.attributes[name].dtype
        assert values.tobytes() == ALL.attributes[name].tobytes()
    np.testing.assert_array_equal(found["times/taken"], TIMES.astype(np.int64))
    labels = cut(found["label_offsets/colour"], found["label_bytes/colour"])
    assert len(labels) == len(set(labels)) == 4
    named = [labels[c].decode() if c >= 0 else None for c in found["categories/colour"]]
    assert named == LABELS
    assert len(found) == 5 + 4 + 1 + 3


@pytest.mark.parametrize("format", FORMATS)
def test_same_rows_same_bytes(tmp_path, format):
    for name in ("a", "b"):
        export_rows(batches, tmp_path / name, format)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(st.binary(max_size=20))
def test_paths_as_text_are_reversible(path):
    text = path_text(path)
    text.encode("utf-8")  # valid Unicode
    assert path_bytes(text) == path


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_paths_of_text_stay_as_they_are(text):
    assert path_text(text.encode()) == text


@pytest.fixture(scope="module")
def codec():
    index = HiHPQIndex(4, 2, device="cpu")
    index.train(np.random.default_rng(0).normal(size=(300, 4)), epochs=0)
    return index.codec


@pytest.fixture
def index(codec):
    """A trained index without rows."""
    out = HiHPQIndex(4, 2, device="cpu")
    out.codec = codec
    return out


def test_batches_of_an_index(index, tmp_path, monkeypatch):
    monkeypatch.setattr("hyperpq.io.export_batches._BATCH_SIZE", 64)
    random = np.random.default_rng(1)
    codes = random.integers(0, 256, (200, 2), np.uint8)
    deleted = random.random(200) < 0.3
    deleted[64:128] = True
    paths = [b"%d.jpg" % i for i in range(200)]
    size = random.integers(0, 99, 200)
    colour = Categories.from_strings(["red", "blue", None, "green"] * 50)
    columns = {"size": size, "colour": colour}
    index.collection.add(codes, np.arange(200), attributes=columns, paths=paths)
    index.save(tmp_path / "index")
    index.remove_ids(np.flatnonzero(deleted))
    assert index.collection.n_deleted == deleted.sum()
    found = list(batches_of(index.view(), True))
    assert len(found) == 3
    ids = np.concatenate([part.ids for part in found])
    np.testing.assert_array_equal(ids, np.flatnonzero(~deleted))
    np.testing.assert_array_equal(np.concatenate([part.codes for part in found]), codes[ids])
    vectors = np.concatenate([part.vectors for part in found])
    np.testing.assert_array_equal(vectors, index.decode(codes)[ids])
    sizes = np.concatenate([part.attributes["size"] for part in found])
    np.testing.assert_array_equal(sizes, size[ids])
    labels = [label for part in found for label in part.attributes["colour"].strings()]
    assert labels == [colour.strings()[i] for i in ids]
    assert [path for part in found for path in part.paths] == [paths[i] for i in ids]
    assert all(part.vectors is None for part in batches_of(index.view()))


@pytest.mark.parametrize("n", [0, 90])
@pytest.mark.parametrize("format", FORMATS)
def test_features_are_those_that_the_index_keeps(tmp_path, monkeypatch, format, n):
    monkeypatch.setattr("hyperpq.io.export_batches._BATCH_SIZE", 64)
    x = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    index = HiHPQIndex(8, 2, 4, metric="l2", features="int8", device="cpu")
    index.train(x)
    index.add(x[:n])
    want, path = index.features_of(index.ids), tmp_path / "x"
    assert export_index(index, path, format, vectors=True, features=True) == n
    if format == "npz":
        with np.load(path) as file:
            found = file["features"]
    elif format == "hdf5":
        with h5py.File(path) as file:
            found = file["features"][:]
    elif format == "parquet":
        column = pyarrow.parquet.read_table(path).column("feature").combine_chunks()
        found = column.flatten().to_numpy(zero_copy_only=False).reshape(n, 8)
    else:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        found = np.array([[row[f"f{i}"] for i in range(8)] for row in rows], np.float32)
        assert not rows or {"v7", "code"} <= set(rows[0])
    np.testing.assert_array_equal(found.reshape(n, 8), want)
    index = HiHPQIndex.from_codec(index.codec, device="cpu")
    with pytest.raises(InvalidInputError, match="keeps no features"):
        export_index(index, path, format, features=True)


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_index(tmp_path, index, format):
    path = tmp_path / "x"
    assert export_index(index, path, format, vectors=True) == 0
    width = index.decode(np.zeros((1, 2), np.uint8)).shape[1]
    if format == "npz":
        with np.load(path) as file:
            assert {name: file[name].shape for name in file.files} == {
                "ids": (0,),
                "codes": (0, 2),
                "vectors": (0, width),
            }
    elif format == "hdf5":
        with h5py.File(path) as file:
            assert file["vectors"].shape == (0, width)
    elif format == "parquet":
        assert parquet.read_table(path).schema.names == ["id", "code", "vector"]
    else:
        assert path.read_text() == ",".join(["id", "code", *(f"v{i}" for i in range(width))]) + "\n"


def test_wrong_blocks(tmp_path):
    def different(vectors):
        yield batch([0], vectors)
        yield ExportBatch(np.arange(1), np.zeros((1, 3), np.uint8))

    turns = itertools.cycle([[0, 1], [0]])

    def changing(vectors):
        yield batch(next(turns), vectors)

    for source, format, said in [
        (
            different,
            "csv",
            "a batch has the columns {'codes': '3 bytes'}; expected those of the first batch, {*",
        ),
        (lambda vectors: iter(()), "csv", "there are no batches; expected at least one, *"),
        (
            changing,
            "hdf5",
            "the batches of a later call have more or fewer ids than those of the first; *",
        ),
        (
            changing,
            "npz",
            "the batches of a later call have more or fewer ids than those of the first; *",
        ),
        (batches, "xml", "format is 'xml'; expected one of npz, parquet, csv, hdf5."),
    ]:
        with pytest.raises(InvalidInputError) as caught:
            export_rows(source, tmp_path / "x", format)
        assert re.fullmatch(re.escape(said).replace(r"\*", ".*"), str(caught.value))
        assert list(tmp_path.iterdir()) == []


def test_places_that_no_file_can_have(tmp_path):
    for path, said in [(tmp_path, "is a folder"), (tmp_path / "no/x", "there is no folder")]:
        with pytest.raises(InvalidInputError, match=said):
            export_rows(batches, path, "csv")


def test_faiss_has_no_vectors(tmp_path, index):
    with pytest.raises(
        InvalidInputError, match="format is 'faiss', which holds no decoded vectors"
    ):
        export_index(index, tmp_path / "x", "faiss", vectors=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_interrupted_leaves_the_old_file(tmp_path, format, error):
    path = tmp_path / "x"
    path.write_text("old")

    def failing(vectors):
        yield batch([0, 1], vectors)
        raise error

    expected = StoreError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export_rows(failing, path, format)
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[parquet\]'`\.$"):
        export_rows(batches, tmp_path / "x", "parquet")
    assert list(tmp_path.iterdir()) == []
