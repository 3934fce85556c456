"""What can be done with a list of segments: finding rows, and planning how to join and compact.

Nothing here changes a store. A plan is a `Change`, which the store commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store.columns import conform
from hyperpq.store.rows import Rows

if TYPE_CHECKING:
    from hyperpq.store.base import Deletions, Segment

MAX_JOINED_ROWS = 1 << 18
"""Rows of a segment that appending makes from others: it never writes a large one again."""
MAX_COMPACTED_ROWS = 1 << 20
"""Rows of a segment that compaction makes from others, and that are in memory at once."""
MAX_JOINED_FEATURES = 1 << 27
"""Bytes of features of a segment that appending makes from others.

A row with features has 0.5 to 5 kB, so a bound on rows alone would allow gigabytes. Joining holds
them in memory twice: 256 MB. A higher bound makes single additions slow, and a lower one leaves
many files: at 1.3 kB a row, 10 million rows that were added 4,096 at a time are 153 segments. Each
of them holds a file descriptor, of which some systems give a process 256."""
MAX_COMPACTED_FEATURES = 1 << 28
"""Bytes of features of a segment that compaction makes from others, and of a batch of rows."""
MAX_GROUPED_BYTES = 1 << 28
"""Bytes of a segment that compaction makes of rows that are grouped by cell and have nothing but
codes and ids, where that is more than `MAX_COMPACTED_ROWS`.

A search reads a cell in every segment. With 10 million codes of 8 bytes in 8,192 cells, a query of
96 cells takes 140 us in one segment and 240 us in ten."""


@dataclass(frozen=True)
class Change:
    """What a commit does to the segments of a store; see `Store.commit`."""

    append: Iterable[Rows]
    drop: Sequence[int]
    delete: Deletions = field(default_factory=dict)


def find_ids(
    segments: Iterable[Segment], ids: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64], Segment]]:
    """Where rows with these ids lie; see `Store.find`."""
    # A binary search for ascending ids stays where the last one ended, mostly in the cache.
    is_ascending = bool((ids[1:] >= ids[:-1]).all())
    order = None if is_ascending else np.argsort(ids)
    ascending = ids if order is None else ids[order]
    for position, segment in enumerate(segments):
        found = segment.find(ascending)
        if (found >= 0).any():
            rows = found
            if order is not None:
                rows = np.empty_like(found)
                rows[order] = found
            yield position, rows, segment


def live_batches(
    segments: Iterable[Segment], max_rows: int = MAX_COMPACTED_ROWS, *, features: bool = True
) -> Iterator[Rows]:
    """The rows that are not deleted, batch by batch in memory.

    Parameters
    ----------
    segments : iterable of Segment
        The rows.
    max_rows : int
        Rows of a batch; features are at most `MAX_COMPACTED_FEATURES` bytes, too.
    features : bool
        False leaves the features out, and does not read them.

    Yields
    ------
    Rows
        At least one row of one segment.
    """
    for segment in segments:
        size = segment.feature_size if features else 0
        step = _bounded(max_rows, MAX_COMPACTED_FEATURES, size)
        for start in range(0, segment.n, step):
            rows = live_rows(segment, start, min(start + step, segment.n))
            if len(rows):
                yield segment.take(rows, features=features)


def _bounded(max_rows: int, max_features: int, feature_size: int) -> int:
    """How many rows have at most ``max_features`` bytes of features; 1 to ``max_rows``."""
    return min(max_rows, max(1, max_features // feature_size)) if feature_size else max_rows


def live_rows(
    segment: Segment, start: int, stop: int, without: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Numbers of the rows from start to stop that are neither deleted nor among ``without``."""
    keep = np.ones(stop - start, bool)
    for deleted in (segment.deleted_rows, without):
        if deleted is not None:
            keep[deleted[(deleted >= start) & (deleted < stop)] - start] = False
    return np.flatnonzero(keep) + start


