"""Vectors in Parquet files: a column of lists, or only columns of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.named_arrays import listed, only_one
from hyperpq.utils.imports import need

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

# Bytes of a column that are read ahead.
_BUFFER_SIZE = 1 << 22


def parquet_source(
    path: Path, column: str | None
) -> tuple[tuple[int, int], Callable[[int], Iterator[NDArray[Any]]]]:
    """Shape and reader of the vectors of a Parquet file.

    Parameters
    ----------
    path : Path
        The file.
    column : str, optional
        Name of the column of lists; by default the only one. In a file without such a column, all
        columns are coordinates.

    Returns
    -------
    shape : (int, int)
        Number of vectors and their width.
    read : callable
        Gives the rows in batches of a given size.

    Raises
    ------
    InvalidInputError
        If it is not a Parquet file or does not contain such vectors.
    MissingDependencyError
        If pyarrow is not installed.
    """
    with _opened(path) as file:
        n, schema = file.metadata.num_rows, file.schema_arrow
        names = _chosen(path, schema, column)
        d = len(names)
        if _is_list(schema.field(names[0]).type):
            d = _width(path, file, names[0])

    def read(rows: int) -> Iterator[NDArray[Any]]:
        start = 0
        with _opened(path) as file:
            for batch in file.iter_batches(batch_size=rows, columns=names):
                yield _array(path, batch, d, start)
                start += len(batch)

    return (n, d), read


@contextmanager
def _opened(path: Path) -> Iterator[ParquetFile]:
    need("pyarrow", "parquet", "Parquet files")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, buffer_size=_BUFFER_SIZE) as file:
            yield file
    except (ArrowException, OSError) as error:
        raise InvalidInputError(f"{path} is not a readable Parquet file ({error}).") from error


def _is_number(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_list(kind: pyarrow.DataType) -> bool:
    """Whether an Arrow type is that of lists of numbers."""
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists and _is_number(kind.value_type)


def _chosen(path: Path, schema: pyarrow.Schema, column: str | None) -> Sequence[str]:
    """Names of the columns that hold the vectors."""
    lists = [field.name for field in schema if _is_list(field.type)]
    if column is not None:
        if column not in lists:
            raise InvalidInputError(
                f"{path} has no column {column!r} of lists of numbers; it has {listed(lists)}."
            )
        return [column]
    if lists:
        return [only_one(path, lists, "columns of lists of numbers")]
    others = [f"{field.name!r} ({field.type})" for field in schema if not _is_number(field.type)]
    if others or not len(schema):
        raise InvalidInputError(
            f"{path} has {', '.join(others) or 'no columns'}; expected a column of lists of "
            "numbers, or only columns of numbers."
        )
    return list(schema.names)


def _width(path: Path, file: ParquetFile, name: str) -> int:
    from pyarrow import types

    kind = file.schema_arrow.field(name).type
    if types.is_fixed_size_list(kind):
        return int(kind.list_size)
    for batch in file.iter_batches(batch_size=1, columns=[name]):
        if len(batch) and batch.column(0)[0].is_valid:
            return len(batch.column(0)[0])
    raise InvalidInputError(
        f"{path} has no list in column {name!r}, so that the width of its vectors is not known; "
        "expected at least one list, or lists of fixed size."
    )


def _array(path: Path, batch: pyarrow.RecordBatch, d: int, start: int) -> NDArray[Any]:
    """Vectors (rows, d) of a batch whose first row is row ``start`` of the file."""
    columns = batch.columns
    for name, column in zip(batch.schema.names, columns, strict=True):
        if column.null_count:
            row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise InvalidInputError(
                f"{path} has no value in column {name!r}, row {row}; expected one in each row."
            )
    if not _is_list(columns[0].type):
        return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)
    from pyarrow import compute

    lengths = compute.list_value_length(columns[0]).to_numpy(zero_copy_only=False)
    if (lengths != d).any():
        row = int(np.argmax(lengths != d))
        raise InvalidInputError(
            f"{path} has {lengths[row]} values in row {start + row}; expected {d} in each."
        )
    values = columns[0].flatten()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // d
        raise InvalidInputError(
            f"{path} has a list with a missing value in row {start + row}; expected numbers only."
        )
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat.reshape(-1, d)
