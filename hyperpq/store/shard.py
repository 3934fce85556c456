"""`Shard`: a segment on disk, whose columns are memory-mapped and read only where needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, TiledCodes, row_bits
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.store.columns import TIME, Categories, Column, datasets_of, unknown_attribute
from hyperpq.store.grouping import CellNumbers, Grouping, placed, positions_of
from hyperpq.store.hdf5_layout import map_file, view_column, write_columns
from hyperpq.store.manifest import ShardEntry
from hyperpq.store.rows import Rows, check_row, rows_of
from hyperpq.store.strings import Strings
from hyperpq.utils.files import torn_file
from hyperpq.utils.forks import cached


class Shard:
    """A shard of an index directory, read-only: a `Segment` of which rows may be deleted.

    The file is opened at once, and the object shows its content of then, whatever a later writer
    does with its name. Columns of a file of 256 KiB or more are NumPy memmaps at the offset of the
    HDF5 dataset; a smaller file is read whole, and its checksum is compared.

    Parameters
    ----------
    root : Path
        The index directory.
    entry : ShardEntry
        What the manifest says.
    deleted_rows : ndarray, shape (deleted,), int64
        Ascending numbers of the deleted rows.
    data : ndarray, shape (bytes,), uint8, optional
        Content of the file, from `hdf5_layout.map_file`; opened unless given.

    Attributes
    ----------
    entry, deleted_rows
        As given.

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
        deleted_rows: NDArray[np.int64],
        data: NDArray[np.uint8] | None = None,
    ) -> None:
        self.entry = entry
        self.deleted_rows = deleted_rows
        self._path = root / entry.file
        self._bytes = map_file(self._path, entry.content) if data is None else data

    def __repr__(self) -> str:
        return f"Shard({self.name!r}, n={self.n}, n_live={self.n_live})"

    @property
    def name(self) -> str:
        """Name in the store, such as ``"000000"``."""
        return self.entry.name

    @property
    def n(self) -> int:
        """Number of rows, deleted ones included."""
        return self.entry.rows

    @property
    def n_live(self) -> int:
        """Number of rows that are not deleted."""
        return self.entry.n_live

    @property
    def code_size(self) -> int:
        """Bytes of one row of codes."""
        return self.entry.code_size

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes, shape (n, code_size), uint8: a copy by rows of what `tiled` maps."""
        codes = self.tiled.rows()
        return codes if self.grouping is None else codes[self._places(slice(None))]

    @cached
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned, read-only."""
        return TiledCodes(self._column("codes"), self.n, self.code_size)

    @cached
    def scanned_ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,), int64, in the order of `tiled`, read-only."""
        return self._column("ids")

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,), int64, ascending; a copy where codes are grouped, else read-only."""
        if self.grouping is None:
            return self.scanned_ids
        return self.scanned_ids[self._places(slice(None))]

    @property
    def n_cells(self) -> int:
        """Number of cells that codes are grouped by; 0 if they are not."""
        return self.entry.n_cells

    @cached
    def grouping(self) -> Grouping | None:
        """Where the codes of the rows are in `tiled`; None where they are in the order of rows.

        Raises
        ------
        CorruptIndexError
            If cells do not divide the rows.
        """
        if not self.n_cells:
            return None
        places, starts = self._column("places"), self._column("cell_starts")
        if starts[0] != 0 or starts[-1] != self.n or np.any(starts[1:] < starts[:-1]):
            raise self._torn("/cell_starts do not divide the rows")
        return Grouping(places, starts)

    @property
    def cells(self) -> CellNumbers | None:
        """The cell of each row, or None."""
        return None if self.grouping is None else self.grouping.cells(self._places(slice(None)))

    def _places(self, rows: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Where the codes of some rows lie in `tiled`, checked."""
        assert self.grouping is not None
        places = self.grouping.places[rows]
        if len(places) and not 0 <= places.min() <= places.max() < self.n:
            raise self._torn("/places are out of range")
        return places.astype(np.int64)

    def scanned(self, mask: NDArray[np.bool_] | None = None) -> CodeSegment:
        """The rows that a mask (n,) selects, as the scan reads them; without it, `live_bits`."""
        grouping = self.grouping
        bits, starts = self.live_bits, None if grouping is None else grouping.starts
        if mask is not None:
            bits = row_bits(placed(mask, None if grouping is None else self._places(slice(None))))
        return CodeSegment(self.tiled, self.scanned_ids, bits, starts)

    def codes_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Codes (r, code_size) of some rows, by their numbers."""
        return self.tiled.take(rows if self.grouping is None else self._places(rows))

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
        """Values of some rows, by their numbers; the others are not read."""
        if self.schema.get(name) != "category":
            return self.attribute(name)[rows]
        codes = self._column(f"categories/{name}")[rows]
        labels = self._strings(f"label_offsets/{name}", f"label_bytes/{name}")
        self._check_categories(name, codes, labels)
        used = np.unique(codes[codes >= 0]).astype(np.int64)
        positions = np.full(len(labels) + 1, -1, np.int32)  # the last entry is for -1
        positions[used] = np.arange(len(used))
        return Categories(positions[codes], self._texts(name, labels.take(used)))

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
            raise self._torn(f"/label_bytes/{name} is not UTF-8") from None
        if len(set(texts)) < len(texts):
            raise self._torn(f"/label_bytes/{name} has a string twice")
        return texts

    @cached
    def live_bits(self) -> NDArray[np.uint64] | None:
        """Bits of the rows that are not deleted, in the order of `tiled`; None if no row is."""
        if not len(self.deleted_rows):
            return None
        mask, deleted = np.ones(self.n, bool), self.deleted_rows
        mask[deleted if self.grouping is None else self._places(deleted)] = False
        return row_bits(mask)

    @cached
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
            If the offsets of the row do not lie in the file's path bytes.
        """
        if "path_bytes" not in self.entry.columns:
            raise InvalidInputError(f"{self._path}: this shard has no paths; ask for none.")
        check_row(row, self.n)
        offsets, blob = self._column("path_offsets"), self._column("path_bytes")
        if not 0 <= offsets[row] <= offsets[row + 1] <= len(blob):
            raise self._torn("/path_offsets do not fit /path_bytes")
        return Strings(offsets, blob)[row]

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None; every one of them is read."""
        return None if self.path_strings is None else self.path_strings.tolist()

    @property
    def feature_size(self) -> int:
        """Bytes of the features of one row; 0 if there are none."""
        return self.entry.feature_size

    @cached
    def features(self) -> NDArray[np.uint8] | None:
        """Features, shape (n, feature_size), uint8, read-only, or None.

        The column is mapped: ``features[rows]`` reads these rows alone.
        """
        return self._column("features") if self.feature_size else None

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, shape (len(ids),), int64; -1 where there is none or it is deleted."""
        out = np.full(len(ids), -1, np.int64)
        low, high = self.entry.ids or (1, 0)
        near = np.flatnonzero((ids >= low) & (ids <= high))
        # Most lookups end here, without a page of the file.
        if len(near):
            rows = self._rows_of(ids[near])
            out[near] = np.where(rows_of(rows, self.deleted_rows) < 0, rows, -1)
        return out

    def _rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, deleted or not; -1 where there is none."""
        placed_ids = self.scanned_ids
        if self.grouping is None:
            return rows_of(ids, placed_ids)
        low, high = self.entry.ids or (1, 0)
        if high - low == self.n - 1:
            return np.where((ids >= low) & (ids <= high), ids - low, -1)
        # Without a copy of all ids in order.
        return positions_of(ids, self.n, lambda rows: placed_ids[self._places(rows)])

    def take(self, rows: NDArray[np.int64], *, features: bool = True) -> Rows:
        """Some of the rows in memory, by their numbers; see `Segment.take`."""
        strings, kept = self.path_strings, self.features if features else None
        grouping = self.grouping
        places = rows if grouping is None else self._places(rows)
        return Rows(
            self.tiled.take(places),
            self.scanned_ids[places],
            {name: self.attribute_at(name, rows) for name in self.attribute_names},
            None if strings is None else strings.take(rows),
            None if kept is None else kept[rows],
            None if grouping is None else grouping.cells(places),
        )

    def replace_deleted(self, entry: ShardEntry, deleted_rows: NDArray[np.int64]) -> Shard:
        """The same shard, mapped once, with other rows deleted."""
        out = Shard(self._path.parent.parent, entry, deleted_rows, self._bytes)
        # The same object, by which a GPU knows the codes that it holds.
        out.__dict__["tiled"], out.__dict__["grouping"] = self.tiled, self.grouping
        return out

    def _column(self, name: str) -> NDArray[Any]:
        return view_column(self._bytes, self.entry.columns[name])

    def _strings(self, offsets: str, blob: str) -> Strings:
        strings = Strings(self._column(offsets), self._column(blob))
        if problem := strings.problem:
            raise self._torn(f"/{offsets}: {problem} of /{blob}")
        return strings

    def _torn(self, what: str) -> CorruptIndexError:
        return torn_file(self._path, what)


def write_shard(path: Path, number: int, rows: Rows, *, sync: bool = True) -> ShardEntry:
    """Write a shard file.

    Parameters
    ----------
    path : Path
        Where to write, usually a temporary name.
    number : int
        The number of the shard.
    rows : Rows
        Its content.
    sync : bool
        See `utils.files.write_synced`.

    Returns
    -------
    ShardEntry

    Raises
    ------
    StoreError
        If the system refuses to write.
    """
    columns = datasets_of(rows.attributes)
    columns["codes"], columns["ids"] = rows.tiled.data, rows.scanned_ids
    if rows.grouping is not None:
        columns["places"], columns["cell_starts"] = rows.grouping.places, rows.grouping.starts
    if rows.path_strings is not None:
        columns["path_offsets"] = rows.path_strings.offsets
        columns["path_bytes"] = rows.path_strings.blob
    if rows.features is not None:
        columns["features"] = rows.features
    content, extents = write_columns(path, columns, sync=sync)
    ids = (int(rows.ids[0]), int(rows.ids[-1])) if rows.n else None
    return ShardEntry(number, rows.n, rows.code_size, extents, ids, content)
