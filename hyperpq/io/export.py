"""What an index holds as one file for other programs: npz, Parquet, CSV, HDF5, faiss."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperpq.errors import InvalidInputError
from hyperpq.io.export_arrays import write_hdf5, write_npz
from hyperpq.io.export_batches import Block, Source, blocks_of, first_and_all, path_text
from hyperpq.io.npy_files import check_writable
from hyperpq.progress import Progress, SilentProgress
from hyperpq.store import Categories, Column
from hyperpq.store.columns import TIME
from hyperpq.utils.files import fsync_folder, os_errors, remove_quietly, rename_over
from hyperpq.utils.imports import need

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex


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
        index.write_faiss(path)
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
        the blocks are to have vectors; several times for ``hdf5`` and ``npz``, and each time it
        must give the same.
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


def _write_csv(blocks: Source, aside: Path, vectors: bool) -> int:
    first, every = first_and_all(blocks(vectors))
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

    first, every = first_and_all(blocks(vectors))
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


_WRITERS: dict[str, Callable[[Source, Path, bool], int]] = {
    "npz": write_npz,
    "parquet": _write_parquet,
    "csv": _write_csv,
    "hdf5": write_hdf5,
}
FORMATS = tuple(_WRITERS)
