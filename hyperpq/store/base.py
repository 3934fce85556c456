"""What every segment and every store offers: the protocols `Segment` and `Store`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment, TiledCodes
from hyperpq.store.columns import Column
from hyperpq.store.grouping import CellNumbers, Grouping
from hyperpq.store.rows import Rows
from hyperpq.store.segments import (
    check_kept,
    conform_rows,
    find_ids,
    plan_append,
    plan_compaction,
)
from hyperpq.store.strings import Strings

Deletions: TypeAlias = Mapping[int, NDArray[np.int64]]
"""Position of a segment in its store to the numbers of rows to delete."""


class Segment(Protocol):
    """Rows of a store, in the order of their ids: `Rows` in memory, a `Shard` on disk.

    A segment never changes. To delete rows a store replaces it by another one, which still has the
    deleted rows or has them no longer.
    """

    @property
    def n(self) -> int:
        """Number of rows, deleted ones included."""

    @property
    def n_live(self) -> int:
        """Number of rows that are not deleted."""

    @property
    def code_size(self) -> int:
        """Bytes of one row of codes."""

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes, shape (n, code_size), uint8."""

    @property
    def tiled(self) -> TiledCodes:
        """The codes in the layout that is stored and scanned, those of a cell together."""

    @property
    def n_cells(self) -> int:
        """Number of cells that codes are grouped by; 0 if they are not."""

    @property
    def cells(self) -> CellNumbers | None:
        """The cell of each row, or None."""

    @property
    def grouping(self) -> Grouping | None:
        """Where the codes of the rows are in `tiled`; None where they are in the order of rows."""

    def scanned(self, mask: NDArray[np.bool_] | None = None) -> CodeSegment:
        """The rows as the scan reads them.

        Parameters
        ----------
        mask : ndarray, shape (n,), bool, optional
            Which of them are searched; by default those that are not deleted.
        """

    @property
    def live_bits(self) -> NDArray[np.uint64] | None:
        """Bits of the rows that are not deleted, in the order of `tiled`; None if no row is."""

    def codes_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Codes (r, code_size) of some rows, by their numbers."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids, shape (n,), int64, ascending."""

    @property
    def deleted_rows(self) -> NDArray[np.int64]:
        """Numbers of the deleted rows, shape (n - n_live,), int64, ascending."""

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""

    def attribute(self, name: str) -> Column:
        """The column ``name``, shape (n,).

        Raises
        ------
        InvalidInputError
            There is no such column.
        """

    def attribute_at(self, name: str, rows: NDArray[np.int64]) -> Column:
        """Values of some rows, by their numbers."""

    @property
    def path_strings(self) -> Strings | None:
        """All paths as they are stored, or None."""

    @property
    def paths(self) -> list[bytes] | None:
        """All paths, or None."""

    def path(self, row: int) -> bytes:
        """Path of one row.

        Raises
        ------
        InvalidInputError
            There are no paths, or there is no such row.
        """

    @property
    def feature_size(self) -> int:
        """Bytes of the features of one row; 0 if there are none."""

    @property
    def features(self) -> NDArray[np.uint8] | None:
        """Features, shape (n, feature_size), uint8, or None; a scan never reads them."""

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each id, shape (len(ids),), int64; -1 where there is none or it is deleted."""

    def take(self, rows: NDArray[np.int64], *, features: bool = True) -> Rows:
        """Some of the rows in memory, by their numbers.

        Parameters
        ----------
        rows : ndarray, shape (r,), int64
            Row numbers.
        features : bool
            False leaves the features out, and does not read them.
        """


class Store(Protocol):
    """Rows with distinct ids, in segments.

    A store implements `segments`, `next_id` and `commit`; the other members follow from these. They
    work on the list of segments alone, see `hyperpq.store.segments`.
    """

    @property
    @abstractmethod
    def segments(self) -> Sequence[Segment]:
        """The rows, deleted ones included, in the order in which they were added."""

    @property
    @abstractmethod
    def next_id(self) -> int:
        """The next id to give to a row, as the last commit set it."""

    @abstractmethod
    def commit(
        self,
        *,
        append: Iterable[Rows] = (),
        delete: Deletions | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
    ) -> None:
        """Append segments, delete rows and drop whole segments, all or nothing.

        Parameters
        ----------
        append : iterable of Rows
            Each becomes a segment at the end. All of a store have one code size, one schema and
            one feature size. One at a time is asked for and stored.
        delete : mapping of int to integer ndarray, optional
            Position of a segment to numbers of rows to delete; rows that are deleted already may be
            among them. A segment without a row left goes.
        drop : iterable of int
            Positions of segments to leave out.
        next_id : int, optional
            New value of `next_id`, which is kept unless given.

        Raises
        ------
        InvalidInputError
            An argument does not fit the store. Nothing was changed.
        """

    @property
    def ntotal(self) -> int:
        """Number of rows that are not deleted."""
        return sum(segment.n_live for segment in self.segments)

    @property
    def n_deleted(self) -> int:
        """Number of rows that are deleted and still take space."""
        return sum(segment.n for segment in self.segments) - self.ntotal

    @property
    def schema(self) -> dict[str, str] | None:
        """Kind of each attribute column, see `Segment.schema`; None while there is no segment."""
        return self.segments[0].schema if self.segments else None

    @property
    def feature_size(self) -> int | None:
        """Bytes of the features of one row, 0 if there are none; None while there is no segment."""
        return self.segments[0].feature_size if self.segments else None

    def find(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], Segment]]:
        """Where rows with these ids lie, segment by segment.

        Parameters
        ----------
        ids : ndarray, shape (n,), int64
            In any order.

        Yields
        ------
        position, rows, segment : int, ndarray (n,) int64, Segment
            Row of each id in the segment, -1 where it is not in it. Segments without any of the ids
            are left out.
        """
        return find_ids(self.segments, ids)

    def conform(self, rows: Rows) -> Rows:
        """Return the rows with columns of the kinds that the store has.

        Raises
        ------
        InvalidInputError
            They have other columns, or values that do not fit.
        """
        return conform_rows(rows, self.schema)

    def append(
        self, rows: Rows, delete: Deletions | None = None, next_id: int | None = None
    ) -> None:
        """Append rows and delete others, all or nothing.

        Small segments at the end are joined with the new rows, so that many small additions do not
        make many segments, see `segments.plan_append`.

        Parameters
        ----------
        rows : Rows
            Their ids are not among the live ones, or are deleted by the same call.
        delete, next_id
            See `commit`.

        Raises
        ------
        InvalidInputError
            The rows have other columns, features of another size or other cells than the store.
            Nothing was changed.
        """
        if rows.n:
            if self.segments:
                check_kept(rows, self.segments[0])
            change = plan_append(self.segments, self.conform(rows), delete or {})
            self.commit(
                append=change.append, delete=change.delete, drop=change.drop, next_id=next_id
            )
        else:
            self.commit(delete=delete, next_id=next_id)

    def compact(self) -> bool:
        """Join small segments and leave out deleted rows; whether there was anything to do.

        One segment of the result is in memory at a time. Ids, and so every answer, stay.
        """
        change = plan_compaction(self.segments)
        if change is not None:
            self.commit(append=change.append, drop=change.drop)
        return change is not None
