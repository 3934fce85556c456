"""Vectors in .npz files, the archives of numpy, which may come from strangers.

An archive holds one .npy file for each array. Rows are read from it as they are decompressed, so
that only a batch is in memory, and no object is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.named_arrays import listed, not_vectors, only_one

_SUFFIX = ".npy"


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool


def npz_source(
    path: Path, dataset: str | None
) -> tuple[tuple[int, int], Callable[[int], Iterator[NDArray[Any]]]]:
    """Shape and reader of a two-dimensional array of numbers in an .npz file.

    Parameters
    ----------
    path : Path
        The file.
    dataset : str, optional
        Name of the array; by default the only one of two dimensions.

    Returns
    -------
    shape : (int, int)
        Number of vectors and their width.
    read : callable
        Gives the rows in batches of a given size. An array in the order of Fortran is read whole.

    Raises
    ------
    InvalidInputError
        If it is no such archive, there is not exactly one such array, or it is not complete.
    """
    with _opened(path) as archive:
        name = _chosen(archive, path, dataset)
        with archive.open(name) as file:
            header = _checked(archive, path, name, file)
    n, d = header.shape

    def read(rows: int) -> Iterator[NDArray[Any]]:
        with _opened(path) as archive, archive.open(name) as file:
            _read_header(file)
            if header.is_fortran:
                data = np.frombuffer(file.read(), header.dtype).reshape(d, n).T
                for start in range(0, n, rows):
                    yield data[start : start + rows]
                return
            for start in range(0, n, rows):
                size = min(rows, n - start) * d * header.dtype.itemsize
                yield np.frombuffer(file.read(size), header.dtype).reshape(-1, d)

    return (n, d), read


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (InvalidInputError, MemoryError):
        raise
    # Those of zipfile and numpy depend on where the file is damaged, and are not documented.
    except Exception as error:
        raise InvalidInputError(
            f"{path} is not a readable .npz file ({error}); expected a file that numpy.savez has "
            "written."
        ) from error


def _chosen(archive: zipfile.ZipFile, path: Path, dataset: str | None) -> str:
    """Name in the archive of the array that is asked for, or of the only one that fits."""
    files = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
    names = [name.removesuffix(_SUFFIX) for name in files]
    if dataset is not None:
        if dataset not in names:
            raise InvalidInputError(f"{path} has no array {dataset!r}; it has {listed(names)}.")
        return dataset + _SUFFIX
    flat = []
    for name in names:
        with archive.open(name + _SUFFIX) as file:
            if len(_read_header(file).shape) == 2:
                flat.append(name)
    if not flat:
        raise InvalidInputError(
            f"{path} has no array of two dimensions; it has {listed(names)}; expected an array "
            "(n, d) of numbers."
        )
    return only_one(path, flat, "arrays of two dimensions") + _SUFFIX


def _read_header(file: IO[bytes]) -> _Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    return _Header(shape, dtype, is_fortran)


def _checked(archive: zipfile.ZipFile, path: Path, name: str, file: IO[bytes]) -> _Header:
    header = _read_header(file)
    shown = f"{path}: array {name.removesuffix(_SUFFIX)!r}"
    if problem := not_vectors(header.shape, header.dtype):
        raise InvalidInputError(f"{shown} {problem}.")
    # A header could promise more values than the archive has.
    promised = header.shape[0] * header.shape[1] * header.dtype.itemsize
    stored = archive.getinfo(name).file_size - file.tell()
    if promised != stored:
        raise InvalidInputError(
            f"{shown} has shape {header.shape}, but the file contains {stored:,} bytes of values; "
            f"expected {promised:,}."
        )
    return header
