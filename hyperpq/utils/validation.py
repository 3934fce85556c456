"""Checks of arguments, each with one clear error before anything changes.

Every message is one sentence: what was given; what is expected; what to do.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError

C = TypeVar("C", bound=str)
_BATCH = 1 << 16  # rows that are checked at once, so that the mask of a large array stays small


def as_array(x: object, name: str) -> NDArray[Any]:
    """Return ``x`` as the array that NumPy makes of it.

    Parameters
    ----------
    x : array_like
        What was given.
    name : str
        What to call it in an error.

    Raises
    ------
    InvalidInputError
        NumPy cannot convert it, or values are masked (NumPy alone would ignore the mask).
    """
    if np.ma.is_masked(x):
        raise InvalidInputError(f"{name} has masked values; fill them or leave their rows out.")
    try:
        return np.asarray(x)
    # An object that converts itself may raise anything.
    except Exception as error:
        reason = str(error).rstrip(".")
        raise InvalidInputError(f"{name} cannot be read as an array: {reason}.") from error


def as_features(
    x: ArrayLike, d: int | None, name: str = "x", first_row: int = 0
) -> NDArray[np.float32]:
    """Return ``x`` as a C-contiguous float32 array of shape (n, d) with finite values.

    Parameters
    ----------
    x : array_like
        Anything that NumPy takes as (n, d): lists, tensors, any float or integer dtype, any order.
    d : int or None
        Expected width; None takes any width above 0.
    name : str
        What to call it in an error.
    first_row : int
        Number of its first row in an error, where ``x`` is a batch of something larger.

    Raises
    ------
    InvalidInputError
        Wrong ndim, width or dtype, or a value that is not a finite float32.
    """
    array = as_array(x, name)
    if array.dtype.kind not in "fiub":
        raise InvalidInputError(
            f"{name} has dtype {array.dtype}; expected numbers (any float or integer dtype)."
        )
    if array.ndim != 2:
        hint = "; for one vector pass x[None]" if array.ndim == 1 else ""
        raise InvalidInputError(
            f"{name} has shape {array.shape}; expected two dimensions, (n, {d or 'd'}){hint}."
        )
    if array.shape[1] == 0 or (d is not None and array.shape[1] != d):
        raise InvalidInputError(f"{name} has width {array.shape[1]}; expected {d or 'at least 1'}.")
    if array.dtype == np.float32:
        out = np.ascontiguousarray(array)
    else:
        with np.errstate(over="ignore"):
            out = np.ascontiguousarray(array, dtype=np.float32)
    for start in range(0, len(out), _BATCH):
        finite = np.isfinite(out[start : start + _BATCH])
        if not finite.all():
            row = start + int(np.argmin(finite.all(axis=1)))
            raise InvalidInputError(
                f"{name} has NaN, infinite or too large values, first in row {first_row + row}; "
                "remove or replace those rows."
            )
    return out


def as_queries(x: ArrayLike, d: int, name: str = "x") -> NDArray[np.float32]:
    """Return ``x`` as by `as_features`; a single vector of shape (d,) is one row.

    Raises
    ------
    InvalidInputError
        See `as_features`.
    """
    array = as_array(x, name)
    if array.ndim == 1 and len(array) != d:
        raise InvalidInputError(
            f"{name} has shape {array.shape}; expected one vector, ({d},), or several, (n, {d})."
        )
    return as_features(array[None] if array.ndim == 1 else array, d, name)


def as_codes(codes: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Return ``codes`` as an array of rows of bytes, shape (n, size).

    Parameters
    ----------
    codes : array_like
        What was given.
    size : int
        Bytes of a row.

    Raises
    ------
    InvalidInputError
        Another dtype or width.
    """
    array = as_array(codes, "codes")
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != size:
        raise InvalidInputError(
            f"codes have dtype {array.dtype} and shape {array.shape}; "
            f"expected uint8 of shape (n, {size})."
        )
    return array


def as_ids(ids: object, n: int | None, *, distinct: bool = True) -> NDArray[np.int64]:
    """Return ``ids`` as int64 of shape (n,), non-negative and without repeats.

    Parameters
    ----------
    ids : array_like
        Integers.
    n : int or None
        How many; None takes any number.
    distinct : bool
        False takes repeats.

    Raises
    ------
    InvalidInputError
        Wrong shape or dtype, negative or repeated ids.
    """
    array = as_array(ids, "ids")
    if array.dtype.kind not in "iu" and array.size:
        raise InvalidInputError(f"ids have dtype {array.dtype}; expected integers.")
    if n is None and array.ndim != 1:
        raise InvalidInputError(f"ids have shape {array.shape}; expected one dimension, (n,).")
    if n is not None and array.shape != (n,):
        raise InvalidInputError(f"ids have shape {array.shape}; expected ({n},), one for each row.")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise InvalidInputError(f"ids contain {array.max()}; expected at most 2**63 - 1.")
    out = array.astype(np.int64)
    if out.size and out.min() < 0:
        raise InvalidInputError(
            f"ids contain {out.min()}; expected numbers from 0 on, as -1 pads results."
        )
    if not distinct:
        return out
    ordered = np.sort(out)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if repeated.size:
        raise InvalidInputError(f"ids contain {repeated[0]} twice; expected distinct ids.")
    return out


