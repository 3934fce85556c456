"""`open_vectors`: vectors in .npy, .npz, .fvecs, .bvecs, .ivecs, HDF5 and Parquet files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_features

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

Source: TypeAlias = tuple[tuple[int, int], Callable[[int], Iterator[NDArray[Any]]]]
"""Shape (n, d) of a file, and a function that reads its rows in batches of a given size."""

# Type of the values in the TEXMEX layout, by the ending of the file.
_TEXMEX = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
# Endings of files with several named arrays.
_NAMED = (".npz", ".h5", ".hdf5", ".parquet")
ENDINGS = (".npy", *_TEXMEX, *_NAMED)
MAX_WIDTH = 1 << 20
"""Largest width of a vector; a damaged or hostile file could ask for memory for more."""


@dataclass(frozen=True)
class VectorFile:
    """Vectors in a file, of which only one batch is in memory.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of int
        (n, d): the number of vectors and their width.
    """

    path: Path
    shape: tuple[int, int]
    _read: Callable[[int], Iterator[NDArray[Any]]]

    def batches(self, rows: int = 65536) -> Iterator[NDArray[np.float32]]:
        """The vectors in order, in batches of at most ``rows``.

        Yields
        ------
        ndarray, shape (rows, d), float32
            A file without vectors gives one empty batch.

        Raises
        ------
        InvalidInputError
            If a value is not a finite float32, a row has another width, or the file is damaged.
        """
        done = 0
        if not self.shape[0]:
            yield np.empty(self.shape, np.float32)
        for raw in self._read(rows):
            yield as_features(raw, self.shape[1], str(self.path), first_row=done)
            done += len(raw)
        if done != self.shape[0]:
            raise InvalidInputError(
                f"{self.path} has {done} vectors; expected {self.shape[0]}; the file is damaged or "
                "has changed while it was read."
            )

    def check_width(self, d: int, whose: str = "") -> None:
        """Raise `InvalidInputError`, which says ``whose``, unless the vectors have the width d."""
        if self.shape[1] != d:
            raise InvalidInputError(
                f"{self.path} has width {self.shape[1]}; expected {d}{whose and ', that of '}"
                f"{whose}."
            )

    def read(self) -> NDArray[np.float32]:
        """Read all vectors, shape (n, d), into memory; it raises the errors of `batches`."""
        out = np.empty(self.shape, np.float32)
        done = 0
        for batch in self.batches():
            out[done : done + len(batch)] = batch
            done += len(batch)
        return out


def is_vector_file(path: Path | str) -> bool:
    """Whether a file is a file of vectors, by the ending of its name."""
    return Path(path).suffix.lower() in ENDINGS


def check_fit(files: Iterable[VectorFile], index: HiHPQIndex) -> None:
    """Raise `InvalidInputError` unless files have vectors of the width of an index."""
    from hyperpq.images.metadata import ImageMetadata

    images = ImageMetadata.from_index(index.metadata)
    what = "vectors" if images is None else f"features of {images.backbone['name']}"
    kind = "index" if images is None else "index of images"
    for file in files:
        file.check_width(index.d, f"the {what} of the {kind} {index.path}")


def open_vectors(
    path: str | os.PathLike[str], *, dataset: str | None = None, d: int | None = None
) -> VectorFile:
    """Open a file of vectors; the ending of its name determines its format.

    Parameters
    ----------
    path : path-like
        ``.npy``: one array (n, d), memory-mapped. ``.npz``: a two-dimensional array. ``.fvecs``,
        ``.bvecs``, ``.ivecs``: the TEXMEX layout, in which each row is an int32 with its width,
        followed by float32, uint8 or int32 values, all little-endian. ``.h5``, ``.hdf5``: a
        two-dimensional dataset of numbers. ``.parquet``: a column of lists of numbers, or only
        columns of numbers, each of which is a coordinate.
    dataset : str, optional
        Name of the array of an .npz file, of the HDF5 dataset or of the Parquet column; by default
        the only one that fits.
    d : int, optional
        Width that the vectors must have.

    Returns
    -------
    VectorFile

    Raises
    ------
    InvalidInputError
        If there is no such file or it does not contain vectors.
    MissingDependencyError
        If it is a Parquet file and pyarrow is not installed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        known = ", ".join(ENDINGS)
        if path.is_dir():
            raise InvalidInputError(
                f"{path} is a folder; expected files of vectors ({known}); `hyperpq build` makes "
                "an index of a folder of images."
            )
        raise InvalidInputError(
            f"{path} has no ending of a file of vectors; expected one of {known}."
        )
    _check_file(path)
    if dataset is not None and ending not in _NAMED:
        raise InvalidInputError(
            f"dataset is {dataset!r}; {path} has no named datasets; leave dataset out."
        )
    shape, read = _source(path, ending, dataset)
    if not 1 <= shape[1] <= MAX_WIDTH:
        raise InvalidInputError(f"{path} has width {shape[1]}; expected 1 to {MAX_WIDTH}.")
    file = VectorFile(path, shape, read)
    if d is not None:
        file.check_width(d)
    return file


