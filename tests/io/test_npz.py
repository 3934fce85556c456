"""Vectors in .npz files: what numpy writes is read, and what is damaged or hostile is refused."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from hyperpq.errors import InvalidInputError
from hyperpq.io.vector_files import open_vectors

X = np.random.default_rng(2).normal(size=(50, 6)).astype(np.float32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "x",
    [X, X.astype(np.float64), np.asfortranarray(X), X.T.copy().T, (X * 9).astype(np.int8), X[:0]],
    ids=["float32", "float64", "fortran", "transposed", "int8", "empty"],
)
def test_arrays_are_read_in_batches(tmp_path, save, x):
    save(tmp_path / "x.npz", x=x, labels=np.arange(50), name=np.array("text"))
    file = open_vectors(tmp_path / "x.npz")
    assert file.shape == x.shape
    batches = list(file.batches(7))
    assert max(map(len, batches)) <= 7
    np.testing.assert_array_equal(np.concatenate(batches), x.astype(np.float32))


def test_one_of_several_arrays_is_chosen(tmp_path):
    np.savez(tmp_path / "x.npz", a=X, b=X[:3])
    assert open_vectors(tmp_path / "x.npz", dataset="b").shape == (3, 6)
    with pytest.raises(InvalidInputError, match=r"has 2 arrays of two dimensions \('a', 'b'\)"):
        open_vectors(tmp_path / "x.npz")
    with pytest.raises(InvalidInputError, match=r"has no array 'c'; it has 'a', 'b'\."):
        open_vectors(tmp_path / "x.npz", dataset="c")
    np.savez(tmp_path / "flat.npz", a=X[0])
    with pytest.raises(InvalidInputError, match="has no array of two dimensions; it has 'a'"):
        open_vectors(tmp_path / "flat.npz")
    with pytest.raises(InvalidInputError, match=r"array 'a' has shape \(6,\); expected two"):
        open_vectors(tmp_path / "flat.npz", dataset="a")


def member(data):
    """An archive with one array, whose file has given bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.npy", data)
    return out.getvalue()


def npy(x, promised=None):
    out = io.BytesIO()
    np.save(out, x)
    if promised is None:
        return out.getvalue()
    header = out.getvalue()[: -x.nbytes]
    return header.replace(str(x.shape).encode(), promised) + x.tobytes()


class Hostile:
    def __reduce__(self):
        return (pytest.fail, ("the file was unpickled",))


HOSTILE = {
    "no archive": (b"nothing of use", "is not a readable .npz file"),
    "torn": (member(npy(X))[:300], "is not a readable .npz file"),
    "no array": (member(b"nothing of use"), "is not a readable .npz file"),
    "words": (member(npy(np.array([["a", "b"]]))), "has dtype <U1; expected numbers"),
    "objects": (
        member(npy(np.zeros((1, 1)))[:80].replace(b"'<f8'", b"'|O' ") + pickle.dumps(Hostile())),
        "is not a readable .npz file",
    ),
    "promises more": (
        member(npy(X, b"(99, 6)")),
        r"shape \(99, 6\), but the file contains 1,200 bytes of values; expected 2,376",
    ),
    "promises a petabyte": (
        member(npy(X, b"(9999999999999, 6)")),
        "but the file contains 1,.* bytes of values|is not a readable",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, name):
    data, message = HOSTILE[name]
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InvalidInputError, match=message):
        list(open_vectors(tmp_path / "x.npz").batches())


def test_a_damaged_value_is_an_error(tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[600] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"is not a readable \.npz file .*CRC"):
        list(open_vectors(tmp_path / "x.npz").batches())