def as_rows(rows: ArrayLike, name: str, n: int) -> NDArray[np.int64]:
    """Return ``rows`` as int64 positions from 0 to n - 1, at least one and none twice.

    Parameters
    ----------
    rows : array_like
        What was given.
    name : str
        What to call it in an error.
    n : int
        Rows that there are.

    Raises
    ------
    InvalidInputError
        Anything else.
    """
    array = as_array(rows, name)
    if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
        raise InvalidInputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected integers (v,)."
        )
    if array.min() < 0 or array.max() >= n:
        wrong = array.min() if array.min() < 0 else array.max()
        raise InvalidInputError(f"{name} contains {wrong}; expected rows of x, 0 to {n - 1}.")
    if len(np.unique(array)) < len(array):
        raise InvalidInputError(f"{name} contains a row twice; expected distinct rows.")
    return array.astype(np.int64)


def as_views(views: ArrayLike, n: int, d: int) -> NDArray[Any]:
    """Return ``views`` as an array of shape (V, n, d), V >= 1, with finite values.

    Parameters
    ----------
    views : array_like
        Features of V augmented views of n images.
    n, d : int
        How many images, and the width of their features.

    Raises
    ------
    InvalidInputError
        Another shape or dtype, or a value that is not a finite float32.
    """
    array = as_array(views, "views")
    if array.ndim != 3 or array.shape[1:] != (n, d) or not len(array):
        raise InvalidInputError(f"views have shape {array.shape}; expected (V, {n}, {d}), V >= 1.")
    for v, view in enumerate(array):
        as_features(view, d, f"views[{v}]")
    return array


def as_count(value: object, name: str, low: int = 1, high: int = np.iinfo(np.int64).max) -> int:
    """Return ``value`` as an int from ``low`` to ``high``.

    Raises
    ------
    InvalidInputError
        Not an integer, too small or too large.
    """
    number = None
    # NumPy's time differences are integers to it, but no counts.
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64)):
        number = int(value)
    if number is None or number < low:
        raise InvalidInputError(f"{name} is {value!r}; expected an integer of at least {low}.")
    if number > high:
        raise InvalidInputError(f"{name} is {value!r}; expected an integer of at most {high}.")
    return number


def as_number(value: object, name: str) -> float:
    """Return ``value`` as a float.

    Raises
    ------
    InvalidInputError
        Not a real number, NaN, or an integer that no float can hold.
    """
    number = None
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, (bool, np.timedelta64)
    ):
        try:
            number = float(value)
        except OverflowError:
            raise InvalidInputError(f"{name} is too large for a float; expected less.") from None
    if number is None:
        raise InvalidInputError(f"{name} is {value!r}; expected a number.")
    if np.isnan(number):
        raise InvalidInputError(f"{name} is NaN; expected a number.")
    return number


def as_choice(value: object, name: str, choices: tuple[C, ...], hint: str = "") -> C:
    """Return ``value``, which is one of some names.

    Parameters
    ----------
    value : object
        What was given.
    name : str
        What to call it in an error.
    choices : tuple of str
        Names that are possible.
    hint : str
        What to do otherwise, at the end of an error.

    Raises
    ------
    InvalidInputError
        Anything else.
    """
    for choice in choices:
        if isinstance(value, str) and value == choice:
            return choice
    *others, last = map(repr, choices)
    expected = f"{', '.join(others)} or {last}" if others else last
    raise InvalidInputError(f"{name} is {value!r}; expected {expected}{hint and f'; {hint}'}.")


def as_weights(weights: object, n: int) -> NDArray[np.float64]:
    """Return weights of ``n`` things as float64; all are 1 by default.

    Raises
    ------
    InvalidInputError
        Not n finite numbers, or none of them is above 0.
    """
    if weights is None:
        weights = np.ones(n)
    given = as_array(weights, "weights")
    if given.dtype.kind not in "fiu" or given.shape != (n,):
        raise InvalidInputError(
            f"weights has dtype {given.dtype} and shape {given.shape}; expected {n} numbers, one "
            "for each image or vector."
        )
    out = given.astype(np.float64)
    if not (np.isfinite(out).all() and (out > 0).any()):
        raise InvalidInputError(
            f"weights is {out.tolist()!r}; expected finite numbers, at least one of them above 0."
        )
    return out
