"""`RowChanges`: adding, replacing and removing rows, each change in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError, SnapshotChangedError
from hyperpq.filters.selectors import IDSelector, IDSelectorArray, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.holder import SnapshotHolder
from hyperpq.index.lookup import refuse_missing
from hyperpq.index.path_map import PathMap
from hyperpq.index.searcher import trained
from hyperpq.index.selection import selected
from hyperpq.store import Column, Rows
from hyperpq.store.strings import Strings
from hyperpq.utils.validation import as_array, as_codes, as_ids

if TYPE_CHECKING:
    from hyperpq.index.index_codec import IndexCodec

MAX_ID = np.iinfo(np.int64).max
"""The largest id."""


class RowChanges(SnapshotHolder):
    """The changes of a `Collection` that are about some of its rows."""

    def new_ids(self, ids: ArrayLike | None, n: int) -> NDArray[np.int64]:
        """Ids (n,) int64 for new rows: those given, checked, or the next ones if None."""
        return self._new_ids(ids, n, np.empty(0, np.int64))

    def check_new(
        self, n: int, ids: ArrayLike | None = None, attributes: Mapping[str, Any] | None = None
    ) -> Mapping[str, Column]:
        """Check ids and attributes of n new rows before the work of encoding them.

        Returns
        -------
        mapping of str to Column
            The attributes, as `add` takes them.

        Raises
        ------
        InvalidInputError
            If `add` would refuse them.
        """
        with self._writing():
            if self._follows():
                self.refresh()
        labels = self.new_ids(ids, n)
        if not n:
            return {}
        # Ids in order, so that attributes stay in the order of the caller.
        rows = Rows(np.zeros((n, self.code_size), np.uint8), np.sort(labels), attributes)
        return self._store.conform(rows).attributes

    def add(
        self,
        codes: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        attributes: Mapping[str, Any] | None = None,
        paths: Sequence[bytes] | None = None,
        features: NDArray[np.uint8] | None = None,
        remove: ArrayLike | None = None,
        codec: IndexCodec | None = None,
    ) -> None:
        """Add rows, and remove others in the same transaction.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            Codes by the codec of the index.
        ids : array_like, shape (n,), optional
            Distinct ids that are not in the collection; the next ones by default.
        attributes : mapping of str to array_like, each shape (n,), optional
            Columns, the same ones as those of the rows that are there.
        paths : sequence of bytes, optional
            One path for each row, as `os.fsencode` returns it.
        features : ndarray, shape (n, feature_size), uint8, optional
            Kept features, as the `FeatureCodec` of the collection encodes them, if it has one.
        remove : array_like of int, optional
            Ids of rows to remove. New rows can have these ids.
        codec : IndexCodec, optional
            The codec that made the codes; the one that is shown now by default.

        Raises
        ------
        InvalidInputError
            Nothing was changed.
        SnapshotChangedError
            The codec was replaced meanwhile, by another process or thread; nothing was changed.
        StoreError
            The system refused; nothing was changed.
        """
        made_by, given = self._codes_by(codec, codes)
        kept = self._as_kept(features, len(given))
        old = np.empty(0, np.int64) if remove is None else as_ids(remove, None, distinct=False)

        def change() -> None:
            labels = self._new_ids(ids, len(given), old)
            rows = Rows(given, labels, attributes, self._stored_paths(paths), kept)
            columns = _copied(rows.attributes)
            self._append(Rows(rows.codes, rows.ids, columns, rows.path_strings, rows.features), old)

        self._change(change, made_by)

    def update(
        self,
        ids: ArrayLike,
        codes: ArrayLike,
        *,
        attributes: Mapping[str, Any] | None = None,
        features: NDArray[np.uint8] | None = None,
        codec: IndexCodec | None = None,
    ) -> None:
        """Replace the codes of rows, their kept features and some attributes; paths stay.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the collection, each once.
        codes : array_like, shape (n, code_size), uint8
            New codes.
        attributes : mapping of str to array_like, each shape (n,), optional
            New values of some columns.
        features, codec
            As in `add`.

        Raises
        ------
        InvalidInputError, SnapshotChangedError
            Nothing was changed.
        """
        made_by, given = self._codes_by(codec, codes)
        labels = as_ids(ids, len(given))
        vectors = self._as_kept(features, len(given))

        def change() -> None:
            kept = self._rows_of(labels)
            if kept is None:
                return
            new = Rows(given, labels, attributes, features=vectors)
            columns = _with_new(kept, new)
            self._append(
                Rows(new.codes, kept.ids, columns, kept.path_strings, new.features), labels
            )

        self._change(change, made_by)

    def relabel(
        self,
        ids: ArrayLike,
        *,
        paths: Sequence[bytes],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the paths of rows and some attributes; codes and kept features stay.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the collection, each once.
        paths : sequence of bytes
            New paths, n of them.
        attributes : mapping of str to array_like, each shape (n,), optional
            New values of some columns.

        Raises
        ------
        InvalidInputError
            Nothing was changed.
        """
        labels = as_ids(ids, len(paths))

        def change() -> None:
            kept = self._rows_of(labels, features=True)
            if kept is None:
                return
            # The rows of the store are in the order of their ids.
            codes = np.empty((len(labels), self.code_size), np.uint8)
            new = Rows(codes, labels, attributes, self._stored_paths(paths))
            columns = _with_new(kept, new)
            self._append(
                Rows(kept.codes, kept.ids, columns, new.path_strings, kept.features, kept.cells),
                labels,
            )

        self._change(change)

    def remove(
        self,
        ids: Any | None = None,
        *,
        where: str | Where | None = None,
        missing_ok: bool = True,
    ) -> int:
        """Remove rows, see `HiHPQIndex.remove_ids`; how many there were.

        Unless ``missing_ok``, an `UnknownIdError` is raised if an id is not there, and nothing is
        removed.
        """
        if ids is None and where is None:
            raise InvalidInputError(
                "neither ids nor where is given; expected one of them; to remove all rows call "
                "reset()."
            )
        if not isinstance(ids, IDSelector | None) and as_array(ids, "ids").ndim == 0:
            raise InvalidInputError(
                f"ids are {ids!r}; expected an array of integers, or an IDSelector of hyperpq, "
                "such as hyperpq.IDSelectorRange(0, 3)."
            )

        def change() -> int:
            if where is None and not isinstance(ids, IDSelector):
                labels = np.unique(as_ids(ids, None, distinct=False))
                deleted = self._positions(labels)
                if not missing_ok:
                    found = [self._store.segments[p].ids[rows] for p, rows in deleted.items()]
                    known = np.concatenate([np.empty(0, np.int64), *found])
                    refuse_missing(labels, ~np.isin(labels, known))
            else:
                sel = ids if ids is None or isinstance(ids, IDSelector) else IDSelectorArray(ids)
                params, deleted = SearchParameters(sel, where), {}
                path_map = PathMap.of(self._store)
                for position, segment in enumerate(self._store.segments):
                    rows = np.flatnonzero(selected(segment, params, path_map))
                    if len(rows):
                        deleted[position] = rows
            if deleted:
                self._store.commit(delete=deleted)
            return sum(map(len, deleted.values()))

        return self._change(change)

    def with_codec(self, change: Callable[[IndexCodec], None]) -> None:
        """Make a change that stores codes of a codec, again if that is replaced meanwhile.

        Raises
        ------
        NotTrainedError
            If there is no codec that is trained.
        """
        codec = trained(self.held)
        try:
            change(codec)
        except SnapshotChangedError:
            if self.held is codec:
                raise
            with self.exclusive():
                change(trained(self.held))

    def _codes_by(
        self, codec: IndexCodec | None, codes: ArrayLike
    ) -> tuple[IndexCodec | None, NDArray[np.uint8]]:
        """Codes (n, code_size) of a codec, by default that of the rows, and that codec."""
        shown = self._shown
        # Another thread may have given the rows a codec of another length.
        size = shown.code_size if codec is None else codec.code_size
        return codec or shown.codec, as_codes(codes, size).copy()

    def _as_kept(self, features: NDArray[np.uint8] | None, n: int) -> NDArray[np.uint8] | None:
        """Kept features of n rows, as this collection wants them."""
        kept = self.feature_codec
        if kept is None:
            if features is not None:
                raise InvalidInputError(
                    "features are given for an index that keeps none; expected none; leave them "
                    "out, or make an index with features='int8'."
                )
            return None
        if features is None:
            raise InvalidInputError(
                f"codes are given without features, but the index keeps features of the kind "
                f"{kept.kind!r}; expected vectors; call add(x) or update(x, ids) of the index."
            )
        array = as_array(features, "features")
        if array.dtype != np.uint8 or array.shape != (n, kept.size):
            raise InvalidInputError(
                f"features have dtype {array.dtype} and shape {array.shape}; expected uint8 of "
                f"shape ({n}, {kept.size}), as FeatureCodec.encode returns them."
            )
        return array.copy()

    def _new_ids(
        self, ids: ArrayLike | None, n: int, removed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if ids is None:
            if self.next_id > MAX_ID - n:
                raise InvalidInputError(
                    f"ids cannot be counted on from {self.next_id}; expected at most 2**63 - 1; "
                    "pass ids of your own."
                )
            return np.arange(self.next_id, self.next_id + n, dtype=np.int64)
        labels = as_ids(ids, n)
        for _, rows, _ in self._store.find(labels):
            taken = labels[rows >= 0]
            taken = taken[~np.isin(taken, removed)]
            if len(taken):
                raise InvalidInputError(
                    f"ids contain {taken[0]}, which the index has already; expected new ids."
                )
        return labels

    def _rows_of(self, labels: NDArray[np.int64], *, features: bool = False) -> Rows | None:
        """The rows with some ids, all of which must be there; None for no ids."""
        found = self._store.find(labels)
        taken = [
            segment.take(np.sort(rows[rows >= 0]), features=features) for _, rows, segment in found
        ]
        known = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows in taken)])
        refuse_missing(labels, ~np.isin(labels, known))
        return Rows.merge(taken) if taken else None

    def _positions(self, labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Position of each segment that has some of the ids to the numbers of those rows."""
        return {position: rows[rows >= 0] for position, rows, _ in self._store.find(labels)}

    def _stored_paths(
        self, paths: Strings | Sequence[bytes] | None
    ) -> Strings | Sequence[bytes] | None:
        """Paths as this collection stores them."""
        path_map = PathMap.of(self._store)
        if paths is None or not path_map.pairs:
            return paths
        shown = paths.tolist() if isinstance(paths, Strings) else paths
        return [path_map.stored(path) for path in shown]

    def _append(self, rows: Rows, remove: NDArray[np.int64]) -> None:
        last = int(rows.ids[-1]) if rows.n else -1
        deleted = self._positions(remove) if len(remove) else {}
        self._store.append(self._grouped(rows), deleted, self._next_after(last))

    def _next_after(self, last: int) -> int:
        """`next_id` once ``last`` is the highest id that was added."""
        return max(self.next_id, min(last, MAX_ID - 1) + 1)


def _with_new(kept: Rows, new: Rows) -> dict[str, Column]:
    """The attributes of rows with new values of some columns, which both have in one order."""
    if unknown := new.attributes.keys() - kept.attributes.keys():
        names = ", ".join(kept.attribute_names)
        has = f"expected {names}, as the index has" if names else "the index has none"
        raise InvalidInputError(
            f"attributes have {min(unknown)}; {has}; rows get their attributes when they are added."
        )
    return {**kept.attributes, **_copied(new.attributes)}


def _copied(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Columns that their owner cannot change any more."""
    return {name: column[np.arange(len(column))] for name, column in columns.items()}
