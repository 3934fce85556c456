"""`Where`: the filter language, from text to a condition on the columns of an index."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters.conditions import (
    SEARCHES,
    Always,
    Calculation,
    Comparison,
    Condition,
    Joined,
    Listed,
    Literal,
    Missing,
    Name,
    Not,
    Search,
    Spot,
    Value,
)
from hyperpq.store.columns import Column
from hyperpq.store.paths import Paths

LONGEST = 10_000
"""Characters of a filter."""
_NODES, _DEPTH = 5_000, 100
_ROWS = 1 << 16
"""Rows that are looked at together: their temporaries stay in the cache."""

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_CALCULATIONS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_CONDITION = "a condition such as width >= 640, folder in ('a', 'b') or startswith(path, 'x')"
_VALUE = "a column, a number, text in quotes, or + - * / of numbers"


@dataclass(frozen=True)
class Where:
    """A condition on the rows of an index, written as Python writes conditions.

    - Comparisons ``== != < <= > >=``, also chained: ``100 <= width < 200``. ``in`` and ``not in`` a
      list of literals: ``folder in ('a', 'b')``. ``and``, ``or``, ``not``, parentheses, ``True``,
      ``False``.
    - Numbers with ``+ - * /`` and a minus before them; other operators there are none. Integers are
      calculated and compared exactly, whatever their size; a division is one of float64, and what
      is divided by zero is missing. A float32 compares by its value: 0.1 isn't ``0.1`` there.
      True and False are 1 and 0.
    - ``startswith(folder, 'a')``, ``endswith`` and ``contains`` for categories and paths, or
      ``folder.startswith('a')``. Categories are ordered by Unicode code points; paths are equal to
      text or not.
    - Times compare with text in ISO 8601: ``mtime >= '2024-01-31'``, midnight, or with a time
      ``T12:00:00.5``, and that with ``Z`` or ``+01:00``; without an offset it is UTC.
    - A comparison with a missing value is False, ``!=`` and ``not in`` too. ``not`` turns an answer
      round: ``not (width > 5)`` holds for rows without a width. ``width is None`` asks for them.

    Parameters
    ----------
    text : str
        The condition, at most `LONGEST` characters.

    Attributes
    ----------
    names : frozenset of str
        The columns that it needs, among them ``id`` and ``path`` if it names them.

    Raises
    ------
    InvalidInputError
        It isn't in the language; the message says where, and what was expected.
    """

    text: str
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    _condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parser = _Parser(self.text)
        object.__setattr__(self, "_condition", parser.condition(parser.tree))
        object.__setattr__(self, "names", frozenset(parser.names))

    def mask(self, columns: Callable[[str], Column | Paths], n: int) -> NDArray[np.bool_]:
        """Which rows of one part of an index fulfil the condition.

        Parameters
        ----------
        columns : callable
            Gives each column of `names` by its name, of ``n`` values: a `Column`; for ``id``
            an int64 array, for ``path`` a `Paths`.
        n : int
            Rows.

        Returns
        -------
        ndarray, shape (n,), bool

        Raises
        ------
        InvalidInputError
            A column holds something else than the condition takes it for, or has another length;
            integers go beyond 2**127 in a calculation. And what ``columns`` raises.
        """
        got: dict[str, Column | Paths] = {}
        for name in sorted(self.names):
            got[name] = column = columns(name)
            if len(column) != n:
                raise InvalidInputError(
                    f"column {name} has {len(column)} values; expected {n}, one a row."
                )
        test = self._condition.bind(got)
        out = np.empty(n, np.bool_)
        for start in range(0, n, _ROWS):
            rows = slice(start, min(start + _ROWS, n))
            out[rows] = test(rows)
        return out


class _Parser:
    """Python's syntax tree of a text, and the few of its nodes that are in the language."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidInputError(f"where is {text!r}; expected {_CONDITION}.")
        if len(text) > LONGEST:
            raise InvalidInputError(
                f"where has {len(text)} characters; expected at most {LONGEST}. "
                "Long lists of ids are faster as an IDSelectorBatch."
            )
        self.names: set[str] = set()
        self._text = text
        # Python takes what is indented for the inside of a block.
        source = text.lstrip()
        self._lines = re.split("(?<=\n)|(?<=\r)(?!\n)", source)
        self._begin = len(text) - len(source)
        self.tree = self._parse(source)

    def _parse(self, source: str) -> ast.expr:
        try:
            tree = ast.parse(source, mode="eval").body
        except SyntaxError as error:
            place, problem = len(self._text), "the text ends too early"
            # Python puts what is missing at the end in column 0.
            if error.offset:
                place, problem = self._place(error.lineno or 1) + error.offset, error.msg
            raise InvalidInputError(
                f"where: character {place}: {problem}; expected {_CONDITION}."
            ) from None
        except (MemoryError, RecursionError):
            raise self._too_deep() from None
        except ValueError as error:
            raise InvalidInputError(
                f"where can't be read: {error}; expected {_CONDITION}."
            ) from None
        level, nodes, depth = [tree], 0, 0
        while level:
            nodes, depth = nodes + len(level), depth + 1
            if nodes > _NODES:
                raise InvalidInputError(f"where has more than {_NODES} parts; expected fewer.")
            if depth > _DEPTH:
                raise self._too_deep()
            level = [
                child
                for node in level
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.expr)
            ]
        return tree

    def condition(self, node: ast.expr) -> Condition:
        match node:
            case ast.BoolOp(op=op, values=values):
                return Joined(isinstance(op, ast.And), tuple(map(self.condition, values)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.condition(operand))
            case ast.Constant(value=bool() as answer):
                return Always(answer)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._comparison(self._spot(node), [left, *others], ops)
            case ast.Call(func=ast.Name(id=name), args=[value, text], keywords=[]):
                return self._search(node, name, value, text)
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=[text], keywords=[]):
                return self._search(node, name, value, text)
            case ast.Name(id=name):
                raise self._spot(node).error(f"a column alone; expected a comparison: {name} != 0")
        raise self._spot(node).error(f"no condition; expected {_CONDITION}")

    def value(self, node: ast.expr) -> Value:
        spot = self._spot(node)
        match node:
            case ast.Name(id=name):
                self.names.add(name)
                return Name(spot, name)
            case ast.Constant(value=float() as number) if math.isinf(number):
                raise spot.error("too large for a float; expected at most 1.7976931348623157e308")
            case ast.Constant(value=bool() as answer):
                return Literal(spot, int(answer))
            case ast.Constant(value=int() | float() | str() as literal):
                return Literal(spot, literal)
            case ast.Constant(value=None):
                raise spot.error("None stands for no value; expected `is None` or `is not None`")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATIONS:
                sides = self.value(left), self.value(right)
                return Calculation(spot, sides[0], _CALCULATIONS[type(op)], sides[1])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand)
                if isinstance(value, Literal) and not isinstance(value.value, str):
                    return Literal(spot, -value.value)
                return Calculation(spot, Literal(spot, 0), "-", value)
        raise spot.error(f"no value; expected {_VALUE}")

    def _comparison(self, spot: Spot, sides: list[ast.expr], ops: list[ast.cmpop]) -> Condition:
        match ops, sides:
            case [ast.Is() | ast.IsNot() as op], [left, ast.Constant(value=None)]:
                missing = Missing(self.value(left))
                return missing if isinstance(op, ast.Is) else Not(missing)
            case [ast.In() | ast.NotIn() as op], [left, right]:
                return Listed(spot, self.value(left), isinstance(op, ast.In), self._list(right))
        if not all(type(op) in _COMPARISONS for op in ops):
            raise spot.error(
                "expected `is None`, `is not None`, `in (...)` or `not in (...)` behind one value"
            )
        values = [self.value(side) for side in sides]
        parts = [
            Comparison(spot, left, _COMPARISONS[type(op)], right)
            for (left, right), op in zip(pairwise(values), ops, strict=True)
        ]
        return parts[0] if len(parts) == 1 else Joined(True, tuple(parts))

    def _list(self, node: ast.expr) -> tuple[Literal, ...]:
        if not isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            raise self._spot(node).error("no list; expected one such as ('a', 'b') or (1,)")
        literals = []
        for item in node.elts:
            literal = self.value(item)
            if not isinstance(literal, Literal):
                raise literal.spot.error("no literal; expected numbers or text in quotes")
            literals.append(literal)
        return tuple(literals)

    def _search(self, node: ast.expr, name: str, value: ast.expr, text: ast.expr) -> Condition:
        if name not in SEARCHES:
            raise self._spot(node).error(f"no function {name}; expected {', '.join(SEARCHES)}")
        literal = self.value(text)
        if not isinstance(literal, Literal) or not isinstance(literal.value, str):
            raise literal.spot.error(f"{name} looks for text; expected some in quotes")
        return Search(self._spot(node), name, self.value(value), literal)

    def _spot(self, node: ast.expr) -> Spot:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._place(node.lineno, node.col_offset)
        stop = self._place(node.end_lineno, node.end_col_offset)
        return Spot(self._text[start:stop], start + 1)

    def _place(self, line: int, column: int = 0) -> int:
        """Characters before a column, which Python counts in bytes of UTF-8, of a line."""
        before = sum(map(len, self._lines[: line - 1]))
        here = "".join(self._lines[line - 1 : line]).encode()[:column]
        return self._begin + before + len(here.decode())

    def _too_deep(self) -> InvalidInputError:
        return InvalidInputError(f"where is nested more than {_DEPTH} deep; expected less.")
