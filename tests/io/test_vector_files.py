"""Files of vectors that NumPy, h5py and pyarrow have written are read correctly."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.errors import InvalidInputError, MissingDependencyError
from hyperpq.io.vector_files import ENDINGS, is_vector_file, open_vectors, sample_rows

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
parquet = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
ITEMS = {".fvecs": "f", ".bvecs": "B", ".ivecs": "i"}


def texmex(rows, letter):
    """The bytes of the TEXMEX layout, made row by row from its description."""
    return b"".join(struct.pack(f"<i{len(row)}{letter}", len(row), *row) for row in rows)


def write_npy(path, x):
    np.save(path, x)


def write_fortran(path, x):
    np.save(path, np.asfortranarray(x))


def write_fvecs(path, x):
    path.write_bytes(texmex(x.tolist(), "f"))


def write_h5(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset("a/deep/place", data=x)
        file.create_dataset("labels", data=np.arange(len(x)))


def write_chunks(path, x):
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "x", data=x, chunks=(7, 4), compression="gzip", maxshape=(None, x.shape[1])
        )


def write_fixed(path, x):
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), x.shape[1])
    table = pyarrow.table({"name": ["row"] * len(x), "vector": lists})
    parquet.write_table(table, path, row_group_size=17)


def write_lists(path, x):
    parquet.write_table(pyarrow.table({"v": x.tolist(), "id": range(len(x))}), path)


def write_large_lists(path, x):
    lists = pyarrow.array(x.tolist(), pyarrow.large_list(pyarrow.float32()))
    parquet.write_table(pyarrow.table({"v": lists}), path, row_group_size=13)


def write_columns(path, x):
    parquet.write_table(pyarrow.table({f"x{i}": column for i, column in enumerate(x.T)}), path)


WRITERS = [
    ("x.npy", write_npy),
    ("x.npy", write_fortran),
    ("x.FVECS", write_fvecs),
    ("x.h5", write_h5),
    ("x.hdf5", write_chunks),
    ("x.parquet", write_fixed),
    ("x.parquet", write_lists),
    ("x.parquet", write_large_lists),
    ("x.parquet", write_columns),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("rows", [1, 7, 50, 65536])
def test_round_trip(tmp_path, name, write, rows):
    write(tmp_path / name, X)
    file = open_vectors(tmp_path / name)
    assert file.shape == X.shape
    for _ in range(2):
        batches = list(file.batches(rows))
        assert all(len(batch) <= rows and batch.dtype == np.float32 for batch in batches)
        np.testing.assert_array_equal(np.concatenate(batches), X)
    np.testing.assert_array_equal(file.read(), X)


@pytest.mark.parametrize("dtype", ["f2", "f8", "i1", "u2", "i8", ">f4"])
def test_other_numbers_become_float32(tmp_path, dtype):
    x = (X * 10).astype(dtype)
    write_npy(tmp_path / "x.npy", x)
    write_h5(tmp_path / "x.h5", x)
    names = ["x.npy", "x.h5"]
    if not dtype.startswith(">"):
        write_columns(tmp_path / "x.parquet", x)
        names.append("x.parquet")
    for name in names:
        np.testing.assert_array_equal(open_vectors(tmp_path / name).read(), x.astype(np.float32))


@pytest.mark.parametrize("ending", ITEMS)
@given(data=st.data())
def test_texmex_layout(tmp_path, ending, data):
    low, high = {".bvecs": (0, 255), ".ivecs": (-(1 << 24), 1 << 24)}.get(ending, (0, 0))
    value = st.floats(width=32, allow_nan=False, allow_infinity=False)
    if ending != ".fvecs":
        value = st.integers(low, high)
    width = data.draw(st.integers(1, 9))
    rows = data.draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=1))
    path = tmp_path / f"x{ending}"
    path.write_bytes(texmex(rows, ITEMS[ending]))
    file = open_vectors(path)
    assert file.shape == (len(rows), width)
    found = np.concatenate(list(file.batches(data.draw(st.integers(1, 5)))))
    np.testing.assert_array_equal(found, np.array(rows, np.float32))


@given(cut=st.integers(1, 27), rows=st.integers(1, 4))
def test_cut_texmex_is_refused(tmp_path, cut, rows):
    path = tmp_path / "x.fvecs"
    path.write_bytes(texmex(X[:rows].tolist(), "f")[:-cut])
    with pytest.raises(InvalidInputError, match=r"x\.fvecs (is|begins with the width 6)"):
        open_vectors(path)


def test_a_row_of_another_width_is_named(tmp_path):
    data = bytearray(texmex(X.tolist(), "f"))
    data[28 * 31 : 28 * 31 + 4] = struct.pack("<i", 5)
    (tmp_path / "x.fvecs").write_bytes(data)
    file = open_vectors(tmp_path / "x.fvecs")
    with pytest.raises(
        InvalidInputError, match=r"x\.fvecs has the width 5 in row 31; expected 6, that"
    ):
        list(file.batches(10))


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_bad_value_is_named_by_its_row(tmp_path, name, write):
    x = X.copy()
    x[41, 3] = np.nan
    write(tmp_path / name, x)
    with pytest.raises(InvalidInputError, match=rf"{name} has NaN, .* first in row 41; remove"):
        list(open_vectors(tmp_path / name).batches(8))


def test_files_without_rows(tmp_path):
    for name, write in (("x.npy", write_npy), ("x.h5", write_h5), ("x.parquet", write_fixed)):
        write(tmp_path / name, X[:0])
        file = open_vectors(tmp_path / name)
        assert file.shape == (0, 6)
        assert [batch.shape for batch in file.batches()] == [(0, 6)]
        assert file.read().shape == (0, 6)


def test_a_dataset_by_name(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["one"], file["deep/two"] = X, X + 1
    path = tmp_path / "x.h5"
    for name in ("deep/two", "/deep/two"):
        np.testing.assert_array_equal(open_vectors(path, dataset=name).read(), X + 1)
    table = pyarrow.table({"a": X.tolist(), "b": (X + 1).tolist()})
    parquet.write_table(table, tmp_path / "x.parquet")
    found = open_vectors(tmp_path / "x.parquet", dataset="b").read()
    np.testing.assert_array_equal(found, X + 1)


def hostile(folder):
    """HDF5 files with links to other files or with missing values: file name -> message."""
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = X
    (folder / "secret.bin").write_bytes(X.tobytes())
    with h5py.File(folder / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink("secret.h5", "/x")
    with h5py.File(folder / "soft.h5", "w") as file:
        file["far"] = h5py.ExternalLink("secret.h5", "/")
        file["x"] = h5py.SoftLink("/far/x")
    with h5py.File(folder / "external.h5", "w") as file:
        places = [(str(folder / "secret.bin"), 0, X.nbytes)]
        file.create_dataset("x", X.shape, X.dtype, external=places)
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource(folder / "secret.h5", "x", X.shape)
    with h5py.File(folder / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with h5py.File(folder / "unwritten.h5", "w") as file:
        file.create_dataset("x", (1 << 40, 1 << 10), "f4")
    with h5py.File(folder / "sparse.h5", "w") as file:
        file.create_dataset("x", (1 << 40, 1 << 10), "f4", chunks=(64, 64))[:64, :64] = 1
    with h5py.File(folder / "chunk.h5", "w") as file:
        file.create_dataset("x", (1 << 20, 1 << 10), "f4", chunks=(1 << 19, 1 << 10))
    with h5py.File(folder / "wide.h5", "w") as file:
        file.create_dataset("x", (1, 1 << 22), "i1")[:] = 0
    with h5py.File(folder / "words.h5", "w") as file:
        file["x"] = np.array([[b"a", b"b"]])
    with h5py.File(folder / "text.h5", "w") as file:
        file.create_dataset("x", (2, 2), h5py.string_dtype())
    (folder / "none.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    whole = (folder / "secret.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) - 400])
    return {
        "link": "has no dataset 'x'; it has none, and links are not followed.",
        "soft": "has no dataset 'x'; it has none, and links are not followed.",
        "external": ": dataset 'x' is stored in other files; expected its values in this file.",
        "virtual": ": dataset 'x' is stored in other files; expected its values in this file.",
        "unwritten": ": dataset 'x' has shape (*), but the file contains only some of its values.",
        "sparse": ": dataset 'x' has shape (*), but the file contains only some of its values.",
        "chunk": ": dataset 'x' has chunks (*); expected at most 1073741824 bytes per chunk.",
        "wide": "has width 4194304; expected 1 to 1048576.",
        "words": ": dataset 'x' has dtype |S1; expected numbers (any float or integer dtype).",
        "text": ": dataset 'x' has dtype object; expected numbers (any float or integer dtype).",
        "none": "is not a readable HDF5 file (*).",
        "cut": "is not a readable HDF5 file (*).",
    }


def like(pattern):
    return re.escape(pattern).replace(r"\*", ".*")


def test_hostile_hdf5_is_refused(tmp_path):
    for name, said in hostile(tmp_path).items():
        for dataset in ("x", None) if name not in ("link", "soft") else ("x",):
            with pytest.raises(InvalidInputError) as caught:
                open_vectors(tmp_path / f"{name}.h5", dataset=dataset)
            message = str(caught.value).removeprefix(str(tmp_path / f"{name}.h5")).strip()
            if name == "virtual" and dataset is None:
                said = "has no dataset of two dimensions that is stored in it; expected an array *."
            assert re.fullmatch(like(said), message), (name, message)


def test_links_are_not_counted_as_datasets(tmp_path):
    hostile(tmp_path)
    for name in ("link", "soft"):
        with pytest.raises(InvalidInputError, match="has no dataset of two dimensions"):
            open_vectors(tmp_path / f"{name}.h5")


def test_hdf5_damaged_inside(tmp_path):
    """Compressed values that cannot be decompressed are an `InvalidInputError`, in any batch."""
    write_chunks(tmp_path / "x.h5", X)
    with h5py.File(tmp_path / "x.h5") as file:
        place = file["x"].id.get_chunk_info(5)
    data = bytearray((tmp_path / "x.h5").read_bytes())
    data[place.byte_offset : place.byte_offset + place.size] = b"\xff" * place.size
    (tmp_path / "x.h5").write_bytes(data)
    file = open_vectors(tmp_path / "x.h5")
    with pytest.raises(InvalidInputError, match=r"x\.h5 is not a readable HDF5 file \("):
        list(file.batches(7))


def table(**columns):
    return lambda path: parquet.write_table(pyarrow.table(columns), path)


WRONG = {
    "gone.npy": (None, "cannot be read (No such file or directory); give an existing file."),
    "folder.npy": (lambda path: path.mkdir(), "is not a regular file; give a file of vectors."),
    "x.txt": (
        lambda path: path.write_text(""),
        f"has no ending of a file of vectors; expected one of {', '.join(ENDINGS)}.",
    ),
    "nothing.npy": (
        lambda path: path.write_bytes(b""),
        "is empty; expected a file that numpy.save(file, array) has written.",
    ),
    "text.npy": (lambda path: path.write_text("text"), "is not a complete .npy file of numbers; *"),
    "objects.npy": (
        lambda path: np.save(path, np.array([[None]]), allow_pickle=True),
        "is not a complete .npy file of numbers; *",
    ),
    "cut.npy": (
        lambda path: (np.save(path, X), path.write_bytes(path.read_bytes()[:-1])),
        "is not a complete .npy file of numbers; *",
    ),
    "line.npy": (lambda path: np.save(path, X[0]), "holds (6,); expected one array of shape *"),
    "words.npy": (lambda path: np.save(path, [["a"]]), "has dtype <U1; expected numbers *"),
    "narrow.npy": (lambda path: np.save(path, X[:, :0]), "has width 0; expected at least 1."),
    "empty.fvecs": (lambda path: path.write_bytes(b""), "is 0 bytes long; expected rows of *"),
    "minus.bvecs": (
        lambda path: path.write_bytes(struct.pack("<i", -4)),
        "begins with the width -4 and is 4 bytes long; *",
    ),
    "huge.ivecs": (
        lambda path: path.write_bytes(struct.pack("<i", 1 << 30)),
        "begins with the width 1073741824 and is 4 bytes long; *",
    ),
    "text.parquet": (
        lambda path: path.write_text("text"),
        "is not a readable Parquet file (*).",
    ),
    "words.parquet": (
        table(a=["w"], b=[1.0]),
        "has 'a' (string); expected a column of lists of numbers, or only columns *",
    ),
    "two.parquet": (
        table(a=[[1.0]], b=[[1.0]]),
        "has 2 columns of lists of numbers ('a', 'b'); choose one with dataset=NAME "
        "(--dataset NAME).",
    ),
    "ragged.parquet": (
        table(a=[[1.0, 2.0], [1.0, 2.0], [3.0]]),
        "has 1 values in row 2; expected 2 in each.",
    ),
    "null.parquet": (
        table(a=[[1.0], None]),
        "has no value in column 'a', row 1; expected one in each row.",
    ),
    "hole.parquet": (
        table(a=[[1.0, 2.0], [2.0, None]]),
        "has a list with a missing value in row 1; expected numbers only.",
    ),
    "gap.parquet": (
        table(a=[1.0, 2.0], b=[1, None]),
        "has no value in column 'b', row 1; expected one in each row.",
    ),
    "void.parquet": (
        table(a=pyarrow.array([], pyarrow.list_(pyarrow.float32()))),
        "has no list in column 'a', so that the width of its vectors is not known; *",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files(tmp_path, name):
    make, said = WRONG[name]
    path = tmp_path / name
    if make:
        make(path)
    with pytest.raises(InvalidInputError) as caught:
        list(open_vectors(path).batches(1))
    assert re.fullmatch(like(f"{path} {said}"), str(caught.value)), str(caught.value)


def test_wrong_wishes(tmp_path):
    write_npy(tmp_path / "x.npy", X)
    write_lists(tmp_path / "x.parquet", X)
    for name, wish, said in [
        ("x.npy", {"d": 7}, "has width 6; expected 7."),
        ("x.npy", {"dataset": "a"}, "has no named datasets; leave dataset out."),
        ("x.parquet", {"dataset": "id"}, "has no column 'id' of lists of numbers; it has 'v'."),
    ]:
        with pytest.raises(InvalidInputError, match=like(said)):
            open_vectors(tmp_path / name, **wish)


def test_names_of_vector_files(tmp_path):
    assert all(is_vector_file(tmp_path / f"x{ending}") for ending in ENDINGS)
    assert is_vector_file(tmp_path / "x.NPY")
    assert not is_vector_file(tmp_path / "npy")
    assert not is_vector_file(tmp_path / "x.jpg")


def test_samples_are_rows_each_once(tmp_path):
    write_npy(tmp_path / "a.npy", np.arange(40).reshape(-1, 1))
    write_h5(tmp_path / "b.h5", np.arange(40, 100).reshape(-1, 1))
    files = [open_vectors(tmp_path / name) for name in ("a.npy", "b.h5")]
    seen = []
    sample = sample_rows(files, 30, 1, seen.append)
    assert sum(seen) == 100
    assert sample.shape == (30, 1)
    values = sample[:, 0].tolist()
    assert values == sorted(set(values))
    assert min(values) < 40 <= max(values)
    np.testing.assert_array_equal(sample, sample_rows(files, 30, 1))
    assert not np.array_equal(sample, sample_rows(files, 30, 2))
    np.testing.assert_array_equal(sample_rows(files, 1000)[:, 0], np.arange(100))
    assert sample_rows(files, 0).shape == (0, 1)


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    write_lists(tmp_path / "x.parquet", X)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[parquet\]'`\.$"):
        open_vectors(tmp_path / "x.parquet")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to ask for memory")
def test_memory_is_bounded(tmp_path):
    """Reading a file takes less memory than the file is long."""
    x = np.zeros((1 << 20, 64), np.float32)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), 64)
    parquet.write_table(pyarrow.table({"v": lists}), tmp_path / "x.parquet", row_group_size=1 << 15)
    for name in ("x.npy", "x.h5", "x.parquet"):
        program = (
            "import sys, resource\n"
            "from hyperpq.io.vector_files import open_vectors\n"
            "file = open_vectors(sys.argv[1])\n"
            "next(file.batches(1000))\n"
            "used = int(open('/proc/self/statm').read().split()[5]) * 4096\n"
            "resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20),) * 2)\n"
            "print(sum(len(batch) for batch in file.batches(4096)))\n"
        )
        command = [sys.executable, "-c", program, tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.strip() == str(1 << 20), done.stderr
