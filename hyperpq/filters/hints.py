"""What is probably a mistake in a condition: names of columns and values that no row has."""

from __future__ import annotations

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
    Value,
)
from hyperpq.utils.suggest import closest


def unknown_column(name: str, columns: Iterable[str]) -> InvalidInputError:
    """The error for a name in a condition that is no column of the index."""
    known = sorted(columns)
    near = closest(name, known)
    quoted = f"text is written in quotes, as in folder == '{name}'."
    hint = f"did you mean {near}?" if near else quoted
    return InvalidInputError(
        f"where names {name!r}, which is no column of the index; expected one of "
        f"{', '.join(known)}; {hint}"
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


def _compared(condition: Condition) -> Iterator[tuple[str, str]]:
    """Names of columns and the texts that they are compared with."""
    match condition:
        case BooleanOperation(conditions=parts):
            for part in parts:
                yield from _compared(part)
        case Not(condition=part):
            yield from _compared(part)
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
