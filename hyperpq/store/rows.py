"""Rows in memory: codes with their ids, attribute columns and paths, checked when made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import TiledCodes
from hyperpq.errors import InvalidInputError
from hyperpq.store.columns import (
    Column,
    as_column,
    check_attribute_name,
    concatenate,
    kind_of,
    unknown_attribute,
)
from hyperpq.store.strings import Strings


class Rows:
    """Rows to be appended to a store, or that are in memory; in the order of their ids.

    Parameters
    ----------
    codes : ndarray, shape (n, code_size), uint8
    ids : ndarray, shape (n,), int64
        Distinct, in any order: rows are sorted by them.
    attributes : mapping of str to array_like, each shape (n,)
        See `columns.as_column`. Names match ``[A-Za-z_][A-Za-z0-9_]{0,63}`` and are neither in
        `columns.RESERVED_NAMES` nor Python keywords.
    paths : Strings or sequence of bytes, optional
        One path per row as the file system gave it, in no particular encoding.

    Raises
    ------
    InvalidInputError
        A shape, dtype or name is another, or an id occurs twice.
    """

    dead = None
    dead_rows = np.empty(0, np.int64)
    alive = None

    def __init__(
        self,
        codes: NDArray[np.uint8],
        ids: NDArray[np.int64],
        attributes: Mapping[str, Any] | None = None,
        paths: Strings | Sequence[bytes] | None = None,
    ) -> None:
        if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2:
            raise InvalidInputError(f"codes: {_describe(codes)}, expected uint8 (n, code_size)")
        if codes.shape[1] == 0:
            raise InvalidInputError("codes: code_size is 0, expected at least one byte per row")
        n = len(codes)
        if not isinstance(ids, np.ndarray) or ids.shape != (n,) or ids.dtype != np.int64:
            raise InvalidInputError(f"ids: {_describe(ids)}, expected int64 ({n},)")
        columns = {}
        if attributes is not None and not isinstance(attributes, Mapping):
            raise InvalidInputError(
                f"attributes are of {type(attributes)}; expected a mapping of names to columns."
            )
        for name, values in (attributes or {}).items():
            check_attribute_name(name)
            columns[name] = as_column(name, values, n)
        if paths is not None and not isinstance(paths, Strings):
            if not all(isinstance(path, bytes) for path in paths):
                raise InvalidInputError("paths: every path must be bytes; use os.fsencode")
            paths = Strings.from_list(paths)
        if paths is not None and len(paths) != n:
            raise InvalidInputError(f"paths: {len(paths)} given for {n} rows")
        self.codes, self.ids = np.ascontiguousarray(codes), np.ascontiguousarray(ids)
        self.attributes, self.path_strings = columns, paths
        if np.any(self.ids[1:] <= self.ids[:-1]):
            self._sort()

    def _sort(self) -> None:
        order = np.argsort(self.ids, kind="stable")
        ids = self.ids[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if repeated.size:
            raise InvalidInputError(f"ids: {repeated[0]} occurs twice, expected distinct ids")
        self.codes, self.ids = self.codes[order], ids
        self.attributes = {name: column[order] for name, column in self.attributes.items()}
        if self.path_strings is not None:
            self.path_strings = self.path_strings.take(order)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.codes)

    @property
    def live(self) -> int:
        """Number of rows that are not removed: all of them."""
        return self.n

    @property
    def code_size(self) -> int:
        """Bytes per code."""
        return self.codes.shape[1]

    @cached_property
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned."""
        return TiledCodes.from_rows(self.codes)

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""
        kinds = {name: kind_of(column) for name, column in self.attributes.items()}
        return kinds if self.path_strings is None else kinds | {"path": "path"}

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return sorted(self.attributes)

    def attribute(self, name: str) -> Column:
        """The column ``name``, shape (n,)."""
        if name not in self.attributes:
            raise unknown_attribute(name, self.attribute_names)
        return self.attributes[name]

    def attribute_at(self, name: str, rows: NDArray[np.int64]) -> Column:
        """Values of some rows, by their numbers."""
        return self.attribute(name)[rows]

    def path(self, row: int) -> bytes:
        """Path of one row."""
        if self.path_strings is None:
            raise InvalidInputError("these rows have no paths")
        check_row(row, self.n)
        return self.path_strings[row]

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None."""
        return None if self.path_strings is None else self.path_strings.tolist()

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, -1 where there is none."""
        return rows_of(ids, self.ids)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows, by their numbers."""
        strings = self.path_strings
        return Rows(
            self.codes[rows],
            self.ids[rows],
            {name: column[rows] for name, column in self.attributes.items()},
            None if strings is None else strings.take(rows),
        )

    @classmethod
    def merge(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several, which have the same columns and no id in common."""
        if len(parts) == 1:
            return parts[0]
        strings = [part.path_strings for part in parts if part.path_strings is not None]
        columns = {name: [part.attributes[name] for part in parts] for name in parts[0].attributes}
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.ids for part in parts]),
            {name: concatenate(pieces) for name, pieces in columns.items()},
            Strings.concatenate(strings) if strings else None,
        )


def rows_of(ids: NDArray[np.int64], ascending: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in ``ascending`` each of ``ids`` is, -1 where it isn't; by binary search."""
    if not len(ascending):
        return np.full(len(ids), -1, np.int64)
    rows = np.searchsorted(ascending, ids)
    rows[rows == len(ascending)] = 0
    return np.where(ascending[rows] == ids, rows, -1)


def check_row(row: int, n: int) -> None:
    """Raise `InvalidInputError` unless ``row`` is one of ``n`` rows."""
    if not 0 <= row < n:
        raise InvalidInputError(f"row {row}: expected 0 to {n - 1}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