def _source(path: Path, ending: str, dataset: str | None) -> Source:
    if ending == ".npy":
        array = load_array(path, 2, "(n, d)")
        # This checks the dtype.
        as_features(array[:0], None, str(path))
        return (array.shape[0], array.shape[1]), lambda rows: _slices(array, rows)
    if ending in _TEXMEX:
        return _texmex_source(path, np.dtype(_TEXMEX[ending]))
    if ending == ".npz":
        from hyperpq.io.npz import npz_source

        return npz_source(path, dataset)
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
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise InvalidInputError(f"{path} is not a regular file; give a file of vectors.")


def _unreadable(path: Path, error: OSError) -> InvalidInputError:
    return InvalidInputError(
        f"{path} cannot be read ({error.strerror or error}); give an existing file."
    )


def load_array(path: Path, ndim: int, shape: str) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped.

    Parameters
    ----------
    path : Path
        The file.
    ndim : int
        Dimensions that it must have.
    shape : str
        Description of the expected shape for an error.

    Raises
    ------
    InvalidInputError
        If there is no such file, or it holds something else.
    """
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        what = "is not a complete .npy file of numbers" if path.stat().st_size else "is empty"
        raise InvalidInputError(
            f"{path} {what}; expected a file that numpy.save(file, array) has written."
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != ndim:
        found = getattr(array, "shape", "several arrays")
        raise InvalidInputError(f"{path} holds {found}; expected one array of shape {shape}.")
    return array


def load_views(path: Path) -> NDArray[Any]:
    """Vectors of augmented views, shape (V, n, d), in a .npy file, memory-mapped.

    Raises
    ------
    InvalidInputError
        If there is no such file, or it does not hold an array of three dimensions.
    """
    return load_array(path, 3, "(V, n, d)")


def _slices(array: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def _texmex_source(path: Path, item: np.dtype[Any]) -> Source:
    size = path.stat().st_size
    if size < 4:
        raise InvalidInputError(
            f"{path} is {size} bytes long; expected rows of an int32, their width, and values."
        )
    width = int(np.fromfile(path, "<i4", 1)[0])
    length = 4 + width * item.itemsize
    if not 1 <= width <= MAX_WIDTH or size % length:
        raise InvalidInputError(
            f"{path} begins with the width {width} and is {size} bytes long; expected a width of "
            f"1 to {MAX_WIDTH} and complete rows of 4 bytes and {item.itemsize} bytes per value."
        )
    raw = np.memmap(path, np.uint8, "r").reshape(-1, length)

    def read(rows: int) -> Iterator[NDArray[Any]]:
        for number, batch in enumerate(_slices(raw, rows)):
            widths = np.ascontiguousarray(batch[:, :4]).view("<i4")[:, 0]
            if (widths != width).any():
                row = int(np.argmax(widths != width))
                raise InvalidInputError(
                    f"{path} has the width {widths[row]} in row {number * rows + row}; expected "
                    f"{width}, that of the rows before."
                )
            yield np.ascontiguousarray(batch[:, 4:]).view(item)

    return (len(raw), width), read


def batch_rows(d: int) -> int:
    """Number of vectors of width ``d`` in a batch: up to 65,536 and 64 MiB, and at least one."""
    return max(1, min(65536, (1 << 24) // d))


def sample_rows(
    files: Sequence[VectorFile],
    size: int,
    seed: int = 0,
    advance: Callable[[int], object] = lambda n: None,
    look: Callable[[int, NDArray[np.float32]], object] = lambda number, batch: None,
) -> NDArray[np.float32]:
    """Random rows of files of one width, in their order; all rows are read, and so checked.

    Parameters
    ----------
    files : sequence of VectorFile
        At least one file.
    size : int
        Number of rows to take; all rows if there are fewer. With 0, rows are only checked.
    seed : int
        The same files, size and seed give the same rows.
    advance : callable
        Called with the number of rows that were read.
    look : callable
        Called with the number of a file, counted from 0, and each batch of its vectors.

    Returns
    -------
    ndarray, shape (min(size, n), d), float32

    Raises
    ------
    InvalidInputError
        See `VectorFile.batches`.
    """
    total, d = sum(file.shape[0] for file in files), files[0].shape[1]
    random = np.random.default_rng(seed)
    # Without shuffling, no list of all rows is made.
    chosen = np.sort(random.choice(total, min(size, total), replace=False, shuffle=False))
    out = np.empty((len(chosen), d), np.float32)
    start = 0
    for number, file in enumerate(files):
        for batch in file.batches(batch_rows(d)):
            look(number, batch)
            low, high = np.searchsorted(chosen, (start, start + len(batch)))
            out[low:high] = batch[chosen[low:high] - start]
            start += len(batch)
            advance(len(batch))
    return out
