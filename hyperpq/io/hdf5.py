"""Vectors in HDF5 files, which may come from strangers.

A file cannot direct the reader to other files (by external links, external storage or virtual
datasets), nor make it allocate memory for values that the file does not contain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.named_arrays import listed, not_vectors, only_one

if TYPE_CHECKING:
    import h5py

# Bytes of a decompressed HDF5 chunk, as HDF5 decompresses a whole chunk at once.
_MAX_CHUNK_BYTES = 1 << 30


def hdf5_source(
    path: Path, dataset: str | None
) -> tuple[tuple[int, int], Callable[[int], Iterator[NDArray[Any]]]]:
    """Shape and reader of a two-dimensional dataset of numbers in an HDF5 file.

    Parameters
    ----------
    path : Path
        The file.
    dataset : str, optional
        Name of the dataset; by default the only one of two dimensions.

    Returns
    -------
    shape : (int, int)
        Number of vectors and their width.
    read : callable
        Gives the rows in batches of a given size.

    Raises
    ------
    InvalidInputError
        If it is not an HDF5 file, there is not exactly one such dataset, or the file does not
        contain all its values.
    """
    with _opened(path) as file:
        n, d = _chosen(file, path, dataset).shape

    def read(rows: int) -> Iterator[NDArray[Any]]:
        with _opened(path) as file:
            data = _chosen(file, path, dataset)
            for start in range(0, len(data), rows):
                yield data[start : start + rows]

    return (n, d), read


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    import h5py

    try:
        # The locks of HDF5 fail on some network file systems.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except InvalidInputError:
        raise
    # The errors of h5py depend on where the file is damaged, and are not documented.
    except Exception as error:
        raise InvalidInputError(f"{path} is not a readable HDF5 file ({error}).") from error


def _chosen(file: h5py.File, path: Path, dataset: str | None) -> h5py.Dataset:
    """The dataset with that name, or the only one that fits, checked."""
    import h5py

    names: list[str] = []
    # This visits hard links only, and each dataset once; links to other files are not followed.
    file.visititems(lambda name, item: names.append(name) if type(item) is h5py.Dataset else None)
    if dataset is not None:
        wanted = dataset.strip("/")
        if wanted not in names:
            raise InvalidInputError(
                f"{path} has no dataset {dataset!r}; it has {listed(names)}, and links are not "
                "followed."
            )
        return _checked(file, path, wanted)
    flat = [name for name in names if _dimensions(file[name]) == 2]
    if not flat:
        raise InvalidInputError(
            f"{path} has no dataset of two dimensions that is stored in it; expected an array "
            "(n, d) of numbers."
        )
    return _checked(file, path, only_one(path, flat, "datasets of two dimensions"))


def _dimensions(data: h5py.Dataset) -> int:
    """Number of dimensions of a dataset; 0 for a virtual one, whose files are not opened."""
    from h5py import h5d

    virtual = data.id.get_create_plist().get_layout() == h5d.VIRTUAL
    return 0 if virtual or data.shape is None else len(data.shape)


def _checked(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    data = file[name]
    problem = _problem(data, path.stat().st_size)
    if problem:
        raise InvalidInputError(f"{path}: dataset {name!r} {problem}.")
    return data


def _problem(data: h5py.Dataset, size: int) -> str | None:
    """Why a dataset in a file of ``size`` bytes cannot be read as vectors, or None."""
    from h5py import h5d

    creation = data.id.get_create_plist()
    layout = creation.get_layout()
    if layout == h5d.VIRTUAL or creation.get_external_count():
        return "is stored in other files; expected its values in this file"
    if problem := not_vectors(data.shape, data.dtype):
        return problem
    n, d = data.shape
    length, stored = n * d * data.dtype.itemsize, data.id.get_storage_size()
    short = f"has shape {data.shape}, but the file contains only some of its values"
    if layout == h5d.CHUNKED:
        if int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize > _MAX_CHUNK_BYTES:
            return f"has chunks {data.chunks}; expected at most {_MAX_CHUNK_BYTES} bytes per chunk"
        chunks = -(-n // data.chunks[0]) * -(-d // data.chunks[1])
        # Values that were never written have no chunk, and any number of them reads as zeros.
        if data.id.get_num_chunks() != chunks or stored > size:
            return short
    elif stored < length or (data.id.get_offset() or 0) + length > size:
        return short
    return None
