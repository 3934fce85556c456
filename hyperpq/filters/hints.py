"""What is probably a mistake in a condition: names of columns and values that no row has."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from hyperpq.errors import InvalidInputError
from hyperpq.filters.conditions import (
    BooleanOperation,
    Comparison,
    Condition,
    Literal,
    Membership,
    Name,
    Not,
    TextSearch,
    Value,
)
from hyperpq.utils.suggest import closest


def unknown_column(name: str, columns: Iterable[str], condition: Condition) -> InvalidInputError:
    """The error for a name in a condition that is no column of the index."""
    known = sorted(columns)
    near, compared = closest(name, known), _compared_names(condition)
    said = f"where names {name!r}, which is no column of the index; expected "
    said += f"one of {', '.join(known)}" if len(known) > 1 else known[0]
    if near:
        return InvalidInputError(f"{said}; did you mean {near}?")
    column = next((b for a, b in compared if a == name and b in known), None)
    if column is None:
        return InvalidInputError(f"{said}.")
    # A shell removes the outer quotes.
    return InvalidInputError(
        f"{said}; text is written in quotes within the condition, as in \"{column} == '{name}'\"."
    )


@dataclass(frozen=True)
class UnknownValue:
    """A text that a category is compared with and that no row has.

    Attributes
    ----------
    column, text : str
    nearest : str, optional
        The value of the column that is most like the text.
    """

    column: str
    text: str
    nearest: str | None

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else "."
        return f"no row has the {self.column} {self.text!r}{hint}"


def unknown_values(
    condition: Condition, labels: Callable[[str], Collection[str] | None]
) -> list[UnknownValue]:
    """Texts in a condition that categories are compared with by ``==``, ``!=`` and ``in`` in vain.

    Parameters
    ----------
    condition : Condition
        The root of a `Where`.
    labels : callable
        The values of a column; None if it has no categories.
    """
    found = dict.fromkeys(_compared(condition))
    out = []
    for column, text in found:
        known = labels(column)
        if known is not None and text not in known:
            out.append(UnknownValue(column, text, closest(text, sorted(known))))
    return out


def relative_paths(condition: Condition) -> list[str]:
    """Texts that a condition compares with paths and that are no absolute path."""
    found = [text for column, text in _compared(condition) if column == "path"]
    found += [
        str(search.text.value)
        for search in _nodes(condition)
        if isinstance(search, TextSearch)
        and search.function == "startswith"
        and isinstance(search.value, Name)
        and search.value.name == "path"
    ]
    return [text for text in found if not os.path.isabs(text)]


def _nodes(condition: Condition) -> Iterator[Condition]:
    """A condition and all conditions in it."""
    yield condition
    match condition:
        case BooleanOperation(conditions=parts):
            for part in parts:
                yield from _nodes(part)
        case Not(condition=part):
            yield from _nodes(part)


def _compared_names(condition: Condition) -> list[tuple[str, str]]:
    """Pairs of names that are compared with each other, both ways."""
    out = []
    for node in _nodes(condition):
        match node:
            case Comparison(left=Name(name=left), right=Name(name=right)):
                out += [(left, right), (right, left)]
    return out


def _compared(condition: Condition) -> Iterator[tuple[str, str]]:
    """Names of columns and the texts that they are compared with."""
    for node in _nodes(condition):
        match node:
            case Comparison(left=left, op="==" | "!=", right=right):
                yield from _pair(left, right)
                yield from _pair(right, left)
            case Membership(value=value, literals=literals):
                for literal in literals:
                    yield from _pair(value, literal)


def _pair(column: Value, text: Value) -> Iterator[tuple[str, str]]:
    match column, text:
        case Name(name=name), Literal(value=str() as value):
            yield name, value
