"""`RowView`: rows of a collection at one moment, selected by ids and filters, and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codes import CodeSegment, row_bits
from hyperpq.errors import InvalidInputError, UnknownIdError
from hyperpq.filters.selectors import SearchParameters, as_parameters
from hyperpq.filters.where import Where
from hyperpq.index.directory import DirectoryReference
from hyperpq.index.stats import column_bytes
from hyperpq.store import Categories, Column, IndexStore, Rows, Segment, Store, live_batches
from hyperpq.store.columns import concatenate
from hyperpq.store.paths import Paths
from hyperpq.utils.validation import as_ids

# Rows of a batch unless told otherwise.
_BATCH = 1 << 20


class RowView:
    """The rows of a `Collection` as they were when `Collection.view` was called; read-only.

    Several reads of one view agree with each other, whatever other threads change meanwhile. No row
    is copied for it.

    Attributes
    ----------
    code_size : int
        Bytes of one code.
    """

    def __init__(self, code_size: int, store: Store) -> None:
        self.code_size = code_size
        self._store = store

    def __getstate__(self) -> dict[str, Any]:
        # Of rows in a directory their place, as mapped files cannot be pickled.
        store = self._store
        kept = DirectoryReference.of(store) if isinstance(store, IndexStore) else store
        return {"code_size": self.code_size, "store": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state["store"]
        opened = kept.open() if isinstance(kept, DirectoryReference) else kept
        RowView.__init__(self, state["code_size"], opened)

    def __len__(self) -> int:
        return self.ntotal

    def __contains__(self, id: object) -> bool:
        """Whether there is a row with an id; nothing but an integer can be one."""
        if isinstance(id, np.ndarray) and id.ndim:
            raise InvalidInputError(
                f"id is {id!r}; expected an integer; for several ids use np.isin(ids, rows.ids)."
            )
        if not isinstance(id, (int, np.integer)) or isinstance(id, (bool, np.timedelta64)):
            return False
        if not 0 <= id <= np.iinfo(np.int64).max:
            return False
        return any(True for _ in self._store.find(np.array([id], np.int64)))

    def __iter__(self) -> Iterator[int]:
        """The ids, ascending."""
        return iter(self.ids.tolist())

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        return self._store.ntotal

    @property
    def n_deleted(self) -> int:
        """Number of deleted rows that take space until `Collection.compact` drops them."""
        return self._store.n_deleted

    @property
    def n_segments(self) -> int:
        """Number of segments that the rows are stored in."""
        return len(self._store.segments)

    @property
    def next_id(self) -> int:
        """Id of the next row that is added without an id."""
        return self._store.next_id

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns, sorted."""
        segments = self._store.segments
        return segments[0].attribute_names if segments else []

    def column_bytes(self) -> dict[str, int]:
        """Bytes of codes, ids, attributes and paths, see `IndexStats`; none is read."""
        return column_bytes(self._store.segments)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all rows, shape (ntotal,), int64, ascending."""
        return self.select()

    def select(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> NDArray[np.int64]:
        """Ids of the rows that both arguments select, see `HiHPQIndex.search`.

        Returns
        -------
        ndarray, shape (n,), int64
            Ascending.
        """
        given = as_parameters(params, where)
        ids = [segment.ids[selected(segment, given)] for segment in self._store.segments]
        return np.sort(np.concatenate([np.empty(0, np.int64), *ids]))

    def code_segments(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> list[CodeSegment]:
        """The rows that both arguments select, as the scan reads them.

        Segments without such a row are left out. Codes are not copied.
        """
        given = as_parameters(params, where)
        if given.sel is None and given.where is None:
            return [CodeSegment(s.tiled, s.ids, s.live_bits) for s in self._store.segments]
        out = []
        for segment in self._store.segments:
            # Only the bits of each segment are kept, an eighth of its mask.
            mask = selected(segment, given)
            if mask.any():
                out.append(CodeSegment(segment.tiled, segment.ids, row_bits(mask)))
        return out

    def codes_of(self, ids: ArrayLike) -> NDArray[np.uint8]:
        """Codes (n, code_size) of the rows with some ids, in their order.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        """
        labels = as_ids(ids, None, distinct=False)
        codes = np.empty((len(labels), self.code_size), np.uint8)
        missing = np.ones(len(labels), bool)
        for _, rows, segment in self._store.find(labels):
            here = rows >= 0
            codes[here] = segment.tiled.take(rows[here])
            missing &= ~here
        refuse_missing(labels, missing)
        return codes

    def paths_of(self, ids: ArrayLike) -> list[bytes]:
        """Paths of the rows with some ids, in their order; no other path is read.

        Raises
        ------
        UnknownIdError
            If there is no row with one of the ids.
        InvalidInputError
            If the rows have no paths.
        """
        labels = as_ids(ids, None, distinct=False)
        found: dict[int, bytes] = {}
        missing = np.ones(len(labels), bool)
        for _, rows, segment in self._store.find(labels):
            for position in np.flatnonzero(rows >= 0).tolist():
                found[position] = segment.path(int(rows[position]))
            missing &= rows < 0
        refuse_missing(labels, missing)
        return [found[position] for position in range(len(labels))]

    def attributes_of(self, ids: ArrayLike) -> dict[str, NDArray[Any]]:
        """Attributes of the rows with some ids, see `HiHPQIndex.attributes_of`."""
        labels = as_ids(ids, None, distinct=False)
        order = np.full(len(labels), -1, np.int64)
        found: dict[str, list[Column]] = {name: [] for name in self.attribute_names}
        count = 0
        for _, rows, segment in self._store.find(labels):
            here = np.flatnonzero(rows >= 0)
            for name, columns in found.items():
                columns.append(segment.attribute_at(name, rows[here]))
            order[here] = np.arange(count, count + len(here))
            count += len(here)
        refuse_missing(labels, order < 0)
        return {name: _values(columns, order) for name, columns in found.items() if columns}

    def batches(self, size: int = _BATCH) -> Iterator[Rows]:
        """All rows in batches of at most ``size``, one after another copied into memory.

        Yields
        ------
        Rows
            With ``ids``, ``codes`` (n, code_size), ``paths`` and ``attributes``.
        """
        return live_batches(self._store.segments, size)


def selected(segment: Segment, params: SearchParameters) -> NDArray[np.bool_]:
    """Mask (n,) of the rows of a segment that are not deleted and that ``params`` selects."""

    def column(name: str) -> Column | Paths:
        if name == "id":
            return segment.ids
        if name == "path" and segment.path_strings is not None:
            return Paths(segment.path_strings.offsets, segment.path_strings.blob)
        if name not in segment.schema:
            columns = ", ".join(sorted({"id", *segment.schema}))
            raise InvalidInputError(
                f"where names {name!r}, which is no column of the index; expected one of "
                f"{columns}; text is written in quotes, as in folder == '{name}'."
            )
        return segment.attribute(name)

    mask = np.ones(segment.n, bool)
    mask[segment.deleted_rows] = False
    if params.sel is not None:
        mask &= params.sel.mask(segment.ids)
    if params.where is not None:
        mask &= params.where.mask(column, segment.n)
    return mask


def refuse_missing(ids: NDArray[np.int64], missing: NDArray[np.bool_]) -> None:
    """Raise `UnknownIdError` that names the first id that is missing, if one is."""
    if missing.any():
        raise UnknownIdError(
            f"id is {ids[missing][0]}; the index has no vector with it; expected ids of the index."
        )


def _values(columns: list[Column], order: NDArray[np.int64]) -> NDArray[Any]:
    column = concatenate(columns)[order]
    if isinstance(column, Categories):
        return np.array([*column.strings(), None], object)[:-1]
    return np.asarray(column)
