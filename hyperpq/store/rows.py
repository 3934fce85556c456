"""`Rows`: a segment in memory, checked when it is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, TiledCodes, row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.store.columns import (
    Column,
    as_column,
    check_attribute_name,
    concatenate,
    kind_of,
    unknown_attribute,
)
from hyperpq.store.grouping import CellNumbers, Grouping, placed
from hyperpq.store.strings import Strings
from hyperpq.utils.forks import cached

MAX_FEATURE_SIZE = 1 << 24
"""Bytes of the features of one row."""


class Rows:
    """Rows in memory, in the order of their ids: a `Segment` of which no row is deleted.

    Parameters
    ----------
    codes : ndarray, shape (n, code_size), uint8
    ids : ndarray, shape (n,), int64
        Distinct, in any order: the rows are sorted by them.
    attributes : mapping of str to array_like, each shape (n,)
        See `columns.as_column`. Names match ``[A-Za-z_][A-Za-z0-9_]{0,63}`` and are neither in
        `columns.RESERVED_NAMES` nor Python keywords.
    paths : Strings or sequence of bytes, optional
        One path for each row as the file system gave it, in no particular encoding.
    features : ndarray, shape (n, feature_size), uint8, optional
        What the codes were made from, as bytes that the store does not interpret. A row has 1 to
        `MAX_FEATURE_SIZE` of them.
    cells : CellNumbers, optional
        The cell of each row, by which its code is stored.

    Raises
    ------
    InvalidInputError
        A shape, dtype or name is another, or an id occurs twice.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        ids: NDArray[np.int64],
        attributes: Mapping[str, Any] | None = None,
        paths: Strings | Sequence[bytes] | None = None,
        features: NDArray[np.uint8] | None = None,
        cells: CellNumbers | None = None,
    ) -> None:
        if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2:
            raise InvalidInputError(f"codes are {_describe(codes)}; expected uint8 (n, code_size).")
        if codes.shape[1] == 0:
            raise InvalidInputError("codes have a code_size of 0; expected at least one byte.")
        n = len(codes)
        if not isinstance(ids, np.ndarray) or ids.shape != (n,) or ids.dtype != np.int64:
            raise InvalidInputError(f"ids are {_describe(ids)}; expected int64 ({n},).")
        _check_features(features, n)
        if cells is not None:
            cells.check(n)
        columns = {}
        if attributes is not None and not isinstance(attributes, Mapping):
            raise InvalidInputError(
                f"attributes are of {type(attributes)}; expected a mapping of names to columns."
            )
        for name, values in (attributes or {}).items():
            check_attribute_name(name)
            columns[name] = as_column(name, values, n)
        self._codes, self._ids = np.ascontiguousarray(codes), np.ascontiguousarray(ids)
        self._attributes, self._paths = columns, _as_paths(paths, n)
        self._features = None if features is None else np.ascontiguousarray(features)
        self._cells = cells
        if np.any(self._ids[1:] <= self._ids[:-1]):
            self._sort()

    def _sort(self) -> None:
        order = np.argsort(self._ids, kind="stable")
        ids = self._ids[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if repeated.size:
            raise InvalidInputError(f"ids have {repeated[0]} twice; expected distinct ids.")
        self._codes, self._ids = self._codes[order], ids
        self._attributes = {name: column[order] for name, column in self._attributes.items()}
        if self._paths is not None:
            self._paths = self._paths.take(order)
        if self._features is not None:
            self._features = self._features[order]
        if self._cells is not None:
            self._cells = self._cells[order]

    def __getstate__(self) -> dict[str, Any]:
        # A pickle has the codes once.
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def __repr__(self) -> str:
        kept = f", feature_size={self.feature_size}" if self.feature_size else ""
        return f"Rows(n={self.n}, code_size={self.code_size}, schema={self.schema}{kept})"

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self._codes)

    @property
    def n_live(self) -> int:
        """Number of rows that are not deleted: all of them."""
        return self.n

    @property
    def code_size(self) -> int:
        """Bytes of one row of codes."""
        return self._codes.shape[1]

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes, shape (n, code_size), uint8."""
        return self._codes

    @property
    def cells(self) -> CellNumbers | None:
        """The cell of each row, or None."""
        return self._cells

    @property
    def n_cells(self) -> int:
        """Number of cells that codes are grouped by; 0 if they are not."""
        return 0 if self._cells is None else self._cells.count

    @cached
    def _grouped(self) -> tuple[Grouping, NDArray[np.intp]] | None:
        return None if self._cells is None else Grouping.of(self._cells)

    @property
    def grouping(self) -> Grouping | None:
        """Where the codes of the rows are in `tiled`; None where they are in the order of rows."""
        return None if self._grouped is None else self._grouped[0]

    @cached
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned."""
        codes = self._codes if self._grouped is None else self._codes[self._grouped[1]]
        return TiledCodes.from_rows(codes)

    @cached
    def scanned_ids(self) -> NDArray[np.int64]:
        """Ids (n,) int64 in the order of `tiled`."""
        return self._ids if self._grouped is None else self._ids[self._grouped[1]]

    def scanned(self, mask: NDArray[np.bool_] | None = None) -> CodeSegment:
        """The rows that a mask (n,) selects, all of them by default, as the scan reads them."""
        grouping = self.grouping
        places, starts = (None, None) if grouping is None else (grouping.places, grouping.starts)
        bits = None if mask is None else row_bits(placed(mask, places))
        return CodeSegment(self.tiled, self.scanned_ids, bits, starts)

    def codes_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Codes (r, code_size) of some rows, by their numbers."""
        return self._codes[rows]

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,), int64, ascending."""
        return self._ids

    @property
    def deleted_rows(self) -> NDArray[np.int64]:
        """Numbers of the deleted rows: none."""
        return np.empty(0, np.int64)

    @property
    def live_bits(self) -> None:
        """None, as every row takes part in a scan."""
        return None

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""
        kinds = {name: kind_of(column) for name, column in self._attributes.items()}
        return kinds if self._paths is None else kinds | {"path": "path"}

    @property
    def attributes(self) -> dict[str, Column]:
        """The attribute columns by their names."""
        return self._attributes

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return sorted(self._attributes)

    def attribute(self, name: str) -> Column:
        """The column ``name``, shape (n,)."""
        if name not in self._attributes:
            raise unknown_attribute(name, self.attribute_names)
        return self._attributes[name]

    def attribute_at(self, name: str, rows: NDArray[np.int64]) -> Column:
        """Values of some rows, by their numbers."""
        return self.attribute(name)[rows]

    @property
    def path_strings(self) -> Strings | None:
        """All paths as they are stored, or None."""
        return self._paths

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None."""
        return None if self._paths is None else self._paths.tolist()

    def path(self, row: int) -> bytes:
        """Path of one row."""
        if self._paths is None:
            raise InvalidInputError("these rows have no paths; give paths when they are made.")
        check_row(row, self.n)
        return self._paths[row]

    @property
    def feature_size(self) -> int:
        """Bytes of the features of one row; 0 if there are none."""
        return 0 if self._features is None else self._features.shape[1]

    @property
    def features(self) -> NDArray[np.uint8] | None:
        """Features, shape (n, feature_size), uint8, or None."""
        return self._features

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, shape (len(ids),), int64; -1 where there is none."""
        return rows_of(ids, self._ids)

    def take(self, rows: NDArray[np.int64], *, features: bool = True) -> Rows:
        """Some of the rows, by their numbers; see `Segment.take`."""
        return Rows(
            self._codes[rows],
            self._ids[rows],
            {name: column[rows] for name, column in self._attributes.items()},
            None if self._paths is None else self._paths.take(rows),
            self._features[rows] if features and self._features is not None else None,
            None if self._cells is None else self._cells[rows],
        )

    def grouped(self, cells: CellNumbers | None) -> Rows:
        """The same rows with their cells, or without."""
        out = copy.copy(self)
        out._cells = cells
        return out

    @classmethod
    def merge(cls, several: Sequence[Rows]) -> Rows:
        """The rows of several, which have the same columns and no id in common."""
        if len(several) == 1:
            return several[0]
        paths = [rows.path_strings for rows in several if rows.path_strings is not None]
        features = [rows.features for rows in several if rows.features is not None]
        cells = [rows.cells for rows in several if rows.cells is not None]
        names = several[0].attributes
        return cls(
            np.concatenate([rows.codes for rows in several]),
            np.concatenate([rows.ids for rows in several]),
            {name: concatenate([rows.attributes[name] for rows in several]) for name in names},
            Strings.concatenate(paths) if paths else None,
            np.concatenate(features) if features else None,
            CellNumbers.concatenate(cells) if cells else None,
        )


