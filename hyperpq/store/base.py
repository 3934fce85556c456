"""`RowStore`: rows by their ids, whether they lie in memory or on disk; and `MemoryStore`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store.columns import conform
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard

Piece: TypeAlias = Rows | Shard
"""Some rows of a store, in the order of their ids."""
_Numbers: TypeAlias = NDArray[np.int64]
Removal: TypeAlias = Mapping[int, _Numbers]
"""Position of a piece to the numbers of its rows."""

# Rows up to which appending joins what is there: a large piece is never written again by it.
_JOINED = 1 << 18
# Rows of the pieces that `compact` makes, which has one of them in memory.
_COMPACT = 1 << 20


class RowStore(ABC):
    """Rows with distinct ids, in pieces.

    `append` joins small pieces at the end, so that many small additions don't make many pieces:
    each row is moved at most 18 times in its life, and a store of n rows that grew one by one has
    about n / 262,144 + 18 pieces.
    """

    @property
    @abstractmethod
    def pieces(self) -> Sequence[Piece]:
        """The rows, removed ones included."""

    @property
    @abstractmethod
    def next_id(self) -> int:
        """The next id to give to a row."""

    @abstractmethod
    def commit(
        self,
        *,
        append: Iterable[Rows] = (),
        remove: Removal | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
    ) -> None:
        """Append pieces, remove rows and drop whole pieces, all or nothing.

        Parameters
        ----------
        append : iterable of Rows
            Each becomes a piece at the end. They have one code size and one schema.
        remove : mapping of int to integer ndarray, optional
            Position of a piece to numbers of rows to remove; rows that are removed already may be
            among them. A piece without a row left goes.
        drop : iterable of int
            Positions of pieces to leave out.
        next_id : int, optional
            New value of `next_id`; kept unless given.
        """

    @property
    def ntotal(self) -> int:
        """Number of rows that are not removed."""
        return sum(piece.live for piece in self.pieces)

    @property
    def removed(self) -> int:
        """Number of rows that are removed and still take room."""
        return sum(piece.n for piece in self.pieces) - self.ntotal

    @property
    def schema(self) -> dict[str, str] | None:
        """Kind of each attribute column, ``path`` among them; None while there are no rows."""
        return self.pieces[0].schema if self.pieces else None

    def find(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64], Piece]]:
        """Where rows with these ids lie, piece by piece.

        Yields
        ------
        position, rows, piece : int, ndarray (n,) int64, Rows or Shard
            Row of each id in the piece, -1 where it isn't in it. Pieces without any are left out.
        """
        # A binary search for ascending ids stays where the last one ended, mostly in the cache.
        order = np.argsort(ids)
        ascending = ids[order]
        for position, piece in enumerate(self.pieces):
            found = piece.find(ascending)
            if (found >= 0).any():
                rows = np.empty_like(found)
                rows[order] = found
                yield position, rows, piece

    def append(self, rows: Rows, remove: Removal | None = None, next_id: int | None = None) -> None:
        """Append rows and remove others, all or nothing.

        Raises
        ------
        InvalidInputError
            The rows have other columns than those that are there.
        """
        remove = dict(remove or {})
        if not rows.n:
            return self.commit(remove=remove, next_id=next_id)
        rows = self.conform(rows)
        start = self._first_joined(rows.n)
        joined = [
            piece.take(_left(piece, 0, piece.n, remove.pop(position, None)))
            for position, piece in enumerate(self.pieces[start:], start)
        ]
        self.commit(
            append=[Rows.merge([*(part for part in joined if part.n), rows])],
            remove=remove,
            drop=range(start, len(self.pieces)),
            next_id=next_id,
        )

    def _first_joined(self, total: int) -> int:
        """Position from which pieces are joined with ``total`` new rows: none that is larger."""
        start = len(self.pieces)
        while start and self.pieces[start - 1].live <= min(total, _JOINED - total):
            start -= 1
            total += self.pieces[start].live
        return start

    def conform(self, rows: Rows) -> Rows:
        """The rows with columns of the kinds that are there.

        Raises
        ------
        InvalidInputError
            They have other columns, or values that don't fit.
        """
        schema = self.schema
        if schema is None or rows.schema == schema:
            return rows
        missing, extra = schema.keys() - rows.schema.keys(), rows.schema.keys() - schema.keys()
        if missing or extra:
            raise InvalidInputError(
                f"attributes are {', '.join(sorted(rows.schema)) or 'none'}; "
                f"expected {', '.join(sorted(schema)) or 'none'}, as the index has them."
            )
        columns = {
            name: conform(name, column, schema[name]) for name, column in rows.attributes.items()
        }
        return Rows(rows.codes, rows.ids, columns, rows.path_strings)

    def compact(self) -> bool:
        """Join small pieces and drop removed rows; whether there was anything to do.

        One piece of the result is in memory at a time. Ids, and so every answer, stay.
        """
        groups = [group for group in self._groups() if self._is_loose(group)]
        if not groups:
            return False
        # A generator here would hold on to a piece while it makes the next one.
        merged = chain.from_iterable(map(self._merged, groups))
        self.commit(append=merged, drop=[position for group in groups for position in group])
        return True

    def _merged(self, group: list[int]) -> Iterator[Rows]:
        if len(group) == 1:
            return live_blocks([self.pieces[group[0]]])
        return iter([Rows.merge(list(live_blocks([self.pieces[p] for p in group])))])

    def _groups(self) -> list[list[int]]:
        """Neighbouring pieces that fit into one."""
        groups: list[list[int]] = []
        room = 0
        for position, piece in enumerate(self.pieces):
            if piece.live > room:
                groups.append([])
                room = _COMPACT
            groups[-1].append(position)
            room -= piece.live
        return groups

    def _is_loose(self, group: list[int]) -> bool:
        return len(group) > 1 or self.pieces[group[0]].live < self.pieces[group[0]].n


def _left(piece: Piece, start: int, stop: int, without: _Numbers | None = None) -> _Numbers:
    """Numbers of the rows from start to stop that aren't removed, nor among ``without``."""
    keep = np.ones(stop - start, bool)
    for gone in (piece.dead_rows, without):
        if gone is not None:
            keep[gone[(gone >= start) & (gone < stop)] - start] = False
    return np.flatnonzero(keep) + start


def live_blocks(pieces: Iterable[Piece], size: int = _COMPACT) -> Iterator[Rows]:
    """The rows that aren't removed, in memory, at most ``size`` at a time."""
    for piece in pieces:
        for start in range(0, piece.n, size):
            rows = _left(piece, start, min(start + size, piece.n))
            if len(rows):
                yield piece.take(rows)


class MemoryStore(RowStore):
    """Rows in memory."""

    def __init__(self) -> None:
        self._pieces: list[Rows] = []
        self._next_id = 0

    @property
    def pieces(self) -> list[Rows]:  # noqa: D102
        return self._pieces

    @property
    def next_id(self) -> int:  # noqa: D102
        return self._next_id

    def commit(  # noqa: D102
        self,
        *,
        append: Iterable[Rows] = (),
        remove: Removal | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
    ) -> None:
        remove, dropped = remove or {}, set(drop)
        kept = []
        for position, piece in enumerate(self._pieces):
            gone = remove.get(position)
            if position not in dropped:
                kept.append(piece if gone is None else piece.take(_left(piece, 0, piece.n, gone)))
        self._pieces = [piece for piece in [*kept, *append] if piece.n]
        self._next_id = self._next_id if next_id is None else next_id
