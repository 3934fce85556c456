"""Conditions on rows: the tree of a filter, and what each part of it means for columns.

A tree is bound to the columns of one part of an index, which checks what the columns hold, and then
asked about some rows after the other.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters import arithmetic as exact
from hyperpq.store.columns import NUMBERS, TIME, Categories, Column
from hyperpq.store.paths import Paths

Columns: TypeAlias = Mapping[str, Column | Paths]
Test: TypeAlias = Callable[[slice], NDArray[np.bool_]]
"""Which of some rows fulfil a condition; shape () if all or none."""

_NAT = np.iinfo(np.int64).min
_FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_BY_TEXT: dict[str, Callable[[str, str], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SEARCH: dict[str, tuple[Callable[[str, str], bool], Callable[[Paths, bytes], Any]]] = {
    "startswith": (str.startswith, Paths.startswith),
    "endswith": (str.endswith, Paths.endswith),
    "contains": (str.__contains__, Paths.contains),
}
SEARCHES = tuple(_SEARCH)
"""Functions that search text."""
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?:(:\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:[0-5]\d)?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Spot:
    """A piece of a filter's text and where it begins, counted from 1."""

    text: str
    position: int

    def error(self, problem: str) -> InvalidInputError:
        """The error for this piece."""
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return InvalidInputError(f"where: character {self.position}, {text!r}: {problem}.")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of some rows as `exact` has them; shape () if they are the same in all."""

    at: Callable[[slice], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Times:
    """Nanoseconds of some rows, `_NAT` for a missing time."""

    at: Callable[[slice], NDArray[np.int64]]


@dataclass(frozen=True)
class Text:
    """Text in quotes: one of a category, a path or a time, as the other side has it."""

    text: str


Operand: TypeAlias = Numbers | Times | Text | Categories | Paths
_HELD = {
    Numbers: ("a number", "a number"),
    Times: ("a time", "a time in quotes, such as '2024-01-31T12:00:00'"),
    Text: ("text", "a column on one side"),
    Categories: ("a category", "text in quotes"),
    Paths: ("a path", "text in quotes after == or !="),
}
"""What each operand is called, and what it can be compared with."""


class Value(Protocol):
    """A column, a literal or a calculation."""

    @property
    def spot(self) -> Spot: ...  # noqa: D102

    def bind(self, columns: Columns) -> Operand: ...  # noqa: D102


class Condition(Protocol):
    """What a row fulfils or not."""

    def bind(self, columns: Columns) -> Test: ...  # noqa: D102


@dataclass(frozen=True)
class Name:
    """A column, ``id`` or ``path``."""

    spot: Spot
    name: str

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        column = columns[self.name]
        if isinstance(column, (Categories, Paths)):
            return column
        # Of a memory map too, a plain array: its pieces are cheaper.
        array = np.asarray(column)
        if array.dtype == TIME:
            times = array.view(np.int64)
            return Times(lambda rows: times[rows])
        if array.dtype not in NUMBERS:
            raise self.spot.error(f"the column has dtype {array.dtype}; expected numbers or times")
        wide = np.int64 if array.dtype.kind == "i" else np.float64
        return Numbers(lambda rows: array[rows].astype(wide, copy=False))


@dataclass(frozen=True)
class Literal:
    """A number, or text in quotes."""

    spot: Spot
    value: int | float | str

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        if isinstance(self.value, str):
            return Text(self.value)
        number = exact.constant(self.value)
        return Numbers(lambda rows: number)


@dataclass(frozen=True)
class Calculation:
    """Two numbers and ``+``, ``-``, ``*`` or ``/``."""

    spot: Spot
    left: Value
    op: str
    right: Value

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        left, right = self.left.bind(columns), self.right.bind(columns)
        if not isinstance(left, Numbers) or not isinstance(right, Numbers):
            wrong = self.right if isinstance(left, Numbers) else self.left
            raise wrong.spot.error(f"{self.op} calculates with numbers; expected one")

        def calculate(rows: slice) -> NDArray[Any]:
            try:
                return exact.calculate(self.op, left.at(rows), right.at(rows))
            except OverflowError as error:
                raise self.spot.error(f"{error}; multiply by 1.0 to calculate in floats") from None

        return Numbers(calculate)


@dataclass(frozen=True)
class Always:
    """True or False for every row."""

    answer: bool

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        return _same(self.answer)


@dataclass(frozen=True)
class Not:
    """The rows that don't fulfil a condition."""

    condition: Condition

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        test = self.condition.bind(columns)
        return lambda rows: ~test(rows)


@dataclass(frozen=True)
class Joined:
    """All of some conditions (``and``), or any of them (``or``)."""

    every: bool
    conditions: tuple[Condition, ...]

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        first, *others = [condition.bind(columns) for condition in self.conditions]

        def test(rows: slice) -> NDArray[np.bool_]:
            out = first(rows)
            for other in others:
                if not out.any() if self.every else out.all():
                    break
                out = out & other(rows) if self.every else out | other(rows)
            return out

        return test


