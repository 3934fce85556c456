"""`MemoryStore`: rows in memory."""

from __future__ import annotations

from collections.abc import Iterable

from hyperpq.store.base import Deletions, Store
from hyperpq.store.rows import Rows
from hyperpq.store.segments import (
    check_appended,
    check_deletions,
    check_next_id,
    check_position,
    live_rows,
)


class MemoryStore(Store):
    """A store of which nothing is on disk. Deleted rows leave it at once."""

    def __init__(self) -> None:
        # In one attribute, so that another thread never sees half of a commit.
        self._state: tuple[tuple[Rows, ...], int] = ((), 0)

    def __repr__(self) -> str:
        return f"MemoryStore(ntotal={self.ntotal})"

    @property
    def segments(self) -> tuple[Rows, ...]:
        """The rows, in the order in which they were added."""
        return self._state[0]

    @property
    def next_id(self) -> int:
        """The next id to give to a row, as the last commit set it."""
        return self._state[1]

    def commit(
        self,
        *,
        append: Iterable[Rows] = (),
        delete: Deletions | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
    ) -> None:
        """Append segments, delete rows and drop whole segments; see `Store.commit`."""
        segments, counter = self._state
        counter = counter if next_id is None else check_next_id(next_id)
        deletions, dropped = check_deletions(segments, delete or {}), set(drop)
        for position in dropped:
            check_position(segments, position, "drop")
        kept: list[Rows] = []
        for position, segment in enumerate(segments):
            if position in dropped:
                continue
            if position in deletions:
                segment = segment.take(live_rows(segment, 0, segment.n, deletions[position]))
                if not segment.n:
                    continue
            kept.append(segment)
        for rows in append:
            if kept:
                check_appended(rows, kept[0])
            kept.append(rows)
        self._state = tuple(kept), counter
