"""A stored shard: memory-mapped columns, read only where they are touched."""

from __future__ import annotations

import os
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from hyperpq.codes import TiledCodes, row_bits
from hyperpq.errors import CorruptIndexError, InvalidInputError, StoreError
from hyperpq.store.durable import checksum, open_regular, os_errors, read_handle, read_regular
from hyperpq.store.hdf5 import write_columns
from hyperpq.store.manifest import Column, DeadEntry, FileEntry, ShardEntry
from hyperpq.store.rows import Rows, check_row, unknown_attribute

# A map holds a file descriptor for as long as it lives, and a process has about a thousand; a
# store that grew by many small appends has as many small shards. Those are read instead.
_MAP_FROM = 1 << 18


class Shard:
    """One shard of a store, read-only, with the reading face of `Rows`.

    Nothing is opened before a column is asked for. Columns of a file of 256 KiB or more are
    numpy memmaps at the offset of the HDF5 dataset; a smaller file is read whole.

    Attributes
    ----------
    name : str
        Name in the store, such as ``"000000"``.
    n : int
        Number of rows, dead ones included.
    code_size : int
        Bytes per code.
    entry : ShardEntry
        What the manifest says.
    dead_rows : ndarray (dead,), int64
        Sorted numbers of the removed rows.
    """

    def __init__(
        self,
        root: Path,
        entry: ShardEntry,
        dead_rows: np.ndarray,
        identity: tuple[int, int] | None = None,
    ):
        self.entry = entry
        self.dead_rows = dead_rows
        self._root = root
        self._path = root / entry.file
        # Opened later than the manifest, the name must still be of the file it was of then: the
        # directory may have been replaced by another index with a shard of the same length.
        self._identity = identity

    def __repr__(self) -> str:
        return f"Shard({self.name!r}, n={self.n}, dead={len(self.dead_rows)})"

    @property
    def name(self) -> str:  # noqa: D102
        return self.entry.name

    @property
    def n(self) -> int:  # noqa: D102
        return self.entry.rows

    @property
    def code_size(self) -> int:  # noqa: D102
        return self.entry.code_size

    @property
    def codes(self) -> np.ndarray:
        """Codes, shape (n, code_size), uint8: a copy in rows of what `tiled` maps."""
        return self.tiled.rows()

    @property
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned, read-only."""
        return TiledCodes(self._column("codes"), self.n, self.code_size)

    @property
    def ids(self) -> np.ndarray:
        """Ids, shape (n,), int64, read-only."""
        return self._column("ids")

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        names = (name.rpartition("/") for name in self.entry.columns)
        return sorted(name for group, _, name in names if group)

    def attribute(self, name: str) -> np.ndarray:
        """The column ``name``, shape (n,), read-only."""
        if f"attributes/{name}" not in self.entry.columns:
            raise unknown_attribute(name, self.attribute_names)
        return self._column(f"attributes/{name}")

    @cached_property
    def dead(self) -> np.ndarray | None:
        """True where the row is removed, shape (n,), bool; None if none is."""
        if not len(self.dead_rows):
            return None
        mask = np.zeros(self.n, bool)
        mask[self.dead_rows] = True
        return mask

    @cached_property
    def alive(self) -> np.ndarray | None:
        """Bits of the rows that aren't removed, see `codes.row_bits`; None if none is."""
        return None if self.dead is None else row_bits(~self.dead)

    def path(self, row: int) -> bytes:
        """Path of one row, read without the others.

        Raises
        ------
        CorruptIndexError
            If the offsets of the row don't lie in the file's path bytes.
        """
        table = self.path_table()
        if table is None:
            raise InvalidInputError(f"{self._path}: this shard has no paths")
        check_row(row, self.n)
        offsets, blob = table
        start, end = int(offsets[row]), int(offsets[row + 1])
        if not 0 <= start <= end <= len(blob):
            raise self._bad_offsets()
        return blob[start:end].tobytes()

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None; reads every one of them."""
        table = self.path_table()
        if table is None:
            return None
        offsets, blob = table
        if problem_of_offsets(offsets, len(blob)):
            raise self._bad_offsets()
        data, places = blob.tobytes(), offsets.tolist()
        return [data[start:end] for start, end in pairwise(places)]

    def path_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All paths as they are stored; see `Rows.path_table`."""
        if "path_bytes" not in self.entry.columns:
            return None
        return self._column("path_offsets"), self._column("path_bytes")

    def with_dead(self, entry: ShardEntry, dead_rows: np.ndarray) -> Shard:
        """The same shard after a removal; what is mapped already stays mapped."""
        shard = Shard(self._root, entry, dead_rows, self._identity)
        if "_bytes" in self.__dict__:
            shard.__dict__["_bytes"] = self._bytes
        return shard

    @cached_property
    def _bytes(self) -> np.ndarray:
        size = self.entry.content.bytes
        with open_regular(self._path, size) as handle, os_errors("read", self._path):
            if self._identity not in (None, identity_of(os.fstat(handle))):
                raise StoreError(
                    f"{self._path}: the index was replaced since it was opened; open it again"
                )
            if size < _MAP_FROM:
                return np.frombuffer(read_handle(handle, size), np.uint8)
            with open(handle, "rb", closefd=False) as file:
                return np.memmap(file, np.uint8, "r", shape=(size,))

    def _column(self, name: str) -> np.ndarray:
        return view_column(self._bytes, self.entry.columns[name])

    def _bad_offsets(self) -> CorruptIndexError:
        return CorruptIndexError(
            f"{self._path}: /path_offsets don't fit /path_bytes; the file is torn or altered"
        )


