"""Rows in memory: codes with their ids, attribute columns and paths, checked when made."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hyperpq.codes import TiledCodes, row_bits
from hyperpq.errors import InvalidInputError

ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
ATTRIBUTE_DTYPES = ("int32", "int64", "float32", "float64")
RESERVED_NAMES = frozenset(
    ("codes", "id", "ids", "path", "paths", "path_bytes", "path_offsets", "dead", "rows")
)
"""Names that no attribute may have, nor Python's keywords: columns of the store and of queries."""


@dataclass(eq=False)
class Rows:
    """Rows to be appended to a store, or that are not in one.

    Attributes
    ----------
    codes : ndarray, shape (n, code_size), uint8, C-contiguous
    ids : ndarray, shape (n,), int64
    attributes : dict of str to ndarray, each shape (n,), int32, int64, float32 or float64
        Names match ``[A-Za-z_][A-Za-z0-9_]{0,63}`` and are neither in `RESERVED_NAMES` nor Python
        keywords.
    paths : list of bytes, or None
        One path per row as the file system gave it, in no particular encoding.
    dead : ndarray, shape (n,), bool, or None
        True where the row is removed.

    Raises
    ------
    InvalidInputError
        If a shape, dtype or name is another.
    """

    codes: np.ndarray
    ids: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    paths: list[bytes] | None = None
    dead: np.ndarray | None = None

    def __post_init__(self) -> None:
        codes = self.codes
        if not isinstance(codes, np.ndarray) or codes.dtype != np.uint8 or codes.ndim != 2:
            raise InvalidInputError(f"codes: {_describe(codes)}, expected uint8 (n, code_size)")
        if codes.shape[1] == 0:
            raise InvalidInputError("codes: code_size is 0, expected at least one byte per row")
        self.codes = np.ascontiguousarray(codes)
        self.ids = self._column("ids", self.ids, ("int64",))
        columns = {}
        for name, values in self.attributes.items():
            check_attribute_name(name)
            columns[name] = self._column(f"attribute {name}", values, ATTRIBUTE_DTYPES)
        self.attributes = columns
        if self.dead is not None:
            self.dead = self._column("dead", self.dead, ("bool",))
        if self.paths is not None:
            if len(self.paths) != self.n:
                raise InvalidInputError(f"paths: {len(self.paths)} given for {self.n} rows")
            if not all(isinstance(path, bytes) for path in self.paths):
                raise InvalidInputError("paths: every path must be bytes; use os.fsencode")

    def _column(self, name: str, values: np.ndarray, dtypes: tuple[str, ...]) -> np.ndarray:
        ok = isinstance(values, np.ndarray) and values.shape == (self.n,)
        if not ok or values.dtype not in [np.dtype(dtype) for dtype in dtypes]:
            raise InvalidInputError(
                f"{name}: {_describe(values)}, expected {' or '.join(dtypes)} ({self.n},)"
            )
        return np.ascontiguousarray(values)

    @property
    def n(self) -> int:
        """Number of rows, dead ones included."""
        return self.codes.shape[0]

    @property
    def code_size(self) -> int:
        """Bytes per code."""
        return self.codes.shape[1]

    @cached_property
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned."""
        return TiledCodes.from_rows(self.codes)

    @cached_property
    def alive(self) -> np.ndarray | None:
        """Bits of the rows that aren't removed, see `codes.row_bits`; None if none is."""
        return None if self.dead is None else row_bits(~self.dead)

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        return sorted(self.attributes)

    def attribute(self, name: str) -> np.ndarray:
        """The column ``name``, shape (n,)."""
        if name not in self.attributes:
            raise unknown_attribute(name, self.attribute_names)
        return self.attributes[name]

    def path(self, row: int) -> bytes:
        """Path of one row."""
        if self.paths is None:
            raise InvalidInputError("these rows have no paths")
        check_row(row, self.n)
        return self.paths[row]

    def path_table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All paths as they are stored.

        Returns
        -------
        (ndarray (n + 1,) int64, ndarray (bytes,) uint8) or None
            The path of row i is the second array from ``offsets[i]`` to ``offsets[i + 1]``.
        """
        if self.paths is None:
            return None
        offsets = np.zeros(self.n + 1, np.int64)
        np.cumsum([len(path) for path in self.paths], out=offsets[1:])
        return offsets, np.frombuffer(b"".join(self.paths), np.uint8)


def check_attribute_name(name: object) -> None:
    """Raise `InvalidInputError` unless ``name`` can be an attribute's."""
    if not isinstance(name, str) or not is_attribute_name(name):
        raise InvalidInputError(
            f"attribute {name!r}: a name is a letter or _ and up to 63 letters, digits and _, "
            "and neither a Python keyword nor one of " + ", ".join(sorted(RESERVED_NAMES))
        )


def is_attribute_name(name: str) -> bool:
    """Whether an attribute may be called ``name``."""
    return (
        ATTRIBUTE_NAME.fullmatch(name) is not None
        and name not in RESERVED_NAMES
        and not keyword.iskeyword(name)
    )


def check_row(row: int, n: int) -> None:
    """Raise `InvalidInputError` unless ``row`` is one of ``n`` rows."""
    if not 0 <= row < n:
        raise InvalidInputError(f"row {row}: expected 0 to {n - 1}")


def unknown_attribute(name: str, known: list[str]) -> InvalidInputError:
    """The error for a column that isn't there."""
    return InvalidInputError(
        f"attribute {name!r}: there is no such column, only {', '.join(known) or 'none at all'}"
    )


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
