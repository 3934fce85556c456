"""Which rows are searched: FAISS's selectors of ids, and `SearchParameters`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters.where import Where
from hyperpq.store.rows import rows_of
from hyperpq.utils.validation import as_array, as_count

_INT64 = np.iinfo(np.int64)


class IDSelector(ABC):
    """A set of ids."""

    @abstractmethod
    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask of the ids that are in the set.

        Parameters
        ----------
        ids : ndarray, shape (n,), int64
            Ascending and distinct, like the ids of a segment.

        Returns
        -------
        ndarray, shape (n,), bool
        """

    def is_member(self, id: int) -> bool:
        """Whether one id is in the set."""
        one = as_count(id, "id", int(_INT64.min))
        return bool(self.mask(np.array([one], np.int64))[0])


@dataclass(frozen=True)
class IDSelectorRange(IDSelector):
    """Ids from ``imin`` to ``imax - 1``; none if ``imax`` is not above ``imin``.

    ``assume_sorted`` is FAISS's and changes nothing: the ids of an index are always in order.
    """

    imin: int
    imax: int
    assume_sorted: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.assume_sorted, (bool, np.bool_)):
            raise InvalidInputError(
                f"assume_sorted is {self.assume_sorted!r}; expected True or False."
            )
        for name in ("imin", "imax"):
            value = as_count(getattr(self, name), name, int(_INT64.min))
            object.__setattr__(self, name, value)

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        out = np.zeros(len(ids), np.bool_)
        out[slice(*np.searchsorted(ids, [self.imin, self.imax]))] = True
        return out


class IDSelectorArray(IDSelector):
    """The given ids.

    Parameters
    ----------
    ids : array_like, shape (v,), integers
        In any order, repeats allowed.

    Raises
    ------
    InvalidInputError
        If the shape or dtype is another, or a number is beyond int64.
    """

    def __init__(self, ids: Any) -> None:
        array = as_array(ids, "ids")
        if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
            raise InvalidInputError(
                f"ids have shape {array.shape} and dtype {array.dtype}; expected integers (v,)."
            )
        if array.dtype.kind == "u" and array.size and int(array.max()) > _INT64.max:
            raise InvalidInputError(f"ids go up to {array.max()}; the largest id is 2**63 - 1.")
        self.ids: NDArray[np.int64] = np.unique(array.astype(np.int64))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.ids)} ids)"

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        # The shorter array is searched for in the longer one.
        if len(ids) < len(self.ids):
            return rows_of(ids, self.ids) >= 0
        out = np.zeros(len(ids), np.bool_)
        rows = rows_of(self.ids, ids)
        out[rows[rows >= 0]] = True
        return out


class IDSelectorBatch(IDSelectorArray):
    """The given ids, like `IDSelectorArray`; FAISS has this name for large sets of ids."""


class IDSelectorBitmap(IDSelector):
    """The ids whose bits are set.

    Parameters
    ----------
    bits : array_like, shape (bytes,), uint8, or (v,), bool
        Id i is bit ``i % 8`` of byte ``i // 8``, the lowest bit first; or element i of a bool
        array.

    Raises
    ------
    InvalidInputError
        If the shape or dtype is another.
    """

    def __init__(self, bits: Any) -> None:
        array = as_array(bits, "bits")
        if array.ndim != 1 or array.dtype not in (np.uint8, np.bool_):
            raise InvalidInputError(
                f"bits have shape {array.shape} and dtype {array.dtype}; "
                "expected uint8 (bytes,) or bool (v,)."
            )
        packed = array.dtype == np.uint8
        self.bits: NDArray[np.uint8] = (
            array.copy() if packed else np.packbits(array, bitorder="little")
        )

    def __repr__(self) -> str:
        return f"IDSelectorBitmap({len(self.bits)} bytes)"

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        out = np.zeros(len(ids), np.bool_)
        rows = slice(*np.searchsorted(ids, [0, 8 * len(self.bits)]))
        inside = ids[rows]
        out[rows] = self.bits[inside >> 3] >> (inside & 7).astype(np.uint8) & 1
        return out


@dataclass(frozen=True)
class IDSelectorAll(IDSelector):
    """Every id."""

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        return np.ones(len(ids), np.bool_)


@dataclass(frozen=True)
class IDSelectorNot(IDSelector):
    """The ids that are not in ``sel``."""

    sel: IDSelector

    def __post_init__(self) -> None:
        _check(self.sel, "sel")

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        return ~self.sel.mask(ids)


@dataclass(frozen=True)
class _Two(IDSelector):
    lhs: IDSelector
    rhs: IDSelector

    def __post_init__(self) -> None:
        _check(self.lhs, "lhs")
        _check(self.rhs, "rhs")


class IDSelectorAnd(_Two):
    """The ids that are in ``lhs`` and in ``rhs``."""

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        return self.lhs.mask(ids) & self.rhs.mask(ids)


class IDSelectorOr(_Two):
    """The ids that are in ``lhs``, in ``rhs`` or in both."""

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        return self.lhs.mask(ids) | self.rhs.mask(ids)


class IDSelectorXOr(_Two):
    """The ids that are in ``lhs`` or in ``rhs``, but not in both."""

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:  # noqa: D102
        return self.lhs.mask(ids) ^ self.rhs.mask(ids)


class SearchParameters:
    """Which rows are searched: those that both parameters select; all rows by default.

    As in FAISS, parameters can also be assigned: ``params = SearchParameters(); params.sel = sel``.
    A search sees the values that they have when it begins.

    Parameters
    ----------
    sel : IDSelector, optional
        Selects rows by their ids.
    where : str or Where, optional
        Selects rows by their attributes and paths; text is parsed at once.

    Raises
    ------
    InvalidInputError
        If a parameter is of another type, or the text is not a condition; also when it is assigned.
    """

    # No others can be assigned: a misspelt or unknown parameter is an error.
    __slots__ = ("_sel", "_where")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, sel: IDSelector | None = None, where: str | Where | None = None) -> None:
        self.sel = sel
        self.where = where

    @property
    def sel(self) -> IDSelector | None:
        """The selector of ids."""
        return self._sel

    @sel.setter
    def sel(self, value: IDSelector | None) -> None:
        if value is not None:
            _check(value, "sel")
        self._sel = value

    @property
    def where(self) -> Where | None:
        """The condition."""
        return self._where

    @where.setter
    def where(self, value: str | Where | None) -> None:
        self._where = value if value is None or isinstance(value, Where) else Where(value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchParameters):
            return NotImplemented
        return (self.sel, self.where) == (other.sel, other.where)

    def __repr__(self) -> str:
        return f"SearchParameters(sel={self.sel!r}, where={self.where!r})"


def as_parameters(params: SearchParameters | None, where: str | Where | None) -> SearchParameters:
    """The two filter arguments of a search as one object.

    Raises
    ------
    InvalidInputError
        If an argument is of another type, or both have a condition.
    """
    if params is not None and not isinstance(params, SearchParameters):
        raise InvalidInputError(f"params is {params!r}; expected SearchParameters(sel=...).")
    if params is None:
        return SearchParameters(where=where)
    if where is None:
        # Another thread may assign to what was given.
        return SearchParameters(params.sel, params.where)
    if params.where is not None:
        raise InvalidInputError("where is given twice, in params too; expected one of them.")
    return SearchParameters(params.sel, where)


def _check(value: object, name: str) -> None:
    if not isinstance(value, IDSelector):
        raise InvalidInputError(f"{name} is {value!r}; expected an IDSelector of hyperpq.")