def identity_of(status: os.stat_result) -> tuple[int, int]:
    """What tells a file from another that gets its name later."""
    return status.st_ino, status.st_mtime_ns


def view_column(data: np.ndarray, column: Column) -> np.ndarray:
    """The part of a file's bytes that is ``column``, as an array of its dtype and shape."""
    if not column.nbytes:
        return np.empty(column.shape, column.dtype)
    part = data[column.offset : column.offset + column.nbytes]
    return part.view(np.dtype(column.dtype).newbyteorder("<")).reshape(column.shape)


def problem_of_offsets(offsets: np.ndarray, size: int) -> str | None:
    """Why ``offsets`` can't be the path offsets of ``size`` path bytes, or None."""
    if offsets[0] != 0 or offsets[-1] != size or np.any(offsets[1:] < offsets[:-1]):
        return f"/path_offsets don't rise from 0 to the {size} bytes of /path_bytes"
    return None


def write_shard(path: Path, number: int, rows: Rows | Shard) -> ShardEntry:
    """Write and fsync a shard file under the name ``path``; dead rows are not part of it.

    Raises
    ------
    StoreError
        If the system refuses to write.
    """
    columns = {"codes": rows.tiled.data, "ids": rows.ids}
    for name in rows.attribute_names:
        columns[f"attributes/{name}"] = rows.attribute(name)
    table = rows.path_table()
    if table is not None:
        columns["path_offsets"], columns["path_bytes"] = table
    content, places = write_columns(path, columns)
    ids = (int(rows.ids.min()), int(rows.ids.max())) if rows.n else None
    return ShardEntry(number, rows.n, rows.code_size, places, ids, content)


def write_dead(path: Path, file: str, dead_rows: np.ndarray) -> DeadEntry:
    """Write and fsync the sorted numbers of removed rows under the name ``path``."""
    content, places = write_columns(path, {"rows": dead_rows})
    return DeadEntry(file, len(dead_rows), places["rows"].offset, content)


def read_dead(root: Path, shard: ShardEntry) -> np.ndarray:
    """Read the removed rows of a shard, checked against checksum and range.

    Returns
    -------
    ndarray (dead,), int64
        Sorted row numbers, each once; empty if none is removed.
    """
    if shard.dead is None:
        return np.empty(0, np.int64)
    return parse_dead(root, shard, checked_read(root / shard.dead.file, shard.dead.content))


def parse_dead(root: Path, shard: ShardEntry, data: bytes | None) -> np.ndarray:
    """The removed rows of a shard, from its dead-row file's content; see `read_dead`."""
    if shard.dead is None or data is None:
        return np.empty(0, np.int64)
    rows = view_column(np.frombuffer(data, np.uint8), shard.dead.columns["rows"])
    if rows[0] < 0 or rows[-1] >= shard.rows or np.any(rows[1:] <= rows[:-1]):
        path = root / shard.dead.file
        raise CorruptIndexError(f"{path}: not sorted row numbers of {shard.file}")
    return rows


def checked_read(path: Path, entry: FileEntry) -> bytes:
    """Read a whole file of the index and check its length and checksum."""
    data = read_regular(path, entry.bytes)
    if checksum(data) != entry.xxh3_128:
        raise CorruptIndexError(f"{path}: the checksum is wrong; the file is torn or altered")
    return data
