"""`Where`: a condition on the columns of an index, parsed from text."""

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
    TEXT_FUNCTIONS,
    BooleanOperation,
    Calculation,
    Comparison,
    Condition,
    Constant,
    IsNone,
    Literal,
    Membership,
    Name,
    Not,
    Span,
    TextSearch,
    Value,
)
from hyperpq.store.columns import Column
from hyperpq.store.paths import Paths

MAX_LENGTH = 10_000
"""Limit on the characters of a filter."""
# Limits on the nodes of a syntax tree, and on how deep they are nested.
_MAX_NODES, _MAX_DEPTH = 5_000, 100
# Rows of a batch, whose temporary arrays stay in the cache.
_BATCH = 1 << 16

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
    """A condition on the rows of an index, in a subset of Python's expressions.

    - Comparisons are ``== != < <= > >=``, which can be chained: ``100 <= width < 200``; and ``in``
      and ``not in`` with a list of literals: ``folder in ('a', 'b')``. Conditions are combined by
      ``and``, ``or``, ``not`` and parentheses; ``True`` and ``False`` are conditions.
    - Numbers are calculated by ``+ - * /`` and a minus sign; there are no other operators. Integers
      are calculated and compared exactly, whatever their size. A division gives a float64; the
      result of a division by zero is missing. A float32 is compared by its value, so that the
      float32 0.1 does not equal ``0.1``. True and False are 1 and 0.
    - ``startswith(folder, 'a')``, ``endswith`` and ``contains`` search categories and paths;
      ``folder.startswith('a')`` is the same. Categories are ordered by Unicode code points. Paths
      can only be compared by ``==``, ``!=`` and ``in``.
    - Times are compared with text in ISO 8601: ``mtime >= '2024-01-31'``, which is midnight, or
      with a time such as ``T12:00:00.5``, which ``Z`` or ``+01:00`` can follow. Without an offset
      the time is UTC.
    - A comparison with a missing value is False, also with ``!=`` and ``not in``. ``not`` inverts a
      condition, so ``not (width > 5)`` holds for rows without a width. ``width is None`` selects
      these rows.

    Parameters
    ----------
    text : str
        The condition, of at most `MAX_LENGTH` characters.

    Attributes
    ----------
    names : frozenset of str
        The columns that the condition needs, with ``id`` and ``path`` if it names them.

    Raises
    ------
    InvalidInputError
        If the text is not such a condition; the message names the place and what is expected.
    """

    text: str
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    _condition: Condition = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parser = _Parser(self.text)
        object.__setattr__(self, "_condition", parser.condition(parser.tree))
        object.__setattr__(self, "names", frozenset(parser.names))

    @property
    def root(self) -> Condition:
        """The condition as a tree of nodes."""
        return self._condition

    def mask(self, columns: Callable[[str], Column | Paths], n: int) -> NDArray[np.bool_]:
        """Mask of the rows of one segment that fulfil the condition.

        Parameters
        ----------
        columns : callable
            Returns each column of `names` by its name, with ``n`` values: a `Column`, an int64
            array for ``id``, and a `Paths` for ``path``.
        n : int
            Number of rows.

        Returns
        -------
        ndarray, shape (n,), bool

        Raises
        ------
        InvalidInputError
            If a column is not of the type that the condition needs or has another length, or
            integers exceed 2**127 in a calculation; and what ``columns`` raises.
        """
        got: dict[str, Column | Paths] = {}
        for name in sorted(self.names):
            got[name] = column = columns(name)
            if len(column) != n:
                raise InvalidInputError(
                    f"column {name} has {len(column)} values; expected {n}, one for each row."
                )
        test = self._condition.bind(got)
        out = np.empty(n, np.bool_)
        for start in range(0, n, _BATCH):
            rows = slice(start, min(start + _BATCH, n))
            out[rows] = test(rows)
        return out


def _hint(text: str) -> str:
    """What to write instead of an operator of another language, or nothing."""
    words = _LITERAL.sub("", text)
    if _ASSIGNMENT.search(words):
        return "; equality is written =="
    if _OTHER_OPERATOR.search(words):
        return "; conditions are combined by and, or and not, in lower case"
    return ""


_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_ASSIGNMENT = re.compile(r"(?<![=!<>])=(?!=)")
_OTHER_OPERATOR = re.compile(r"\b(?:AND|OR|NOT|And|Or|Not)\b|[&|]|!(?!=)")


