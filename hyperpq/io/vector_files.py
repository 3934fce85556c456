"""Vectors in files, read block by block: .npy, .fvecs, .bvecs, .ivecs, HDF5 and Parquet."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_features

Source: TypeAlias = tuple[tuple[int, int], Callable[[int], Iterator[NDArray[Any]]]]
"""Shape (n, d) of a file, and what reads its rows in blocks of so many."""

# Item of a row in the TEXMEX layout, by ending.
_TEXMEX = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
# Endings whose files hold several arrays by name.
_NAMED = (".h5", ".hdf5", ".parquet")
ENDINGS = (".npy", *_TEXMEX, *_NAMED)
# No model makes a vector as wide; a damaged or hostile file could ask for the memory of one.
WIDEST = 1 << 20


@dataclass(frozen=True)
class VectorFile:
    """Vectors of a file, of which only a block is in memory.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of int
        (n, d): vectors and their width.
    """

    path: Path
    shape: tuple[int, int]
    _read: Callable[[int], Iterator[NDArray[Any]]]

    def blocks(self, rows: int = 65536) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, at most ``rows`` at a time, as float32 arrays (rows, d).

        Of a file without vectors comes one block, which is empty.

        Raises
        ------
        InvalidInputError
            A value that isn't a finite float32, a row of another width, or damage.
        """
        done = 0
        if not self.shape[0]:
            yield np.empty(self.shape, np.float32)
        for raw in self._read(rows):
            yield as_features(raw, self.shape[1], str(self.path), first_row=done)
            done += len(raw)
        if done != self.shape[0]:
            raise InvalidInputError(
                f"{self.path} has {done} vectors, but says that there are {self.shape[0]}; "
                "the file is damaged or was changed while it was read."
            )

    def read(self) -> NDArray[np.float32]:
        """All vectors in memory, shape (n, d); raises what `blocks` does."""
        out = np.empty(self.shape, np.float32)
        done = 0
        for block in self.blocks():
            out[done : done + len(block)] = block
            done += len(block)
        return out


def is_vector_file(path: Path) -> bool:
    """Whether a file is one of vectors by its name."""
    return path.suffix.lower() in ENDINGS


