"""What an index holds as one file for other programs: npz, Parquet, CSV, HDF5, faiss."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.export_blocks import Block, blocks_of, path_text
from hyperpq.optional import need
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store.columns import TIME, Categories, Column, datasets_of, kind_of
from hyperpq.store.durable import fsync_folder, os_errors, remove_quietly, rename_over
from hyperpq.vectors import check_writable

if TYPE_CHECKING:
    from hyperpq.index import HiHPQIndex

# Of a chunk of an HDF5 dataset.
_CHUNK = 1 << 20

Source = Callable[[bool], Iterator[Block]]
"""Gives the blocks anew at each call; True asks for decoded vectors."""


def export_index(
    index: HiHPQIndex,
    path: str | os.PathLike[str],
    format: str,
    *,
    vectors: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the rows of an index to a file, see `export_rows`.

    Parameters
    ----------
    format : str
        One of `FORMATS`, or ``faiss`` for an index that faiss reads.

    Returns
    -------
    int
        Rows written.
    """
    if format == "faiss":
        if vectors:
            raise InvalidInputError(
                "format is 'faiss', which holds codes and no decoded vectors; leave vectors out."
            )
        cast(Any, index).write_faiss(path)
        return index.ntotal
    with (progress or SilentProgress()).phase("export", None, "rows") as phase:

        def blocks(decoded: bool) -> Iterator[Block]:
            for block in blocks_of(index, decoded):
                yield block
                phase.advance(block.n)

        return export_rows(blocks, path, format, vectors=vectors)