class _Parser:
    """Converts the nodes of Python's syntax tree that the filter language has; refuses others."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidInputError(f"where is {text!r}; expected {_CONDITION}.")
        if len(text) > MAX_LENGTH:
            raise InvalidInputError(
                f"where has {len(text)} characters; expected at most {MAX_LENGTH}; pass a long "
                "list of ids as an IDSelectorBatch."
            )
        self.names: set[str] = set()
        self._text = text
        # Python would take indented text for the inside of a block.
        source = text.lstrip()
        self._lines = re.split("(?<=\n)|(?<=\r)(?!\n)", source)
        self._begin = len(text) - len(source)
        self.tree = self._parse(source)

    def _parse(self, source: str) -> ast.expr:
        try:
            tree = ast.parse(source, mode="eval").body
        except SyntaxError as error:
            place, problem = len(self._text), "the text ends too early"
            # For text that ends too early, Python reports column 0.
            if error.offset:
                place, problem = self._offset(error.lineno or 1) + error.offset, error.msg
            raise InvalidInputError(
                f"where: character {place}: {problem}; expected {_CONDITION}{_hint(source)}."
            ) from None
        except (MemoryError, RecursionError):
            raise self._too_deep() from None
        except ValueError as error:
            raise InvalidInputError(
                f"where cannot be read ({error}); expected {_CONDITION}."
            ) from None
        level, nodes, depth = [tree], 0, 0
        while level:
            nodes, depth = nodes + len(level), depth + 1
            if nodes > _MAX_NODES:
                raise InvalidInputError(f"where has more than {_MAX_NODES} parts; expected fewer.")
            if depth > _MAX_DEPTH:
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
                return BooleanOperation(isinstance(op, ast.And), tuple(map(self.condition, values)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Not(self.condition(operand))
            case ast.Constant(value=bool() as answer):
                return Constant(answer)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._comparison(self._span(node), [left, *others], ops)
            case ast.Call(func=ast.Name(id=name), args=[value, text], keywords=[]):
                return self._search(node, name, value, text)
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=[text], keywords=[]):
                return self._search(node, name, value, text)
            case ast.Name(id=name):
                raise self._span(node).error(
                    f"is only a column; expected a comparison, such as {name} != 0 or {name} == 'a'"
                )
        raise self._span(node).error(
            f"is not a condition; expected {_CONDITION}{_hint(self._text)}"
        )

    def value(self, node: ast.expr) -> Value:
        span = self._span(node)
        match node:
            case ast.Name(id=name):
                self.names.add(name)
                return Name(span, name)
            case ast.Constant(value=float() as number) if math.isinf(number):
                raise span.error(
                    "is too large for a float; expected at most 1.7976931348623157e308"
                )
            case ast.Constant(value=bool() as answer):
                return Literal(span, int(answer))
            case ast.Constant(value=int() | float() | str() as literal):
                return Literal(span, literal)
            case ast.Constant(value=None):
                raise span.error("cannot be compared; expected `is None` or `is not None`")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATIONS:
                sides = self.value(left), self.value(right)
                return Calculation(span, sides[0], _CALCULATIONS[type(op)], sides[1])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand)
                if isinstance(value, Literal) and not isinstance(value.value, str):
                    return Literal(span, -value.value)
                return Calculation(span, Literal(span, 0), "-", value)
        raise span.error(f"is not a value; expected {_VALUE}{_hint(self._text)}")

    def _comparison(self, span: Span, sides: list[ast.expr], ops: list[ast.cmpop]) -> Condition:
        match ops, sides:
            case [ast.Is() | ast.IsNot() as op], [left, ast.Constant(value=None)]:
                missing = IsNone(self.value(left))
                return missing if isinstance(op, ast.Is) else Not(missing)
            case [ast.In() | ast.NotIn() as op], [left, right]:
                return Membership(span, self.value(left), isinstance(op, ast.In), self._list(right))
        if not all(type(op) in _COMPARISONS for op in ops):
            raise span.error(
                "is a comparison that filters do not have; expected `is None`, `is not None`, "
                "`in (...)` or `not in (...)` after a single value"
            )
        values = [self.value(side) for side in sides]
        parts = [
            Comparison(span, left, _COMPARISONS[type(op)], right)
            for (left, right), op in zip(pairwise(values), ops, strict=True)
        ]
        return parts[0] if len(parts) == 1 else BooleanOperation(True, tuple(parts))

    def _list(self, node: ast.expr) -> tuple[Literal, ...]:
        if not isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            raise self._span(node).error("is not a list; expected one such as ('a', 'b') or (1,)")
        literals = []
        for item in node.elts:
            literal = self.value(item)
            if not isinstance(literal, Literal):
                raise literal.span.error("is not a literal; expected numbers or text in quotes")
            literals.append(literal)
        return tuple(literals)

    def _search(self, node: ast.expr, name: str, value: ast.expr, text: ast.expr) -> Condition:
        if name not in TEXT_FUNCTIONS:
            raise self._span(node).error(
                f"calls {name}, which is not a function of filters; expected "
                f"{', '.join(TEXT_FUNCTIONS)}"
            )
        literal = self.value(text)
        if not isinstance(literal, Literal) or not isinstance(literal.value, str):
            raise literal.span.error(f"is not text; expected text in quotes for {name}")
        return TextSearch(self._span(node), name, self.value(value), literal)

    def _span(self, node: ast.expr) -> Span:
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        stop = self._offset(node.end_lineno, node.end_col_offset)
        return Span(self._text[start:stop], start + 1)

    def _offset(self, line: int, column: int = 0) -> int:
        """Number of characters before a column of a line, which Python counts in UTF-8 bytes."""
        before = sum(map(len, self._lines[: line - 1]))
        here = "".join(self._lines[line - 1 : line]).encode()[:column]
        return self._begin + before + len(here.decode())

    def _too_deep(self) -> InvalidInputError:
        return InvalidInputError(
            f"where is nested more than {_MAX_DEPTH} levels deep; expected fewer levels."
        )
