"""A stored shard: memory-mapped columns, read only where they are touched."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import TiledCodes, row_bits
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.store.columns import TIME, Categories, Column, datasets_of, unknown_attribute
from hyperpq.store.hdf5_layout import write_columns
from hyperpq.store.manifest import DeadEntry, FileEntry, Place, ShardEntry
from hyperpq.store.rows import Rows, check_row, rows_of
from hyperpq.store.strings import Strings
from hyperpq.utils.files import checksums, open_regular, os_errors, read_regular

# A map holds a file descriptor for as long as it lives, and a process has about a thousand; a
# store that grew by many small appends has small shards. Those are read, and checked, instead.
_MAP_FROM = 1 << 18


class Shard:
    """One shard of a store, read-only, with the reading face of `Rows`.

    The file is opened at once and stays what it was, whatever a later writer does with its name.
    Columns of a file of 256 KiB or more are numpy memmaps at the offset of the HDF5 dataset; a
    smaller file is read whole, and its checksum is compared.

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

    Raises
    ------
    CorruptIndexError
        The file is missing, has another length, or is small and altered.
    StoreError
        The system refuses to read it.
    """

    def __init__(
        self,
        root: Path,
        entry: ShardEntry,
        dead_rows: NDArray[np.int64],
        data: NDArray[np.uint8] | None = None,
    ) -> None:
        self.entry = entry
        self.dead_rows = dead_rows
        self._path = root / entry.file
        self._bytes = map_file(self._path, entry.content) if data is None else data

    def __repr__(self) -> str:
        return f"Shard({self.name!r}, n={self.n}, dead={len(self.dead_rows)})"

    @property
    def name(self) -> str:  # noqa: D102
        return self.entry.name

    @property
    def n(self) -> int:  # noqa: D102
        return self.entry.rows

    @property
    def live(self) -> int:
        """Number of rows that are not removed."""
        return self.entry.live

    @property
    def code_size(self) -> int:  # noqa: D102
        return self.entry.code_size

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes, shape (n, code_size), uint8: a copy in rows of what `tiled` maps."""
        return self.tiled.rows()

    @property
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned, read-only."""
        return TiledCodes(self._column("codes"), self.n, self.code_size)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,), int64, ascending, read-only."""
        return self._column("ids")

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column; see `Rows.schema`."""
        return self.entry.schema

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return sorted(name for name in self.schema if name != "path")

    def attribute(self, name: str) -> Column:
        """The column ``name``, shape (n,), read-only."""
        kind = self.schema.get(name)
        if kind is None or name == "path":
            raise unknown_attribute(name, self.attribute_names)
        if kind == "category":
            return self._categories(name)
        if kind == "time":
            return self._column(f"times/{name}").view(TIME)
        return self._column(f"attributes/{name}")

    def attribute_at(self, name: str, rows: NDArray[np.int64]) -> Column:
        """Values of some rows, by their numbers; the others aren't read."""
        if self.schema.get(name) != "category":
            return self.attribute(name)[rows]
        codes = self._column(f"categories/{name}")[rows]
        labels = self._strings(f"label_offsets/{name}", f"label_bytes/{name}")
        self._check_categories(name, codes, labels)
        used = np.unique(codes[codes >= 0]).astype(np.int64)
        places = np.full(len(labels) + 1, -1, np.int32)  # the last one is for -1
        places[used] = np.arange(len(used))
        return Categories(places[codes], self._texts(name, labels.take(used)))

    def _categories(self, name: str) -> Categories:
        codes = self._column(f"categories/{name}")
        labels = self._strings(f"label_offsets/{name}", f"label_bytes/{name}")
        self._check_categories(name, codes, labels)
        return Categories(codes, self._texts(name, labels))

    def _check_categories(self, name: str, codes: NDArray[np.int32], labels: Strings) -> None:
        if len(codes) and not -1 <= codes.min() <= codes.max() < len(labels):
            raise self._torn(f"/categories/{name} is out of range")

    def _texts(self, name: str, labels: Strings) -> tuple[str, ...]:
        try:
            texts = tuple(label.decode() for label in labels.tolist())
        except UnicodeDecodeError:
            raise self._torn(f"/label_bytes/{name} isn't UTF-8") from None
        if len(set(texts)) < len(texts):
            raise self._torn(f"/label_bytes/{name} has a string twice")
        return texts

    @cached_property
    def dead(self) -> NDArray[np.bool_] | None:
        """True where the row is removed, shape (n,), bool; None if none is."""
        if not len(self.dead_rows):
            return None
        mask = np.zeros(self.n, bool)
        mask[self.dead_rows] = True
        return mask

    @cached_property
    def alive(self) -> NDArray[np.uint64] | None:
        """Bits of the rows that aren't removed, see `codes.row_bits`; None if none is."""
        if not len(self.dead_rows):
            return None
        mask = np.ones(self.n, bool)
        mask[self.dead_rows] = False
        return row_bits(mask)

    @cached_property
    def path_strings(self) -> Strings | None:
        """All paths as they are stored, or None."""
        if "path_bytes" not in self.entry.columns:
            return None
        return self._strings("path_offsets", "path_bytes")

    def path(self, row: int) -> bytes:
        """Path of one row, read without the others.

        Raises
        ------
        CorruptIndexError
            If the offsets of the row don't lie in the file's path bytes.
        """
        if "path_bytes" not in self.entry.columns:
            raise InvalidInputError(f"{self._path}: this shard has no paths")
        check_row(row, self.n)
        offsets, blob = self._column("path_offsets"), self._column("path_bytes")
        if not 0 <= offsets[row] <= offsets[row + 1] <= len(blob):
            raise self._torn("/path_offsets don't fit /path_bytes")
        return Strings(offsets, blob)[row]

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None; reads every one of them."""
        return None if self.path_strings is None else self.path_strings.tolist()

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, -1 where there is none or it is removed."""
        out = np.full(len(ids), -1, np.int64)
        low, high = self.entry.ids or (1, 0)
        near = np.flatnonzero((ids >= low) & (ids <= high))
        # Most lookups end here, without a page of the file.
        if len(near):
            rows = rows_of(ids[near], self.ids)
            out[near] = np.where(rows_of(rows, self.dead_rows) < 0, rows, -1)
        return out

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows in memory, by their numbers."""
        strings = self.path_strings
        return Rows(
            self.tiled.take(rows),
            self.ids[rows],
            {name: self.attribute_at(name, rows) for name in self.attribute_names},
            None if strings is None else strings.take(rows),
        )

    def with_dead(self, entry: ShardEntry, dead_rows: NDArray[np.int64]) -> Shard:
        """The same shard after a removal."""
        return Shard(self._path.parent.parent, entry, dead_rows, self._bytes)

    def _column(self, name: str) -> NDArray[Any]:
        return view_column(self._bytes, self.entry.columns[name])

    def _strings(self, offsets: str, blob: str) -> Strings:
        strings = Strings(self._column(offsets), self._column(blob))
        if problem := strings.problem:
            raise self._torn(f"/{offsets}: {problem} of /{blob}")
        return strings

    def _torn(self, what: str) -> CorruptIndexError:
        return CorruptIndexError(f"{self._path}: {what}; the file is torn or altered")


def map_file(path: Path, entry: FileEntry) -> NDArray[np.uint8]:
    """Bytes of a file of the index: mapped, or read and checked if it is small."""
    if entry.bytes < _MAP_FROM:
        return np.frombuffer(checked_read(path, entry), np.uint8)
    with (
        open_regular(path, entry.bytes) as handle,
        os_errors("read", path),
        open(handle, "rb", closefd=False) as file,
    ):
        return np.memmap(file, np.uint8, "r", shape=(entry.bytes,))


def view_column(data: NDArray[np.uint8], place: Place) -> NDArray[Any]:
    """The part of a file's bytes that is a column, as an array of its dtype and shape."""
    if not place.nbytes:
        return np.empty(place.shape, place.dtype)
    part = data[place.offset : place.end]
    return part.view(np.dtype(place.dtype).newbyteorder("<")).reshape(place.shape)


