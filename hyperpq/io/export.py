"""`export_index`: the rows of an index as one npz, Parquet, CSV, HDF5 or FAISS file."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperpq.errors import InvalidInputError
from hyperpq.io.export_arrays import write_hdf5, write_npz
from hyperpq.io.export_batches import BatchSource, ExportBatch, batches_of, first_and_all, path_text
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import Categories, Column
from hyperpq.store.columns import TIME, as_json, values_of
from hyperpq.utils.imports import need
from hyperpq.utils.output_files import check_writable, written_aside

if TYPE_CHECKING:
    import pyarrow

    from hyperpq.index.hihpq_index import HiHPQIndex


def export_index(
    index: HiHPQIndex,
    path: str | os.PathLike[str],
    format: str,
    *,
    vectors: bool = False,
    features: bool = False,
    progress: ProgressLike = None,
) -> int:
    """Write the rows of an index to a file, see `export_rows`.

    Parameters
    ----------
    index : HiHPQIndex
        A trained index.
    path : path-like
        The file; replaced if it exists.
    format : str
        One of `FORMATS`, or ``faiss`` for an index that FAISS reads.
    vectors : bool
        Whether to write the decoded vectors.
    features : bool
        Whether to write the features, of an index that keeps them.
    progress : Progress or bool, optional
        Where to report progress.

    Returns
    -------
    int
        Number of rows written.
    """
    if format == "faiss":
        if vectors or features:
            what, name = ("decoded vectors", "vectors") if vectors else ("features", "features")
            raise InvalidInputError(
                f"format is 'faiss', which holds no {what}; leave {name} out, or choose another "
                "format."
            )
        index.write_faiss(path)
        return index.ntotal
    view = index.view()
    if features:
        view.rows.kept_by()
    with as_progress(progress).phase("export", None, "rows") as phase:

        def batches(wide: bool) -> Iterator[ExportBatch]:
            for batch in batches_of(view, wide and vectors, wide and features):
                yield batch
                phase.advance(batch.n)

        return export_rows(batches, path, format, vectors=vectors or features)


def export_rows(
    batches: BatchSource, path: str | os.PathLike[str], format: str, *, vectors: bool = False
) -> int:
    """Write rows to a file, completely or not at all; only one batch is in memory.

    ``docs/how-to/export.md`` describes the files.

    Parameters
    ----------
    batches : callable
        Gives an iterator over at least one batch, all with equal columns. Its argument is whether
        the batches have their columns of vectors. It is called several times for ``hdf5`` and
        ``npz``, and gives the same rows each time.
    path : path-like
        The file; replaced if it exists.
    format : str
        One of `FORMATS`.
    vectors : bool
        Whether to write the columns of vectors, see `ExportBatch.wide`.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    InvalidInputError
        If there is no such format, no file can be written at ``path``, or batches differ.
    MissingDependencyError
        If the format is ``parquet`` and pyarrow is not installed.
    StoreError
        If the system refuses; a file at ``path`` is as it was.
    """
    if format not in _WRITERS:
        raise InvalidInputError(f"format is {format!r}; expected one of {', '.join(FORMATS)}.")
    path = Path(path)
    check_writable(path)
    with written_aside(path) as aside:
        return _WRITERS[format](batches, aside, vectors)


def _write_csv(batches: BatchSource, aside: Path, vectors: bool) -> int:
    first, every = first_and_all(batches(vectors))
    header = ["id", *(["path"] if first.paths is not None else []), *first.attributes, "code"]
    for name, column in first.wide.items():
        header += [f"{name[0]}{i}" for i in range(column.shape[1])]
    n = 0
    with open(aside, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for batch in every:
            columns: list[list[Any]] = [batch.ids.tolist()]
            if batch.paths is not None:
                columns.append([path_text(path) for path in batch.paths])
            columns += [_cells(column) for column in batch.attributes.values()]
            columns.append([row.tobytes().hex() for row in batch.codes])
            rows = zip(*columns, strict=True)
            wide = batch.wide.values()
            for i, row in enumerate(rows):
                writer.writerow(
                    [*row, *(f"{v:.9g}" for column in wide for v in column[i].tolist())]
                )
            n += batch.n
    return n


def _cells(column: Column) -> list[Any]:
    """Values as they are written to CSV, None as an empty cell.

    Numbers have the same value when they are read.
    """
    if not isinstance(column, Categories):
        if column.dtype == TIME:
            return list(map(as_json, values_of(column)))
        if column.dtype == np.float32:
            return [f"{value:.9g}" for value in column.tolist()]
    return values_of(column)


def _write_parquet(batches: BatchSource, aside: Path, vectors: bool) -> int:
    need("pyarrow", "parquet", "Parquet files")
    from pyarrow.parquet import ParquetWriter

    first, every = first_and_all(batches(vectors))
    schema, n = _arrow_table(first).schema, 0
    with ParquetWriter(aside, schema) as writer:
        for batch in every:
            writer.write_table(_arrow_table(batch).cast(schema))
            n += batch.n
    return n


def _arrow_table(batch: ExportBatch) -> pyarrow.Table:
    """A batch as an Arrow table."""
    import pyarrow

    columns = {"id": pyarrow.array(batch.ids)}
    if batch.paths is not None:
        columns["path"] = pyarrow.array([path_text(p) for p in batch.paths], pyarrow.string())
    for name, column in batch.attributes.items():
        if isinstance(column, Categories):
            codes = pyarrow.array(column.codes, mask=column.codes < 0)
            labels = pyarrow.array(column.labels, pyarrow.string())
            columns[name] = pyarrow.DictionaryArray.from_arrays(codes, labels)
        elif column.dtype == TIME:
            columns[name] = pyarrow.array(column, pyarrow.timestamp("ns", "UTC"))
        else:
            columns[name] = pyarrow.array(column)
    size = pyarrow.binary(batch.codes.shape[1])
    data = pyarrow.py_buffer(np.ascontiguousarray(batch.codes))
    columns["code"] = pyarrow.Array.from_buffers(size, batch.n, [None, data])
    for name, values in batch.wide.items():
        flat, width = pyarrow.array(values.ravel()), values.shape[1]
        columns[name.removesuffix("s")] = pyarrow.FixedSizeListArray.from_arrays(flat, width)
    return pyarrow.table(columns)


_WRITERS: dict[str, Callable[[BatchSource, Path, bool], int]] = {
    "npz": write_npz,
    "parquet": _write_parquet,
    "csv": _write_csv,
    "hdf5": write_hdf5,
}
FORMATS = tuple(_WRITERS)
ENDINGS = {
    ".npz": "npz",
    ".parquet": "parquet",
    ".csv": "csv",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".faiss": "faiss",
}
"""Formats by the endings of files."""