def live_at(segment: Segment, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the rows at some positions among those that are not deleted."""
    deleted = segment.deleted_rows
    # How many of these lie before each deleted row.
    before = deleted - np.arange(len(deleted))
    return positions + np.searchsorted(before, positions, side="right")


def plan_append(segments: Sequence[Segment], rows: Rows, delete: Deletions) -> Change:
    """Append rows, joined with small segments at the end.

    Each row is moved at most 18 times in its life, and a store of n rows that grew one by one has
    about n / 262,144 + 18 segments, or more and smaller ones if the rows have features, see
    `MAX_JOINED_FEATURES`.

    Parameters
    ----------
    segments : sequence of Segment
        What the store has.
    rows : Rows
        At least one, with the columns of the segments.
    delete : mapping of int to integer ndarray
        See `Store.commit`.

    Returns
    -------
    Change
    """
    delete = dict(delete)
    max_rows = _bounded(MAX_JOINED_ROWS, MAX_JOINED_FEATURES, rows.feature_size)
    start = _first_joined(segments, rows.n, max_rows)
    joined = [
        segment.take(live_rows(segment, 0, segment.n, delete.pop(position, None)))
        for position, segment in enumerate(segments[start:], start)
    ]
    merged = Rows.merge([*(some for some in joined if some.n), rows])
    return Change([merged], range(start, len(segments)), delete)


def _first_joined(segments: Sequence[Segment], total: int, max_rows: int) -> int:
    """Position from which segments are joined with ``total`` new rows: none is larger."""
    start = len(segments)
    while start and segments[start - 1].n_live <= min(total, max_rows - total):
        start -= 1
        total += segments[start].n_live
    return start


def plan_compaction(segments: Sequence[Segment]) -> Change | None:
    """Join small neighbouring segments and leave out deleted rows; None if nothing is to be done.

    Parameters
    ----------
    segments : sequence of Segment
        What the store has.

    Returns
    -------
    Change or None
        The new segments are made while ``append`` is iterated.
    """
    runs = [run for run in _runs(segments) if len(run) > 1 or _has_deleted(segments[run[0]])]
    if not runs:
        return None
    return Change(_joined(segments, runs), [position for run in runs for position in run])


def joined(segments: Sequence[Segment], *, grouped: bool = False) -> Iterator[Rows]:
    """All rows that are not deleted, in as few batches as compaction makes of them.

    Parameters
    ----------
    segments : sequence of Segment
        The rows.
    grouped : bool
        Whether they will be grouped by cell.
    """
    return _joined(segments, _runs(segments, grouped), grouped)


def _joined(
    segments: Sequence[Segment], runs: list[list[int]], grouped: bool = False
) -> Iterator[Rows]:
    def merged(run: list[int]) -> Iterator[Rows]:
        if len(run) == 1:
            return live_batches([segments[run[0]]], _most_rows(segments[run[0]], grouped))
        return iter([Rows.merge(list(live_batches([segments[p] for p in run])))])

    # A generator here would hold on to a segment while it makes the next one.
    return chain.from_iterable(map(merged, runs))


def _runs(segments: Sequence[Segment], grouped: bool = False) -> list[list[int]]:
    """Positions of neighbouring segments that fit into one."""
    runs: list[list[int]] = []
    free = 0
    for position, segment in enumerate(segments):
        if segment.n_live > free:
            runs.append([])
            free = _most_rows(segment, grouped)
        runs[-1].append(position)
        free -= segment.n_live
    return runs


def _most_rows(segment: Segment, grouped: bool) -> int:
    """Rows of a segment that compaction makes of one and its neighbours."""
    if (grouped or segment.n_cells) and not segment.schema and not segment.feature_size:
        return max(MAX_COMPACTED_ROWS, MAX_GROUPED_BYTES // (segment.code_size + 8))
    return _bounded(MAX_COMPACTED_ROWS, MAX_COMPACTED_FEATURES, segment.feature_size)


def _has_deleted(segment: Segment) -> bool:
    return segment.n_live < segment.n


def conform_rows(rows: Rows, schema: Mapping[str, str] | None) -> Rows:
    """Return rows with columns of the kinds of a schema; see `Store.conform`."""
    if schema is None or rows.schema == schema:
        return rows
    if schema.keys() != rows.schema.keys():
        names = ", ".join(sorted(schema))
        raise InvalidInputError(
            f"attributes are {', '.join(sorted(rows.schema)) or 'none'}; expected "
            + (f"{names}, as the index has them." if names else "none, as the index has none.")
        )
    columns = {
        name: conform(name, column, schema[name]) for name, column in rows.attributes.items()
    }
    return Rows(rows.codes, rows.ids, columns, rows.path_strings, rows.features, rows.cells)


def check_deletions(segments: Sequence[Segment], delete: Deletions) -> dict[int, NDArray[np.int64]]:
    """The rows to delete as int64, after checking that the segments have them.

    Raises
    ------
    InvalidInputError
        A segment or a row is not there, or row numbers are no integers.
    """
    checked = {}
    for position, given in delete.items():
        check_position(segments, position, "delete")
        rows, n = np.asarray(given), segments[position].n
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise InvalidInputError(
                f"delete has {rows.dtype} {rows.shape} for segment {position}; expected integers "
                "(r,)."
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < n:
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise InvalidInputError(
                f"delete has row {wrong} of segment {position}; expected 0 to {n - 1}."
            )
        checked[position] = rows.astype(np.int64)
    return checked


def check_position(segments: Sequence[Segment], position: int, name: str) -> None:
    """Raise `InvalidInputError` unless a store has a segment at ``position``."""
    if not 0 <= position < len(segments):
        raise InvalidInputError(
            f"{name} has segment {position}; expected a position below {len(segments)}."
        )


def check_appended(rows: Rows, first: Segment) -> None:
    """Raise `InvalidInputError` unless rows can be in one store with a segment."""
    if (rows.code_size, rows.schema) != (first.code_size, first.schema):
        raise InvalidInputError(
            f"append has code_size {rows.code_size} and columns {rows.schema}; expected "
            f"{first.code_size} and {first.schema}, as the store has."
        )
    check_kept(rows, first)


def check_kept(rows: Rows, first: Segment) -> None:
    """Raise `InvalidInputError` unless rows have features and cells as a segment of the store."""
    if rows.n_cells != first.n_cells:
        raise InvalidInputError(
            f"rows are in {rows.n_cells or 'no'} cells; expected {first.n_cells or 'none'}, as the "
            "store has."
        )
    given, kept = rows.feature_size, first.feature_size
    if given != kept:
        raise InvalidInputError(
            (f"features have {given} bytes a row; " if given else "features are missing; ")
            + (f"expected {kept} bytes, as the index has." if kept else "the index has none.")
        )


def check_next_id(next_id: int) -> int:
    """Return an id to count on from, or raise `InvalidInputError`."""
    most = np.iinfo(np.int64).max
    if not 0 <= int(next_id) <= most:
        raise InvalidInputError(f"next_id is {next_id}; expected 0 to {most}.")
    return int(next_id)