# What can be made again of a pickle.
_DERIVED = ("tiled", "scanned_ids", "_grouped")


def rows_of(ids: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in ``ascending`` each of ``ids`` is, -1 where it is not."""
    n = len(ascending)
    if not n:
        return np.full(len(ids), -1, np.int64)
    first = int(ascending[0])
    if int(ascending[-1]) - first == n - 1:  # No id is left out, as in most indexes.
        rows = ids - first
        return np.where((rows >= 0) & (rows < n), rows, -1)
    rows = np.searchsorted(ascending, ids)
    rows[rows == n] = 0
    return np.where(ascending[rows] == ids, rows, -1)


def check_row(row: int, n: int) -> None:
    """Raise `InvalidInputError` unless ``row`` is one of ``n`` rows."""
    if not 0 <= row < n:
        raise InvalidInputError(f"row is {row}; expected 0 to {n - 1}.")


def _check_features(features: NDArray[np.uint8] | None, n: int) -> None:
    if features is None:
        return
    if (
        not isinstance(features, np.ndarray)
        or features.dtype != np.uint8
        or features.shape[:1] != (n,)
        or features.ndim != 2
    ):
        raise InvalidInputError(
            f"features are {_describe(features)}; expected uint8 ({n}, feature_size)."
        )
    if not 1 <= features.shape[1] <= MAX_FEATURE_SIZE:
        raise InvalidInputError(
            f"features have {features.shape[1]} bytes a row; expected 1 to {MAX_FEATURE_SIZE}."
        )


def _as_paths(paths: Strings | Sequence[bytes] | None, n: int) -> Strings | None:
    if paths is None:
        return None
    if not isinstance(paths, Strings):
        if not all(isinstance(path, bytes) for path in paths):
            raise InvalidInputError("paths have one that is not bytes; convert it by os.fsencode.")
        paths = Strings.from_list(paths)
    if len(paths) != n:
        raise InvalidInputError(f"paths are {len(paths)}; expected {n}, one for each row.")
    return paths


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a {type(value).__name__}"