def write_shard(path: Path, number: int, rows: Rows, *, sync: bool = True) -> ShardEntry:
    """Write a shard file under the name ``path``, and fsync it unless told not to.

    Raises
    ------
    StoreError
        If the system refuses to write.
    """
    columns = datasets_of(rows.attributes)
    columns["codes"], columns["ids"] = rows.tiled.data, rows.ids
    if rows.path_strings is not None:
        columns["path_offsets"] = rows.path_strings.offsets
        columns["path_bytes"] = rows.path_strings.blob
    content, places = write_columns(path, columns, sync=sync)
    ids = (int(rows.ids[0]), int(rows.ids[-1])) if rows.n else None
    return ShardEntry(number, rows.n, rows.code_size, places, ids, content)


def write_dead(path: Path, file: str, dead: NDArray[np.int64], *, sync: bool = True) -> DeadEntry:
    """Write the sorted numbers of removed rows under the name ``path``."""
    content, places = write_columns(path, {"rows": dead}, sync=sync)
    return DeadEntry(file, len(dead), places["rows"].offset, content)


def read_dead(root: Path, shard: ShardEntry) -> NDArray[np.int64]:
    """Read the removed rows of a shard, checked against checksum and range.

    Returns
    -------
    ndarray (dead,), int64
        Sorted row numbers, each once; empty if none is removed.
    """
    if shard.dead is None:
        return np.empty(0, np.int64)
    return parse_dead(root, shard, checked_read(root / shard.dead.file, shard.dead.content))


def parse_dead(root: Path, shard: ShardEntry, data: bytes | None) -> NDArray[np.int64]:
    """The removed rows of a shard, from its dead-row file's content; see `read_dead`."""
    if shard.dead is None or data is None:
        return np.empty(0, np.int64)
    rows = view_column(np.frombuffer(data, np.uint8), shard.dead.columns["rows"])
    if rows[0] < 0 or rows[-1] >= shard.rows or np.any(rows[1:] <= rows[:-1]):
        path = root / shard.dead.file
        raise CorruptIndexError(f"{path}: not sorted row numbers of {shard.file}")
    return rows


def checked_read(path: Path, entry: FileEntry) -> bytes:
    """Read a whole file of the index and check its length and checksums."""
    data = read_regular(path, entry.bytes)
    if checksums(data) != entry.xxh3_128:
        raise CorruptIndexError(f"{path}: the checksum is wrong; the file is torn or altered")
    return data