@dataclass(frozen=True)
class Comparison:
    """Two values and one of ``== != < <= > >=``; False where one is missing."""

    spot: Spot
    left: Value
    op: str
    right: Value

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        op, left, right = self.op, self.left.bind(columns), self.right.bind(columns)
        literal = self.right.spot
        if isinstance(left, Text):
            op, left, right, literal = _FLIPPED[op], right, left, self.left.spot
        match left, right:
            case Numbers(at=a), Numbers(at=b):
                return lambda rows: exact.compare(op, a(rows), b(rows))
            case Times(at=a), Times(at=b):
                return lambda rows: _compare_times(op, a(rows), b(rows)) & (b(rows) != _NAT)
            case Times(at=a), Text(text=text):
                time = exact.constant(_nanoseconds(text, literal))
                return lambda rows: _compare_times(op, a(rows), time)
            case Categories(), Text(text=text):
                return _of_labels(left, _table(left, lambda label: _BY_TEXT[op](label, text)))
            case Categories(), Categories():
                return _compare_categories(op, left, right)
            case Paths(), Text(text=text) if op in ("==", "!="):
                path, same = _path(text, literal), op == "=="
                return lambda rows: left[rows].equals(path) == same
        raise self.spot.error(
            f"{_HELD[type(left)][0]} can't be compared with {_HELD[type(right)][0]} by {op}; "
            f"expected {_HELD[type(left)][1]}"
        )


@dataclass(frozen=True)
class Listed:
    """A value ``in`` a list of literals, or ``not in`` it; False where it is missing."""

    spot: Spot
    value: Value
    inside: bool
    literals: tuple[Literal, ...]

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        value, absent = self.value.bind(columns), Missing(self.value).bind(columns)
        listed = self._inside(value)
        if self.inside:
            return lambda rows: listed(rows) & ~absent(rows)
        return lambda rows: ~listed(rows) & ~absent(rows)

    def _inside(self, value: Operand) -> Test:
        if isinstance(value, Text):
            raise self.spot.error("text is looked for in a list of literals; expected a column")
        for literal in self.literals:
            if isinstance(literal.value, str) == isinstance(value, Numbers):
                raise literal.spot.error(
                    f"{_HELD[type(value)][0]} is looked for in the list; "
                    f"expected {_HELD[type(value)][1].removesuffix(' after == or !=')}"
                )
        if isinstance(value, Numbers):
            numbers = [item.value for item in self.literals if not isinstance(item.value, str)]
            return lambda rows: exact.is_in(value.at(rows), numbers)
        texts = [(str(item.value), item.spot) for item in self.literals]
        if isinstance(value, Times):
            times = [_nanoseconds(text, spot) for text, spot in texts]
            return lambda rows: exact.is_in(value.at(rows), times)
        if isinstance(value, Categories):
            wanted = {text for text, _ in texts}
            return _of_labels(value, _table(value, wanted.__contains__))
        paths = [_path(text, spot) for text, spot in texts]
        return lambda rows: _any([value[rows].equals(path) for path in paths])


@dataclass(frozen=True)
class Missing:
    """A value that ``is None``: NaN, no time, no category."""

    value: Value

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        match self.value.bind(columns):
            case Numbers(at=at):
                return lambda rows: exact.missing(at(rows))
            case Times(at=at):
                return lambda rows: at(rows) == _NAT
            case Categories(codes=codes):
                return lambda rows: codes[rows] < 0
        return _same(False)


@dataclass(frozen=True)
class Search:
    """A category or path that begins with, ends with or contains some text."""

    spot: Spot
    function: str
    value: Value
    text: Literal

    def bind(self, columns: Columns) -> Test:  # noqa: D102
        of_label, of_path = _SEARCH[self.function]
        value, text = self.value.bind(columns), str(self.text.value)
        if isinstance(value, Categories):
            return _of_labels(value, _table(value, lambda label: of_label(label, text)))
        if isinstance(value, Paths):
            path = _path(text, self.text.spot)
            return lambda rows: np.asarray(of_path(value[rows], path))
        raise self.value.spot.error(
            f"{self.function} searches text, and this is {_HELD[type(value)][0]}; "
            "expected a column of categories or path"
        )


def _same(answer: bool) -> Test:
    return lambda rows: np.array(answer)


def _any(masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.logical_or.reduce(masks) if masks else np.array(False)


def _table(column: Categories, test: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Which labels fulfil a test; the last one, of code -1, doesn't."""
    return np.array([*map(test, column.labels), False], np.bool_)


def _of_labels(column: Categories, table: NDArray[np.bool_]) -> Test:
    codes = np.asarray(column.codes)
    return lambda rows: table[codes[rows]]


def _compare_categories(op: str, a: Categories, b: Categories) -> Test:
    order = {label: rank for rank, label in enumerate(sorted({*a.labels, *b.labels}))}
    # As floats, -1 is a missing number.
    ranks_a, ranks_b = (
        np.array([*(order[label] for label in column.labels), np.nan]) for column in (a, b)
    )
    return lambda rows: exact.compare(op, ranks_a[a.codes[rows]], ranks_b[b.codes[rows]])


def _compare_times(op: str, a: NDArray[np.int64], b: NDArray[Any]) -> NDArray[np.bool_]:
    return exact.compare(op, a, b) & (a != _NAT)


def _path(text: str, spot: Spot) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise spot.error("no path has these characters; expected valid Unicode") from None


def _nanoseconds(text: str, spot: Spot) -> int:
    """Nanoseconds since 1970 of a time in ISO 8601; without an offset it is UTC."""
    parts = _TIME.fullmatch(text)
    try:
        if parts is None:
            raise ValueError("it isn't in ISO 8601")
        day, minute, second, fraction, zone = parts.groups()
        offset = "+00:00" if zone in (None, "Z") else zone
        time = datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ':00'}{offset}")
    except ValueError as error:
        raise spot.error(
            f"this isn't a time ({error}); expected one such as '2024-01-31', "
            "'2024-01-31T12:00:00' or '2024-01-31T12:00:00.5+01:00'"
        ) from None
    seconds = (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))
