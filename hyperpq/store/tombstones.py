"""Tombstones: the file with the numbers of a shard's deleted rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.store.hdf5_layout import view_column, write_columns
from hyperpq.store.manifest import ShardEntry, TombstonesEntry
from hyperpq.utils.files import read_checked, torn_file


def write_tombstones(
    path: Path, file: str, deleted_rows: NDArray[np.int64], *, sync: bool = True
) -> TombstonesEntry:
    """Write the numbers of deleted rows.

    Parameters
    ----------
    path : Path
        Where to write, usually a temporary name.
    file : str
        Path in the index directory that the file will have.
    deleted_rows : ndarray, shape (deleted,), int64
        Ascending row numbers.
    sync : bool
        See `utils.files.write_synced`.

    Returns
    -------
    TombstonesEntry

    Raises
    ------
    StoreError
        If the system refuses to write.
    """
    content, extents = write_columns(path, {"rows": deleted_rows}, sync=sync)
    return TombstonesEntry(file, len(deleted_rows), extents["rows"].offset, content)


def read_tombstones_file(root: Path, entry: TombstonesEntry) -> bytes:
    """Content of a file of tombstones, checked against length and checksum.

    Raises
    ------
    CorruptIndexError
        If the file is missing or altered.
    StoreError
        If the system refuses to read it.
    """
    return read_checked(root / entry.file, entry.content.size, entry.content.checksums)


def read_tombstones(root: Path, shard: ShardEntry) -> NDArray[np.int64]:
    """Numbers of the deleted rows of a shard, read and checked.

    Returns
    -------
    ndarray, shape (deleted,), int64
        Ascending, each once; empty if no row is deleted.

    Raises
    ------
    CorruptIndexError, StoreError
        As `read_tombstones_file` and `parse_tombstones`.
    """
    if shard.tombstones is None:
        return np.empty(0, np.int64)
    return parse_tombstones(root, shard, read_tombstones_file(root, shard.tombstones))


def parse_tombstones(root: Path, shard: ShardEntry, data: bytes) -> NDArray[np.int64]:
    """Numbers of the deleted rows of a shard, from the content of its file of tombstones.

    Raises
    ------
    CorruptIndexError
        If they are not ascending row numbers of the shard.
    """
    if shard.tombstones is None:
        return np.empty(0, np.int64)
    rows = view_column(np.frombuffer(data, np.uint8), shard.tombstones.columns["rows"])
    if rows[0] < 0 or rows[-1] >= shard.rows or np.any(rows[1:] <= rows[:-1]):
        raise torn_file(root / shard.tombstones.file, f"/rows are no row numbers of {shard.file}")
    return rows