def export_rows(
    blocks: Source, path: str | os.PathLike[str], format: str, *, vectors: bool = False
) -> int:
    """Write rows to a file; it is there whole or not at all, and memory holds one block.

    What the files look like is in ``docs/export.md``.

    Parameters
    ----------
    blocks : callable
        Gives an iterator over at least one block, all with the same columns. Called with whether
        the blocks are to have vectors; for ``npz`` once for each array, and each time it must give
        the same.
    path : path-like
        The file; replaced if it exists.
    format : str
        One of `FORMATS`.
    vectors : bool
        Whether to write the decoded vectors.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    InvalidInputError
        No such format, a path that no file can be made at, or blocks that differ.
    MissingDependencyError
        A Parquet file, and pyarrow isn't installed.
    StoreError
        The disk refused; what was at ``path`` is as it was.
    """
    if format not in _WRITERS:
        raise InvalidInputError(f"format is {format!r}; choose one of {', '.join(FORMATS)}.")
    path = Path(path)
    check_writable(path)
    with _written_aside(path) as aside:
        return _WRITERS[format](blocks, aside, vectors)


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` for its new content, which gets its name at the end."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os_errors("write", path):
            yield aside
            handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        rename_over(aside, path)
    except BaseException:
        remove_quietly(aside)
        raise
    fsync_folder(path.parent)


def _first_and_all(blocks: Iterator[Block]) -> tuple[Block, Iterator[Block]]:
    """The first block, and all of them again, checked to be alike."""
    first = next(blocks, None)
    if first is None:
        raise InvalidInputError("there are no blocks; expected at least one, which may be empty.")

    def checked() -> Iterator[Block]:
        yield first
        for block in blocks:
            block.check_like(first)
            yield block

    return first, checked()


def _write_csv(blocks: Source, aside: Path, vectors: bool) -> int:
    first, every = _first_and_all(blocks(vectors))
    header = ["id", *(["path"] if first.paths is not None else []), *first.attributes, "code"]
    if first.vectors is not None:
        header += [f"v{i}" for i in range(first.vectors.shape[1])]
    n = 0
    with open(aside, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for block in every:
            columns: list[list[Any]] = [block.ids.tolist()]
            if block.paths is not None:
                columns.append([path_text(path) for path in block.paths])
            columns += [_texts(column) for column in block.attributes.values()]
            columns.append([row.tobytes().hex() for row in block.codes])
            rows = zip(*columns, strict=True)
            if block.vectors is None:
                writer.writerows(rows)
            else:
                numbers = ([f"{v:.9g}" for v in row.tolist()] for row in block.vectors)
                writer.writerows((*row, *v) for row, v in zip(rows, numbers, strict=True))
            n += block.n
    return n


def _texts(column: Column) -> list[Any]:
    """Values as CSV has them; numbers give back the very same when read."""
    if isinstance(column, Categories):
        return ["" if label is None else label for label in column.strings()]
    if column.dtype == TIME:
        return ["" if t == "NaT" else f"{t}Z" for t in np.datetime_as_string(column).tolist()]
    if column.dtype == np.float32:
        return [f"{value:.9g}" for value in column.tolist()]
    values: list[Any] = column.tolist()
    return values


def _write_parquet(blocks: Source, aside: Path, vectors: bool) -> int:
    pyarrow = need("pyarrow", "parquet", "Parquet files")
    from pyarrow.parquet import ParquetWriter

    first, every = _first_and_all(blocks(vectors))
    schema, n = _table(pyarrow, first).schema, 0
    with ParquetWriter(aside, schema) as writer:
        for block in every:
            writer.write_table(_table(pyarrow, block).cast(schema))
            n += block.n
    return n


def _table(pyarrow: Any, block: Block) -> Any:
    """A block as an Arrow table."""
    columns = {"id": pyarrow.array(block.ids)}
    if block.paths is not None:
        columns["path"] = pyarrow.array([path_text(p) for p in block.paths], pyarrow.string())
    for name, column in block.attributes.items():
        if isinstance(column, Categories):
            codes = pyarrow.array(column.codes, mask=column.codes < 0)
            labels = pyarrow.array(column.labels, pyarrow.string())
            columns[name] = pyarrow.DictionaryArray.from_arrays(codes, labels)
        elif column.dtype == TIME:
            columns[name] = pyarrow.array(column, pyarrow.timestamp("ns", "UTC"))
        else:
            columns[name] = pyarrow.array(column)
    size = pyarrow.binary(block.codes.shape[1])
    data = pyarrow.py_buffer(np.ascontiguousarray(block.codes))
    columns["code"] = pyarrow.Array.from_buffers(size, block.n, [None, data])
    if block.vectors is not None:
        flat = pyarrow.array(block.vectors.ravel())
        width = block.vectors.shape[1]
        columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, width)
    return pyarrow.table(columns)


class _Arrays:
    """Blocks as named arrays, the names of a shard's, in pieces that come one after another."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, int]] = {}
        self._path_end = -1  # before the first

    def names(self, block: Block) -> list[str]:
        """Names of the arrays whose pieces a block has."""
        out = ["ids", "codes"]
        if block.paths is not None:
            out += ["path_offsets", "path_bytes"]
        groups = {"category": "categories", "time": "times"}
        out += [f"{groups.get(kind_of(c), 'attributes')}/{n}" for n, c in block.attributes.items()]
        return out if block.vectors is None else [*out, "vectors"]

    def piece(self, name: str, block: Block) -> NDArray[Any]:
        """The piece of an array that comes from the next block."""
        group, _, attribute = name.rpartition("/")
        if group:
            column = block.attributes[attribute]
            if isinstance(column, Categories):
                return self._merged(attribute, column.used)
            return datasets_of({attribute: column})[name]
        if name == "path_bytes":
            return np.frombuffer(b"".join(block.paths or ()), np.uint8)
        if name == "path_offsets":
            ends = np.cumsum([max(self._path_end, 0), *map(len, block.paths or ())], dtype=np.int64)
            begun, self._path_end = self._path_end >= 0, int(ends[-1])
            return ends[1:] if begun else ends
        array: NDArray[Any] = getattr(block, name)
        return array

    def _merged(self, name: str, column: Categories) -> NDArray[np.int32]:
        """Codes of a column in the labels of all blocks so far."""
        places = self._labels.setdefault(name, {})
        # The last one is for -1.
        codes = [*(places.setdefault(label, len(places)) for label in column.labels), -1]
        return np.array(codes, np.int32)[column.codes]

    def labels(self) -> dict[str, NDArray[Any]]:
        """The arrays of labels, complete after the last block."""
        none = np.empty(0, np.int32)
        columns = {name: Categories(none, tuple(p)) for name, p in self._labels.items()}
        arrays = datasets_of(columns)
        return {name: array for name, array in arrays.items() if name.startswith("label_")}


def _write_hdf5(blocks: Source, aside: Path, vectors: bool) -> int:
    import h5py

    arrays, n = _Arrays(), 0
    _, every = _first_and_all(blocks(vectors))
    try:
        with h5py.File(aside, "x", locking=False) as file:
            for block in every:
                for name in arrays.names(block):
                    _append(file, name, arrays.piece(name, block))
                n += block.n
            for name, array in arrays.labels().items():
                file.create_dataset(name, data=array)
    except RuntimeError as error:  # what HDF5 makes of some errors of the system
        raise OSError(str(error)) from error
    return n


def _append(file: Any, name: str, piece: NDArray[Any]) -> None:
    if name not in file:
        tail = piece.shape[1:]
        rows = max(1, _CHUNK // (piece.itemsize * int(np.prod(tail, dtype=np.int64))))
        file.create_dataset(name, data=piece, maxshape=(None, *tail), chunks=(rows, *tail))
        return
    data = file[name]
    start = len(data)
    data.resize(start + len(piece), axis=0)
    data[start:] = piece


def _write_npz(blocks: Source, aside: Path, vectors: bool) -> int:
    """An array after another, each from a pass over the blocks: a zip file has them in a row."""
    import zipfile

    arrays, lengths = _Arrays(), dict[str, int]()
    first, every = _first_and_all(blocks(False))
    pieces = {name: arrays.piece(name, first)[:0] for name in arrays.names(first)}
    arrays = _Arrays()
    for block in every:
        for name in pieces:
            lengths[name] = lengths.get(name, 0) + len(arrays.piece(name, block))
    n = lengths["ids"]
    if vectors:
        decoded, _ = _first_and_all(blocks(True))
        pieces["vectors"], lengths["vectors"] = _Arrays().piece("vectors", decoded)[:0], n
    with zipfile.ZipFile(aside, "x") as file:
        for name, empty in pieces.items():
            shape = (lengths[name], *empty.shape[1:])
            rows = map(partial(_Arrays().piece, name), blocks(name == "vectors"))
            _write_member(file, name, empty.dtype, shape, rows)
        for name, array in arrays.labels().items():
            _write_member(file, name, array.dtype, array.shape, iter([array]))
    return n


def _write_member(
    file: Any,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    pieces: Iterator[NDArray[Any]],
) -> None:
    """Write an array of known shape into an npz file, piece by piece."""
    import zipfile

    done = 0
    # A ZipInfo of its own has no time in it.
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        little = dtype.newbyteorder("<")
        header = {"descr": little.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for piece in pieces:
            member.write(np.ascontiguousarray(piece, little).data.cast("B") if piece.size else b"")
            done += len(piece)
    if done != shape[0]:
        raise InvalidInputError(
            f"the blocks had {shape[0]} values of {name} at first and {done} when they came "
            "again; each call must give the same blocks."
        )


_WRITERS: dict[str, Callable[[Source, Path, bool], int]] = {
    "npz": _write_npz,
    "parquet": _write_parquet,
    "csv": _write_csv,
    "hdf5": _write_hdf5,
}
FORMATS = tuple(_WRITERS)
