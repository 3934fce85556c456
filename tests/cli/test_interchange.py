"""`hyperpq import` and `hyperpq export` in real processes: files to an index and back."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError
from hyperpq.io.export_batches import path_bytes
from hyperpq.io.import_vectors import import_vectors

X = np.random.default_rng(3).normal(size=(600, 12)).astype(np.float32)


def ok(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def fact(text, name):
    return re.search(rf"^{name}  +(.*)$", text, re.M).group(1)


def fails(done, line, code):
    assert done.stderr.decode() == f"hyperpq: {line}\n"
    assert (done.returncode, done.stdout) == (code, b"")


def fails_with(done, words):
    assert done.returncode == 2
    assert words in done.stderr.decode()


def stored(index):
    """(ids, codes) of all rows."""
    return index.ids, index.collection.view().codes_of(index.ids)


@pytest.fixture(scope="module")
def made(hyperpq, tmp_path_factory):
    """A folder with files of vectors, their index, and the output of the import."""
    here = tmp_path_factory.mktemp("interchange")
    np.save(here / "a.npy", X[:200])
    rows = np.empty((200, 13), "<i4")
    rows[:, 0], rows[:, 1:] = 12, X[200:400].view("<i4")
    rows.tofile(here / "b.fvecs")
    with h5py.File(here / "c.h5", "w") as file:
        file["vectors"] = X[400:]
    np.save(here / "ids.npy", np.arange(600) * 3)
    options = ("--index", "index", "--bits", "16", "--epochs", "1", "--seed", "4")
    text = ok(hyperpq("import", "a.npy", "b.fvecs", "c.h5", *options, cwd=here))
    (here / "said.txt").write_text(text)
    return here


def test_an_import_learns_and_adds(made):
    text = (made / "said.txt").read_text()
    assert fact(text, "trained on") == "600 vectors of width 12"
    assert fact(text, "added") == fact(text, "vectors") == "600"
    assert fact(text, "code") == "16 bits, 2 bytes per vector"
    assert fact(text, "index") == "index"
    same = HiHPQIndex(12, 2, device="cpu")
    same.train(X, epochs=1, seed=4)
    same.add(X)
    index = HiHPQIndex.load(made / "index", device="cpu")
    np.testing.assert_array_equal(stored(index)[0], np.arange(600))
    np.testing.assert_array_equal(stored(index)[1], stored(same)[1])


def test_ids_and_more_files_for_an_index(hyperpq, made, tmp_path):
    files = [made / name for name in ("a.npy", "b.fvecs", "c.h5")]
    first = hyperpq("import", *files, "--ids", made / "ids.npy", "--epochs", "0", cwd=tmp_path)
    assert fact(ok(first), "added") == "600"
    fails_with(hyperpq("add", files[1], cwd=tmp_path), "has vectors that are in the index")
    for _ in range(2):
        ok(hyperpq("import", files[1], "--again", cwd=tmp_path))
    index = HiHPQIndex.load(tmp_path / "hyperpq-index", device="cpu")
    want = [np.arange(600) * 3, np.arange(1798, 1998), np.arange(1998, 2198)]
    ids, codes = stored(index)
    np.testing.assert_array_equal(ids, np.concatenate(want))
    np.testing.assert_array_equal(codes[:600], index.encode(X))
    np.testing.assert_array_equal(codes[800:], index.encode(X[200:400]))


def test_train_and_encode_take_the_same_files(hyperpq, made, tmp_path):
    ok(hyperpq("train", made / "b.fvecs", "--epochs", "0", cwd=tmp_path))
    out = tmp_path / "codes.npy"
    text = ok(hyperpq("encode", made / "a.npy", made / "c.h5", "-o", out, cwd=tmp_path))
    assert (fact(text, "codes"), fact(text, "file")) == ("400", str(out))
    index = HiHPQIndex.load(tmp_path / "hyperpq-index", device="cpu")
    want = index.encode(np.concatenate([X[:200], X[400:]]))
    np.testing.assert_array_equal(np.load(out), want)


def test_search_prints_or_writes_results(hyperpq, made, tmp_path):
    index = HiHPQIndex.load(made / "index", device="cpu")
    D, I = index.search(np.concatenate([X[400:], X[:200]]), 3)  # noqa: E741
    files = (made / "c.h5", made / "a.npy")
    options = ("--index", made / "index", "-k", "3")
    lines = ok(hyperpq("search", *files, *options, "--format", "ndjson")).splitlines()
    found = [json.loads(line) for line in lines]
    assert [answer["query"] for answer in found] == list(range(400))
    assert [[r["id"] for r in answer["results"]] for answer in found] == I.tolist()
    assert [[r["distance"] for r in answer["results"]] for answer in found] == D.tolist()
    out = tmp_path / "out.npz"
    text = ok(hyperpq("search", *files, *options, "-o", out))
    assert (fact(text, "queries"), fact(text, "file")) == ("400", str(out))
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["I"], I)
        np.testing.assert_array_equal(arrays["D"], D)


def read(path, style):
    """(ids, codes, vectors) of an exported file."""
    if style == "csv":
        with open(path, newline="") as file:
            header, *rows = csv.reader(file)
        assert header[:3] == ["id", "code", "v0"]
        codes = np.array([list(bytes.fromhex(row[1])) for row in rows], np.uint8)
        vectors = np.array([row[2:] for row in rows], np.float64).astype(np.float32)
        return np.array([int(row[0]) for row in rows]), codes, vectors
    if style == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")
        table = parquet.read_table(path)
        codes = np.array([list(code) for code in table["code"].to_pylist()], np.uint8)
        return table["id"].to_numpy(), codes, np.array(table["vector"].to_pylist(), np.float32)
    opened = np.load(path) if style == "npz" else h5py.File(path)
    with opened as file:
        return file["ids"][:], file["codes"][:], file["vectors"][:]


@pytest.mark.parametrize("style", ["npz", "parquet", "csv", "hdf5"])
def test_export_and_import_again(hyperpq, made, tmp_path, style):
    out = tmp_path / f"out.{style}"
    text = ok(hyperpq("export", "--index", made / "index", "--format", style, out, "--vectors"))
    assert fact(text, "written") == "600 rows"
    index = HiHPQIndex.load(made / "index", device="cpu")
    ids, codes, vectors = read(out, style)
    np.testing.assert_array_equal(ids, np.arange(600))
    np.testing.assert_array_equal(codes, index.encode(X))
    np.testing.assert_array_equal(vectors, index.decode(codes))
    if style in ("parquet", "hdf5"):
        choice = ("--dataset", "vectors") if style == "hdf5" else ()
        again = hyperpq("import", out, *choice, "--epochs", "0", cwd=tmp_path)
        assert fact(ok(again), "trained on") == f"600 vectors of width {vectors.shape[1]}"


def test_paths_and_attributes_of_images(hyperpq, copy):
    odd = os.fsencode(copy / "photos") + b"/\xff\\.png"
    (source,) = sorted((copy / "photos").rglob("*.png"))[:1]
    os.rename(source, odd)
    ok(hyperpq("build", "--images", "photos", cwd=copy))
    ok(hyperpq("export", "--format", "csv", "out.csv", cwd=copy))
    with open(copy / "out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    index = HiHPQIndex.load(copy / "hyperpq-index", device="cpu")
    want = {}
    for batch in index.collection.view().batches():
        for path, id, code in zip(batch.paths, batch.ids, batch.codes, strict=True):
            want[path] = (str(id), code.tobytes().hex())
    assert {path_bytes(row["path"]): (row["id"], row["code"]) for row in rows} == want
    assert odd in want
    for row in rows:
        assert row["size"] == str(os.stat(path_bytes(row["path"])).st_size)


def test_a_wrong_import_changes_nothing(hyperpq, made, tmp_path):
    bad = X[:20].copy()
    bad[7, 1] = np.inf
    np.save(tmp_path / "bad.npy", bad)
    before = (made / "index/manifest.json").read_bytes()
    done = hyperpq("import", made / "a.npy", "bad.npy", "--index", made / "index", cwd=tmp_path)
    said = "error: bad.npy has NaN, infinite or too large values, first in row 7; remove or "
    fails(done, said + "replace those rows.", 2)
    assert (made / "index/manifest.json").read_bytes() == before


def test_vectors_are_not_for_an_index_of_images(place, made):
    index = place / "hyperpq-index"
    said = f"{index} is an index of images; expected an index of vectors; name another --index."
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        import_vectors([made / "a.npy"], index)


def limited(*args, cwd, limit):
    """Run hyperpq with a limit on the size of files, which fails as a full disk does."""

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "hyperpq", *map(os.fspath, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, preexec_fn=prepare, timeout=120)


@pytest.mark.parametrize("style", ["npz", "parquet", "csv", "hdf5"])
def test_a_full_disk_leaves_the_old_file(made, tmp_path, style):
    (tmp_path / "out").write_text("old")
    options = ("--index", made / "index", "--format", style, "--vectors")
    done = limited("export", "out", *options, cwd=tmp_path, limit=100_000)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("hyperpq: error: out: cannot write: ")
    assert done.returncode == 1
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text() == "old"


def test_quiet_is_silent(hyperpq, made, tmp_path):
    for command in (
        ("import", made / "a.npy", "--epochs", "0"),
        ("export", "--format", "npz", "out.npz"),
    ):
        done = hyperpq(*command, "-q", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), command


@pytest.mark.parametrize("style", ["table", "csv", "out"])
def test_a_search_that_finds_nothing_says_why(hyperpq, made, tmp_path, style):
    out = ("-o", tmp_path / "out.npz") if style == "out" else ("--format", style)
    search = ("search", made / "a.npy", "--index", made / "index", *out)
    done = hyperpq(*search, "--where", "id > 99999")
    assert done.returncode == 0
    assert done.stderr.decode() == (
        f"hyperpq: nothing was found: no vector of {made / 'index'} fulfils the condition "
        "id > 99999\n"
    )
    assert hyperpq(*search, "--where", "id > 99999", "-q").stderr == b""
    assert hyperpq(*search, "--where", "id == 0").stderr == b""
    # Where nothing was asked, nothing can be found.
    np.save(tmp_path / "none.npy", X[:0])
    none = ("search", tmp_path / "none.npy", "--index", made / "index", "--where", "id > 99999")
    assert hyperpq(*none).stderr == b""


def test_a_search_of_an_empty_index_says_why(hyperpq, made, tmp_path):
    index = HiHPQIndex.load(made / "index", device="cpu").clone()
    index.reset()
    index.save(tmp_path / "empty")
    done = hyperpq("search", made / "a.npy", "--index", tmp_path / "empty")
    assert done.returncode == 0
    assert done.stderr.decode() == (
        f"hyperpq: nothing was found: {tmp_path / 'empty'} has no vectors.\n"
    )


@pytest.mark.parametrize("command", ["query x.jpg", "build x", "info", "verify", "search a.npy"])
def test_an_index_that_may_not_be_read_is_no_wrong_usage(made, tmp_path, command):
    index = tmp_path / "index"
    index.mkdir()
    index.chmod(0)
    (tmp_path / "x").mkdir()
    shutil.copy(made / "a.npy", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    shutil.copy(tmp_path / "x.jpg", tmp_path / "x")

    def obey_permissions():
        if os.geteuid() == 0:
            libc = ctypes.CDLL(None)
            # PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and of CAP_DAC_READ_SEARCH, with the next program.
            assert libc.prctl(24, 1, 0, 0, 0) == libc.prctl(24, 2, 0, 0, 0) == 0

    try:
        done = subprocess.run(
            [sys.executable, "-m", "hyperpq", *command.split(), "--index", index],
            cwd=tmp_path,
            capture_output=True,
            check=False,
            preexec_fn=obey_permissions,
        )
    except subprocess.SubprocessError:
        pytest.skip("root cannot give up the right to read anything")
    finally:
        index.chmod(0o700)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert said.startswith(f"hyperpq: error: {index}")
    assert "ermission denied" in said
    assert said.count("\n") == 1
