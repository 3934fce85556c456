"""Attribute columns: numbers, times and categories, from what users pass to what is stored."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store.strings import Strings
from hyperpq.utils.validation import as_array

ATTRIBUTE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
NUMBERS = ("int32", "int64", "float32", "float64")
TIME = np.dtype("datetime64[ns]")
"""Times are UTC, in nanoseconds since 1970; NaT is a missing time."""
_DTYPES = {"time": TIME, **{name: np.dtype(name) for name in NUMBERS}}
GROUPS = {"category": "categories", "time": "times"}
"""HDF5 groups of a shard by the kind of their columns; plain numbers are in ``attributes``."""
RESERVED_NAMES = frozenset(
    ("codes", "id", "ids", "path", "paths", "path_bytes", "path_offsets", "dead", "rows")
)
"""Names that no attribute may have, as the store or a query uses them, like Python's keywords."""
MAX_LABEL_BYTES = 1000
"""Length of a category in UTF-8."""


@dataclass(frozen=True, eq=False)
class Categories:
    """A column of short strings, each kept once.

    Attributes
    ----------
    codes : ndarray, shape (n,), int32
        Position of each row's string in ``labels``; -1 where the row has none.
    labels : tuple of str
        Distinct strings.
    """

    codes: NDArray[np.int32]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Categories:
        """Some of the rows, with the same labels."""
        return Categories(np.ascontiguousarray(self.codes[rows]), self.labels)

    @classmethod
    def from_strings(cls, values: Iterable[str | None]) -> Categories:
        """Strings, or None where there is none; labels in order of first appearance."""
        positions: dict[str, int] = {}
        codes = [-1 if v is None else positions.setdefault(v, len(positions)) for v in values]
        return cls(np.array(codes, np.int32), tuple(positions))

    def strings(self) -> list[str | None]:
        """The string of each row, None where it has none."""
        labels = (*self.labels, None)
        return [labels[code] for code in self.codes.tolist()]

    def used(self) -> Categories:
        """The same strings without labels that no row has."""
        kept = np.unique(self.codes[self.codes >= 0])
        if len(kept) == len(self.labels):
            return self
        positions = np.full(len(self.labels) + 1, -1, np.int32)
        positions[kept] = np.arange(len(kept))
        return Categories(positions[self.codes], tuple(self.labels[i] for i in kept))


Column: TypeAlias = NDArray[Any] | Categories
"""Numbers of one of `NUMBERS`, times of `TIME`, or categories; one value for each row."""


def values_of(column: Column) -> list[Any]:
    """The values of a column as Python has them; a time is a `numpy.datetime64`."""
    if isinstance(column, Categories):
        return column.strings()
    # As a list of Python's values, times of nanoseconds would be integers.
    return list(column) if column.dtype == TIME else column.tolist()


def as_json(value: Any) -> Any:
    """One of `values_of` as JSON has it: a time is text in UTC; None is what JSON cannot say."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else f"{value}Z"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def kind_of(column: Column) -> str:
    """``category``, ``time``, or the dtype's name: equal for columns that can be joined."""
    if isinstance(column, Categories):
        return "category"
    return "time" if column.dtype == TIME else column.dtype.name


def as_column(name: str, values: Any, n: int) -> Column:
    """Return what a user passed for an attribute as a column of ``n`` rows.

    Parameters
    ----------
    name : str
        What to call the attribute in an error.
    values : array_like, shape (n,)
        Numbers, times or strings. Floats of up to 32 bits become float32, integers that fit into
        32 bits int32, others 64 bits wide; booleans become 0 and 1. Times are ``datetime64`` of any
        unit or `datetime` objects, which are converted to UTC if they have a time zone and else
        are UTC. Strings may be None where there is none. `Categories` stay as they are.
    n : int
        Number of rows.

    Returns
    -------
    ndarray or Categories, length n

    Raises
    ------
    InvalidInputError
        Another shape or kind, an integer beyond 64 bits, a time beyond nanoseconds' range (1677
        to 2262), a string longer than `MAX_LABEL_BYTES` bytes or one that is not valid Unicode.
    """
    if isinstance(values, Categories):
        _check_length(name, (len(values),), n)
        return values
    array = as_array(_as_numpy_takes_them(name, values), f"attribute {name}")
    _check_length(name, array.shape, n)
    kind = array.dtype.kind
    if kind == "M":
        return _as_time(name, array)
    if kind == "f":
        return np.ascontiguousarray(array, np.float64 if array.dtype.itemsize > 4 else np.float32)
    if kind in "iub":
        if kind == "u" and n and int(array.max()) > np.iinfo(np.int64).max:
            raise InvalidInputError(
                f"attribute {name} has {array.max()}; expected integers of at most 2**63 - 1."
            )
        small = np.can_cast(array.dtype, np.int32)
        return np.ascontiguousarray(array, np.int32 if small else np.int64)
    if kind in "UTO":
        return _as_categories(name, array.tolist())
    raise InvalidInputError(
        f"attribute {name} has dtype {array.dtype}; expected numbers, times or strings."
    )


def _check_length(name: str, shape: tuple[int, ...], n: int) -> None:
    if shape != (n,):
        raise InvalidInputError(
            f"attribute {name} has shape {shape}; expected ({n},), one value for each row."
        )


