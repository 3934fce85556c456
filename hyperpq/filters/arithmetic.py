"""Comparisons and calculations of filters: exact for integers, without rounding or overflow.

Arrays are int64, float64, or Python integers (dtype object) beyond the range of int64. Their shape
is (n,), or () for one number. NaN is a missing number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INT64 = np.iinfo(np.int64)
_MAX_INTEGER = 2**127
"""Limit on integers, since products of products would fill the memory."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_CALCULATE: dict[str, tuple[Callable[[Any, Any], Any], Callable[[int, int], Any]]] = {
    "+": (np.add, operator.add),
    "-": (np.subtract, operator.sub),
    "*": (np.multiply, operator.mul),
    "/": (np.divide, operator.truediv),
}


def constant(value: int | float) -> NDArray[Any]:
    """One number as an array of shape ()."""
    if isinstance(value, float):
        return np.array(value, np.float64)
    return np.array(value, np.int64 if _fits(value) else object)


def missing(a: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of the missing numbers; of shape () if none can be missing."""
    return np.isnan(a) if a.dtype.kind == "f" else np.zeros((), np.bool_)


def compare(op: str, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare two numbers by their exact values; False where one of them is missing.

    Parameters
    ----------
    op : str
        ``==``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``.
    a, b : ndarray, shape (n,) or ()
    """
    x, y = _comparable(a, b), _comparable(b, a)
    kinds, function = x.dtype.kind + y.dtype.kind, _COMPARE[op]
    if "O" in kinds:
        # Python compares an integer of any size with a float exactly.
        with np.errstate(invalid="ignore"):
            out = function(x.astype(object), y.astype(object))
    elif kinds == "if":
        out = function(_sign(x, y), 0)
    elif kinds == "fi":
        out = function(0, _sign(y, x))
    else:
        out = function(x, y)
    return np.asarray(out, np.bool_) & ~missing(x) & ~missing(y)


def calculate(op: str, a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Calculate ``a op b``: exactly for integers; in float64 with a float, and for divisions.

    Parameters
    ----------
    op : str
        ``+``, ``-``, ``*`` or ``/``. The result of a division by zero is missing.
    a, b : ndarray, shape (n,) or ()

    Raises
    ------
    OverflowError
        If an integer exceeds 2**127, or is too large for the float that it becomes.
    """
    function, exactly = _CALCULATE[op]
    if op == "/" or "f" in (a.dtype.kind, b.dtype.kind):
        x, y = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
        with np.errstate(all="ignore"):
            out = np.asarray(function(x, y))
        return np.where(y == 0, np.nan, out) if op == "/" else out
    # Sums, differences and products have their extremes at those of the operands.
    corners = [exactly(x, y) for x in _bounds(a) for y in _bounds(b)]
    if max(map(abs, corners)) > _MAX_INTEGER:
        raise OverflowError("integers that may exceed 2**127")
    small = all(map(_fits, corners))
    if small and a.dtype.kind == b.dtype.kind == "i":
        return np.asarray(function(a, b))
    out = np.asarray(function(a.astype(object), b.astype(object)), object)
    return out.astype(np.int64) if small else out


def is_in(a: NDArray[Any], values: Sequence[int | float]) -> NDArray[np.bool_]:
    """Mask of the numbers in ``a`` that equal one of some finite numbers, by exact value."""
    if a.dtype.kind == "O":
        return np.asarray(np.frompyfunc(set(values).__contains__, 1, 1)(a), np.bool_)
    if a.dtype.kind == "i":
        same: list[Any] = [int(v) for v in values if v == int(v) and _fits(int(v))]
    else:
        same = [float(v) for v in values if _is_float(v)]
    return np.isin(a, np.array(same, a.dtype))


def _fits(value: int) -> bool:
    return _INT64.min <= value <= _INT64.max


def _is_float(value: int | float) -> bool:
    try:
        return float(value) == value
    except OverflowError:
        return False


def _bounds(a: NDArray[Any]) -> tuple[int, int]:
    return (int(a.min()), int(a.max())) if a.size else (0, 0)


def _comparable(a: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Replace one integer beyond int64, compared with int64, by an infinity: the same result."""
    if a.dtype.kind == "O" and a.ndim == 0 and other.dtype.kind == "i":
        return np.array(np.inf if a.item() > 0 else -np.inf)
    return a


def _sign(ints: NDArray[Any], floats: NDArray[Any]) -> NDArray[np.int8]:
    """Sign of int64 minus float64 numbers: -1, 0 or 1, exact.

    Rounding an integer to float64 never takes it past another float64, so numbers that differ after
    rounding differ in the same way before. Numbers that are equal after rounding are compared as
    integers.
    """
    rounded = ints.astype(np.float64)
    differ = (rounded > floats).astype(np.int8) - (rounded < floats)
    # 2**63 is the only float64 beyond int64 that int64 numbers are rounded to.
    above = floats >= 2.0**63
    equal = (rounded == floats) & ~above
    whole = np.where(equal, floats, 0).astype(np.int64)
    exact = (ints > whole).astype(np.int8) - (ints < whole)
    return np.where(equal, exact, np.where(above, np.int8(-1), differ))