def open_vectors(
    path: str | os.PathLike[str], *, dataset: str | None = None, d: int | None = None
) -> VectorFile:
    """Open a file of vectors; its ending says what it is.

    Parameters
    ----------
    path : path-like
        ``.npy``: one array (n, d), memory-mapped. ``.fvecs``, ``.bvecs``, ``.ivecs``: the TEXMEX
        layout, each row an int32 with its width and then float32, uint8 or int32 values, all
        little-endian. ``.h5``, ``.hdf5``: a two-dimensional dataset of numbers. ``.parquet``: a
        column of lists of numbers, or nothing but columns of numbers, each a coordinate.
    dataset : str, optional
        Name of the HDF5 dataset or the Parquet column; the only one of its kind unless given.
    d : int, optional
        Width that the vectors must have.

    Raises
    ------
    InvalidInputError
        No such file, or not one of vectors; the message says what was found.
    MissingDependencyError
        A Parquet file, and pyarrow isn't installed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InvalidInputError(
            f"{path} is no file of vectors by its name; expected one of {', '.join(ENDINGS)}."
        )
    _check_file(path)
    if dataset is not None and ending not in _NAMED:
        raise InvalidInputError(
            f"{path} has no datasets to choose from, and {dataset!r} was asked for; leave it out."
        )
    shape, read = _source(path, ending, dataset)
    if not 1 <= shape[1] <= WIDEST:
        raise InvalidInputError(f"{path} has width {shape[1]}; expected 1 to {WIDEST}.")
    if d is not None and shape[1] != d:
        raise InvalidInputError(f"{path} has width {shape[1]}; expected {d}.")
    return VectorFile(path, shape, read)


def _source(path: Path, ending: str, dataset: str | None) -> Source:
    if ending == ".npy":
        array = load_array(path, 2, "(n, d)")
        # For its dtype.
        as_features(array[:0], None, str(path))
        return (array.shape[0], array.shape[1]), lambda rows: _slices(array, rows)
    if ending in _TEXMEX:
        return _texmex_source(path, np.dtype(_TEXMEX[ending]))
    if ending == ".parquet":
        from hyperpq.io.parquet import parquet_source

        return parquet_source(path, dataset)
    from hyperpq.io.hdf5 import hdf5_source

    return hdf5_source(path, dataset)


def _check_file(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
    except OSError as error:
        raise InvalidInputError(f"{path} can't be read: {error.strerror or error}.") from error
    if not stat.S_ISREG(mode):
        raise InvalidInputError(f"{path} is no regular file; give a file of vectors.")


def load_array(path: Path, ndim: int, shape: str) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped.

    Parameters
    ----------
    path : Path
        The file.
    ndim : int
        Dimensions that it must have.
    shape : str
        What to call that in an error.

    Raises
    ------
    InvalidInputError
        No such file, or another array.
    """
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InvalidInputError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise InvalidInputError(
            f"{path} isn't a whole .npy file of numbers; write one with numpy.save(path, array)."
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != ndim:
        found = getattr(array, "shape", "several arrays")
        raise InvalidInputError(f"{path} holds {found}; expected one array of shape {shape}.")
    return array


def _slices(array: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _texmex_source(path: Path, item: np.dtype[Any]) -> Source:
    size = path.stat().st_size
    if size < 4:
        raise InvalidInputError(
            f"{path} is {size} bytes long; expected rows of an int32 with their width and values."
        )
    width = int(np.fromfile(path, "<i4", 1)[0])
    length = 4 + width * item.itemsize
    if not 1 <= width <= WIDEST or size % length:
        raise InvalidInputError(
            f"{path} begins with the width {width} and is {size} bytes long; expected a width of "
            f"1 to {WIDEST} and rows of {item.itemsize} bytes a value and 4 more, to the last byte."
        )
    raw = np.memmap(path, np.uint8, "r").reshape(-1, length)

    def read(rows: int) -> Iterator[NDArray[Any]]:
        for number, block in enumerate(_slices(raw, rows)):
            widths = np.ascontiguousarray(block[:, :4]).view("<i4")[:, 0]
            if (widths != width).any():
                row = int(np.argmax(widths != width))
                raise InvalidInputError(
                    f"{path} has the width {widths[row]} in row {number * rows + row} and {width} "
                    "before it; all rows must have the same width."
                )
            yield np.ascontiguousarray(block[:, 4:]).view(item)

    return (len(raw), width), read


def rows_at_once(d: int, most: int = 65536) -> int:
    """Vectors of width ``d`` in a block of at most 64 MiB, one at least."""
    return max(1, min(most, (1 << 24) // d))


def sample_rows(
    files: Sequence[VectorFile],
    most: int,
    seed: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> NDArray[np.float32]:
    """Random rows of files of one width, in order; every row is read and so checked.

    Parameters
    ----------
    files : sequence of VectorFile
        At least one.
    most : int
        Rows to take; all if there are fewer. 0 only checks.
    seed : int
        Same files, most and seed: same rows.
    advance : callable
        Called with the number of rows that were read.

    Returns
    -------
    ndarray, shape (min(most, n), d), float32

    Raises
    ------
    InvalidInputError
        See `VectorFile.blocks`.
    """
    total, d = sum(file.shape[0] for file in files), files[0].shape[1]
    random = np.random.default_rng(seed)
    # Without a list of all rows, however many there are.
    chosen = np.sort(random.choice(total, min(most, total), replace=False, shuffle=False))
    out = np.empty((len(chosen), d), np.float32)
    start = 0
    for file in files:
        for block in file.blocks(rows_at_once(d)):
            low, high = np.searchsorted(chosen, (start, start + len(block)))
            out[low:high] = block[chosen[low:high] - start]
            start += len(block)
            advance(len(block))
    return out