def _as_numpy_takes_them(name: str, values: Any) -> Any:
    """Convert lists that NumPy alone would misread, such as `datetime` objects with a time zone."""
    import datetime

    if isinstance(values, (list, tuple)) and values:
        if all(isinstance(value, datetime.datetime) for value in values):
            utc = datetime.timezone.utc
            return np.array(
                [v.astimezone(utc).replace(tzinfo=None) if v.tzinfo else v for v in values],
                "datetime64[us]",
            )
        # numpy would write the numbers among strings as strings, and large integers as floats.
        if any(isinstance(value, str) for value in values):
            return np.array(values, object)
        whole = [value for value in values if isinstance(value, int)]
        if whole and not -(2**63) <= min(whole) <= max(whole) < 2**63:
            raise InvalidInputError(
                f"attribute {name} has {max(whole, key=abs)}; expected integers of 64 bits."
            )
    return values


def _as_time(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == TIME:
        return np.ascontiguousarray(array, TIME)
    try:
        out = np.ascontiguousarray(array, TIME)
    except OverflowError:  # NumPy 2.5 and later
        fits = False
    else:
        # Earlier ones wrap around where nanoseconds don't reach.
        back = out.astype(array.dtype)
        lost = np.isnat(array) != np.isnat(out)
        fits = not np.any(lost | ((back != array) & ~np.isnat(out)))
    if not fits:
        raise InvalidInputError(
            f"attribute {name} has a time before 1677 or after 2262; expected times that 64 bits "
            "of nanoseconds can hold."
        )
    return out


def _as_categories(name: str, values: list[Any]) -> Categories:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise InvalidInputError(
                f"attribute {name} has {value!r} among its values; expected strings or None."
            )
    column = Categories.from_strings(values)
    for label in column.labels:
        try:
            long = len(label.encode()) > MAX_LABEL_BYTES
        except UnicodeEncodeError:
            raise InvalidInputError(
                f"attribute {name} has {label!r}, which is not valid Unicode; expected text that "
                "UTF-8 can hold."
            ) from None
        if long:
            raise InvalidInputError(
                f"attribute {name} has a string of {len(label.encode())} bytes; "
                f"expected at most {MAX_LABEL_BYTES}."
            )
    return column


def concatenate(columns: Sequence[Column]) -> Column:
    """Columns of one kind, one after another."""
    first = columns[0]
    if not isinstance(first, Categories):
        return np.concatenate([c for c in columns if not isinstance(c, Categories)])
    positions: dict[str, int] = {}
    codes = [recoded(column, positions) for column in columns if isinstance(column, Categories)]
    return Categories(np.concatenate(codes), tuple(positions))


def recoded(column: Categories, positions: dict[str, int]) -> NDArray[np.int32]:
    """Codes of a column as positions in ``positions``, which gets the labels that it lacks."""
    # The last entry is for -1.
    codes = [*(positions.setdefault(label, len(positions)) for label in column.labels), -1]
    return np.array(codes, np.int32)[column.codes]


def conform(name: str, column: Column, kind: str) -> Column:
    """Return the column as one of the kind that an index has, if that changes no value.

    Parameters
    ----------
    name : str
        What to call the attribute in an error.
    column : ndarray or Categories
        The values.
    kind : str
        See `kind_of`.

    Returns
    -------
    ndarray or Categories

    Raises
    ------
    InvalidInputError
        A value would change, or the kinds have nothing in common.
    """
    own = kind_of(column)
    if own == kind:
        return column
    if not len(column):
        # An empty list says nothing of what it would hold.
        none = np.empty(0, np.int32)
        return Categories(none, ()) if kind == "category" else none.astype(_DTYPES[kind])
    if not isinstance(column, Categories) and own in NUMBERS and kind in NUMBERS:
        with np.errstate(over="ignore", invalid="ignore"):
            out = column.astype(kind)
            # Compared in the column's own type: NaN stays NaN.
            if np.array_equal(out.astype(own), column, equal_nan=own.startswith("float")):
                return out
    raise InvalidInputError(
        f"attribute {name} has {own} values; expected {kind}, as the index has already."
    )


def datasets_of(columns: Mapping[str, Column]) -> dict[str, NDArray[Any]]:
    """The HDF5 datasets that hold attribute columns, by their path in a shard.

    Parameters
    ----------
    columns : mapping of str to ndarray or Categories
        Attribute name to values.

    Returns
    -------
    dict of str to ndarray
    """
    out: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, Categories):
            column = column.used()
            out[f"{GROUPS['category']}/{name}"] = column.codes
            out |= datasets_of_labels(name, column.labels)
        elif column.dtype == TIME:
            out[f"{GROUPS['time']}/{name}"] = column.view(np.int64)
        else:
            out[f"attributes/{name}"] = column
    return out


def datasets_of_labels(name: str, labels: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The HDF5 datasets that hold the labels of a category."""
    strings = Strings.from_list(label.encode() for label in labels)
    return {f"label_offsets/{name}": strings.offsets, f"label_bytes/{name}": strings.blob}


def is_attribute_name(name: str) -> bool:
    """Whether an attribute may be called ``name``."""
    return (
        ATTRIBUTE_NAME.fullmatch(name) is not None
        and name not in RESERVED_NAMES
        and not keyword.iskeyword(name)
    )


def check_attribute_name(name: object) -> None:
    """Raise `InvalidInputError` unless ``name`` can be an attribute's."""
    if not isinstance(name, str) or not is_attribute_name(name):
        raise InvalidInputError(
            f"attribute {name!r} cannot be called so; expected a letter or _ and up to 63 letters, "
            "digits and _, and neither a Python keyword nor one of "
            f"{', '.join(sorted(RESERVED_NAMES))}."
        )


def unknown_attribute(name: str, known: Sequence[str]) -> InvalidInputError:
    """The error for a column that is not there."""
    return InvalidInputError(
        f"attribute {name!r} is no such column; expected {', '.join(known) or 'none at all'}."
    )
