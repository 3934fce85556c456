"""The nodes of a filter: conditions and values, and their meaning for columns.

A tree of nodes is bound to the columns of one segment, which checks the types of the columns. The
result is a predicate that is evaluated on one batch of rows after another.
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
from hyperpq.filters import arithmetic
from hyperpq.store.columns import NUMBERS, TIME, Categories, Column
from hyperpq.store.paths import Paths

Columns: TypeAlias = Mapping[str, Column | Paths]
Predicate: TypeAlias = Callable[[slice], NDArray[np.bool_]]
"""Mask of the rows that fulfil a condition; of shape () if all or none of them do."""

_NAT = np.iinfo(np.int64).min
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COMPARE_TEXT: dict[str, Callable[[str, str], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT_FUNCTIONS: dict[str, tuple[Callable[[str, str], bool], Callable[[Paths, bytes], Any]]] = {
    "startswith": (str.startswith, Paths.startswith),
    "endswith": (str.endswith, Paths.endswith),
    "contains": (str.__contains__, Paths.contains),
}
TEXT_FUNCTIONS = tuple(_TEXT_FUNCTIONS)
"""Names of the functions that search text."""
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?:(:\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:[0-5]\d)?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class Span:
    """A piece of the text of a filter, and its first character, counted from 1."""

    text: str
    position: int

    def error(self, problem: str) -> InvalidInputError:
        """An error about this piece of the text."""
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return InvalidInputError(f"where: {text!r} at character {self.position} {problem}.")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of some rows, see `arithmetic`; of shape () if they are the same in all rows."""

    at: Callable[[slice], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Times:
    """Times of some rows in nanoseconds, `_NAT` where a time is missing."""

    at: Callable[[slice], NDArray[np.int64]]


@dataclass(frozen=True)
class Text:
    """Text in quotes, which stands for a category, a path or a time, as the other side is."""

    text: str


Operand: TypeAlias = Numbers | Times | Text | Categories | Paths
# What operands are called in error messages, and what they can be compared with.
_NAMES = {
    Numbers: "a number",
    Times: "a time",
    Text: "text",
    Categories: "a category",
    Paths: "a path",
}
_COUNTERPARTS = {
    Numbers: "a number",
    Times: "a time in quotes, such as '2024-01-31T12:00:00'",
    Text: "a column on one side",
    Categories: "text in quotes",
    Paths: "text in quotes after == or !=",
}


class Value(Protocol):
    """A column, a literal or a calculation."""

    @property
    def span(self) -> Span: ...  # noqa: D102

    def bind(self, columns: Columns) -> Operand: ...  # noqa: D102


class Condition(Protocol):
    """A condition that a row fulfils or does not."""

    def bind(self, columns: Columns) -> Predicate: ...  # noqa: D102


@dataclass(frozen=True)
class Name:
    """The name of a column, ``id`` or ``path``."""

    span: Span
    name: str

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        column = columns[self.name]
        if isinstance(column, (Categories, Paths)):
            return column
        # A plain array, since slices of a memory map cost more.
        array = np.asarray(column)
        if array.dtype == TIME:
            times = array.view(np.int64)
            return Times(lambda rows: times[rows])
        if array.dtype not in NUMBERS:
            raise self.span.error(f"has dtype {array.dtype}; expected a column of numbers or times")
        wide = np.int64 if array.dtype.kind == "i" else np.float64
        return Numbers(lambda rows: array[rows].astype(wide, copy=False))


@dataclass(frozen=True)
class Literal:
    """A number, or text in quotes."""

    span: Span
    value: int | float | str

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        if isinstance(self.value, str):
            return Text(self.value)
        number = arithmetic.constant(self.value)
        return Numbers(lambda rows: number)


@dataclass(frozen=True)
class Calculation:
    """Two numbers with ``+``, ``-``, ``*`` or ``/`` between them."""

    span: Span
    left: Value
    op: str
    right: Value

    def bind(self, columns: Columns) -> Operand:  # noqa: D102
        left, right = self.left.bind(columns), self.right.bind(columns)
        if not isinstance(left, Numbers) or not isinstance(right, Numbers):
            wrong = self.right if isinstance(left, Numbers) else self.left
            raise wrong.span.error(f"is not a number; expected one for {self.op}")

        def calculate(rows: slice) -> NDArray[Any]:
            try:
                return arithmetic.calculate(self.op, left.at(rows), right.at(rows))
            except OverflowError as error:
                raise self.span.error(
                    f"has {error}; expected less; multiply by 1.0 to calculate in floats"
                ) from None

        return Numbers(calculate)


@dataclass(frozen=True)
class Constant:
    """``True`` or ``False``: the same for every row."""

    answer: bool

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        return _constant(self.answer)


@dataclass(frozen=True)
class Not:
    """``not`` before a condition."""

    condition: Condition

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        test = self.condition.bind(columns)
        return lambda rows: ~test(rows)


@dataclass(frozen=True)
class BooleanOperation:
    """Conditions with ``and`` or ``or`` between them."""

    every: bool
    conditions: tuple[Condition, ...]

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
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
    """Two values with one of ``== != < <= > >=``; False where a value is missing."""

    span: Span
    left: Value
    op: str
    right: Value

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        op, left, right = self.op, self.left.bind(columns), self.right.bind(columns)
        literal = self.right.span
        if isinstance(left, Text):
            op, left, right, literal = _MIRRORED[op], right, left, self.left.span
        match left, right:
            case Numbers(at=a), Numbers(at=b):
                return lambda rows: arithmetic.compare(op, a(rows), b(rows))
            case Times(at=a), Times(at=b):
                return lambda rows: _compare_times(op, a(rows), b(rows)) & (b(rows) != _NAT)
            case Times(at=a), Text(text=text):
                time = arithmetic.constant(_nanoseconds(text, literal))
                return lambda rows: _compare_times(op, a(rows), time)
            case Categories(), Text(text=text):
                return _by_label(left, _table(left, lambda label: _COMPARE_TEXT[op](label, text)))
            case Categories(), Categories():
                return _compare_categories(op, left, right)
            case Paths(), Text(text=text) if op in ("==", "!="):
                path, same = _path(text, literal), op == "=="
                return lambda rows: left[rows].equals(path) == same
        raise self.span.error(
            f"compares {_NAMES[type(left)]} with {_NAMES[type(right)]} by {op}; "
            f"expected {_COUNTERPARTS[type(left)]}"
        )


@dataclass(frozen=True)
class Membership:
    """A value ``in`` a list of literals or ``not in`` it; False where the value is missing."""

    span: Span
    value: Value
    positive: bool
    literals: tuple[Literal, ...]

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        value, absent = self.value.bind(columns), IsNone(self.value).bind(columns)
        listed = self._listed(value)
        if self.positive:
            return lambda rows: listed(rows) & ~absent(rows)
        return lambda rows: ~listed(rows) & ~absent(rows)

    def _listed(self, value: Operand) -> Predicate:
        if isinstance(value, Text):
            raise self.span.error("looks for text in a list of literals; expected a column")
        for literal in self.literals:
            if isinstance(literal.value, str) == isinstance(value, Numbers):
                raise literal.span.error(
                    f"is in a list for {_NAMES[type(value)]}; "
                    f"expected {_COUNTERPARTS[type(value)].removesuffix(' after == or !=')}"
                )
        if isinstance(value, Numbers):
            numbers = [item.value for item in self.literals if not isinstance(item.value, str)]
            return lambda rows: arithmetic.is_in(value.at(rows), numbers)
        texts = [(str(item.value), item.span) for item in self.literals]
        if isinstance(value, Times):
            times = [_nanoseconds(text, span) for text, span in texts]
            return lambda rows: arithmetic.is_in(value.at(rows), times)
        if isinstance(value, Categories):
            wanted = {text for text, _ in texts}
            return _by_label(value, _table(value, wanted.__contains__))
        paths = [_path(text, span) for text, span in texts]
        return lambda rows: _any([value[rows].equals(path) for path in paths])


@dataclass(frozen=True)
class IsNone:
    """``is None`` after a value: NaN, no time or no category."""

    value: Value

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        match self.value.bind(columns):
            case Numbers(at=at):
                return lambda rows: arithmetic.missing(at(rows))
            case Times(at=at):
                return lambda rows: at(rows) == _NAT
            case Categories(codes=codes):
                return lambda rows: codes[rows] < 0
        return _constant(False)


@dataclass(frozen=True)
class TextSearch:
    """A function that searches the text of a category or path."""

    span: Span
    function: str
    value: Value
    text: Literal

    def bind(self, columns: Columns) -> Predicate:  # noqa: D102
        of_label, of_path = _TEXT_FUNCTIONS[self.function]
        value, text = self.value.bind(columns), str(self.text.value)
        if isinstance(value, Categories):
            return _by_label(value, _table(value, lambda label: of_label(label, text)))
        if isinstance(value, Paths):
            path = _path(text, self.text.span)
            return lambda rows: np.asarray(of_path(value[rows], path))
        raise self.value.span.error(
            f"is {_NAMES[type(value)]}; expected a column of categories or path for {self.function}"
        )


def _constant(answer: bool) -> Predicate:
    return lambda rows: np.array(answer)


def _any(masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.logical_or.reduce(masks) if masks else np.array(False)


def _table(column: Categories, test: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Mask of the labels that fulfil a test; the last entry, for code -1, is False."""
    return np.array([*map(test, column.labels), False], np.bool_)


def _by_label(column: Categories, table: NDArray[np.bool_]) -> Predicate:
    codes = np.asarray(column.codes)
    return lambda rows: table[codes[rows]]


def _compare_categories(op: str, a: Categories, b: Categories) -> Predicate:
    order = {label: rank for rank, label in enumerate(sorted({*a.labels, *b.labels}))}
    # Ranks are floats, so that a missing category, code -1, is NaN.
    ranks_a, ranks_b = (
        np.array([*(order[label] for label in column.labels), np.nan]) for column in (a, b)
    )
    return lambda rows: arithmetic.compare(op, ranks_a[a.codes[rows]], ranks_b[b.codes[rows]])


def _compare_times(op: str, a: NDArray[np.int64], b: NDArray[Any]) -> NDArray[np.bool_]:
    return arithmetic.compare(op, a, b) & (a != _NAT)


def _path(text: str, span: Span) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        raise span.error("has characters that no path has; expected valid Unicode") from None


def _nanoseconds(text: str, span: Span) -> int:
    """Nanoseconds since 1970 of a time in ISO 8601, which is UTC without an offset."""
    parts = _TIME.fullmatch(text)
    try:
        if parts is None:
            raise ValueError("it is not in ISO 8601")
        day, minute, second, fraction, zone = parts.groups()
        offset = "+00:00" if zone in (None, "Z") else zone
        time = datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ':00'}{offset}")
    except ValueError as error:
        raise span.error(
            f"is not a time ({error}); expected one such as '2024-01-31', "
            "'2024-01-31T12:00:00' or '2024-01-31T12:00:00.5+01:00'"
        ) from None
    seconds = (time - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)
    return seconds * 10**9 + int((fraction or "").ljust(9, "0"))
