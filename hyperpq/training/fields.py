"""Fields of frozen settings: each has a default and a check of whatever is given instead.

`CheckedSettings` runs the checks when an object is made, so that settings that exist are valid and
consist of plain Python values, which JSON can hold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeVar, get_args

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_choice

C = TypeVar("C", bound=str)
T = TypeVar("T")
# Key of a field's check in its metadata.
_CHECK = "check"


@dataclass(frozen=True)
class CheckedSettings:
    """Base of frozen dataclasses whose fields are made by the functions of this module."""

    def __post_init__(self) -> None:
        """Check every field, in order.

        Raises
        ------
        InvalidInputError
            The message names the field, its value and what is expected.
        """
        for one in dataclasses.fields(self):
            if _CHECK in one.metadata:
                value = one.metadata[_CHECK](one.name, getattr(self, one.name))
                object.__setattr__(self, one.name, value)


@dataclass(frozen=True)
class Bounds:
    """An interval of numbers.

    Attributes
    ----------
    low, high : float
        Its ends.
    low_open, high_open : bool
        Whether the end itself is outside.
    """

    low: float = 0
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise `InvalidInputError` if a value is outside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        if not (above and below):
            raise InvalidInputError(f"{name} is {value}; expected {self}.")

    def __str__(self) -> str:
        """The interval in words."""
        if self.high == math.inf:
            return f"more than {self.low:g}" if self.low_open else f"{self.low:g} or more"
        return f"{self.low:g} to {'below ' if self.high_open else ''}{self.high:g}"


# Of numbers that may be 0, of numbers that may not, and of shares.
NOT_NEGATIVE, POSITIVE, SHARE = Bounds(), Bounds(low_open=True), Bounds(high=1)


def as_whole(name: str, value: object) -> int:
    """Return a whole number as an int; a bool is none."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise InvalidInputError(f"{name} is {value!r}; expected a whole number.")


def as_real(name: str, value: object) -> float:
    """Return a finite number as a float; a bool is none."""
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise InvalidInputError(f"{name} is {value!r}; expected a finite number.")


def whole(default: int, bounds: Bounds = NOT_NEGATIVE) -> int:
    """A field for a whole number."""

    def check(name: str, value: object) -> int:
        number = as_whole(name, value)
        bounds.check(name, number)
        return number

    return _field(default, check)


def optional_whole(bounds: Bounds = NOT_NEGATIVE) -> int | None:
    """A field for a whole number or None, which is its default."""

    def check(name: str, value: object) -> int | None:
        if value is None:
            return None
        number = as_whole(name, value)
        bounds.check(name, number)
        return number

    return _field(None, check)


def wholes(default: tuple[int, ...]) -> tuple[int, ...]:
    """A field for a tuple of whole numbers; a list is taken as well."""

    def check(name: str, value: object) -> tuple[int, ...]:
        if not isinstance(value, (tuple, list)):
            raise InvalidInputError(f"{name} is {value!r}; expected a tuple of whole numbers.")
        return tuple(as_whole(name, item) for item in value)

    return _field(default, check)


def real(default: float, bounds: Bounds = NOT_NEGATIVE) -> float:
    """A field for a finite number."""

    def check(name: str, value: object) -> float:
        number = as_real(name, value)
        bounds.check(name, number)
        return number

    return _field(default, check)


def flag(default: bool) -> bool:
    """A field for True or False."""

    def check(name: str, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise InvalidInputError(f"{name} is {value!r}; expected True or False.")

    return _field(default, check)


def text(default: str) -> str:
    """A field for any string."""

    def check(name: str, value: object) -> str:
        if isinstance(value, str):
            return value
        raise InvalidInputError(f"{name} is {value!r}; expected a string.")

    return _field(default, check)


def choice(default: C, kind: object) -> C:
    """A field for one of the strings of a ``Literal``."""
    choices: tuple[C, ...] = get_args(kind)

    def check(name: str, value: object) -> C:
        return as_choice(value, name, choices)

    return _field(default, check)


def _field(default: T, check: Callable[[str, object], T]) -> T:
    return dataclasses.field(default=default, metadata={_CHECK: check})
