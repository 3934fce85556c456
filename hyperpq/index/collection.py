"""`Collection`: the rows of an index, in memory or in a directory, and how they change."""

from __future__ import annotations

import copy
import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.filters.selectors import IDSelector, IDSelectorArray, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.directory import DirectoryReference, write_directory
from hyperpq.index.metadata import as_metadata, read_only
from hyperpq.index.stats import IndexStats
from hyperpq.index.view import RowView, refuse_missing, selected
from hyperpq.store import Column, IndexStore, MemoryStore, Rows, Store
from hyperpq.utils.files import os_errors
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.validation import as_array, as_codes, as_count, as_ids

T = TypeVar("T")
_MAX_ID = np.iinfo(np.int64).max


class Collection:
    """Coded rows with ids, attributes and paths, in memory or in an index directory.

    `HiHPQIndex` holds a collection and the codec of its codes. Rows are read through `view`. Every
    change is one transaction: it takes place completely or not at all, and in a directory it is
    durable when the call returns.

    Parameters
    ----------
    code_size : int
        Bytes of one code.
    store : MemoryStore or IndexStore, optional
        Where the rows are; in memory by default.

    Attributes
    ----------
    code_size : int
        Bytes of one code.

    Notes
    -----
    Changes by several threads take place one after another. A view shows the rows before or after
    a change, never a part of it.

    Where another process has changed the directory meanwhile, `add`, `update`, `remove`, `merge`
    and `compact` are made to what it has stored, which this object then shows: ids by default are
    counted on from there, and given ids and columns are checked against it. A change waits up to
    `IndexStore.lock_timeout` seconds while another process is writing. `reset` and an assignment to
    `metadata` would undo what the caller has not seen, and raise `SnapshotChangedError` instead.

    A pickle of a collection in a directory has its path and not its rows. It shows the same
    snapshot, or the newest one if files of that are gone. A collection in memory is pickled whole.
    """

    def __init__(self, code_size: int, store: Store | None = None) -> None:
        self.code_size = code_size
        self._store: Store = MemoryStore() if store is None else store
        self._metadata: dict[str, Any] = {}
        self._changing = ForkSafeLock()
        # The thread that stays on its snapshot. A child that another thread forks has none.
        self._pinned_by: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        reference = self.reference
        if reference is not None:
            return {"code_size": self.code_size, "reference": reference}
        # A lock cannot be copied, and no thread of this process is in another one.
        kept = self.__dict__.keys() - {"_changing", "_pinned_by"}
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reference = state.pop("reference", None)
        if reference is None:
            self.__dict__ |= state
            self._changing, self._pinned_by = ForkSafeLock(), None
        else:
            Collection.__init__(self, state["code_size"], reference.open())

    def __copy__(self) -> Collection:
        # Rows never change, so that two collections can have the same ones.
        other = Collection(self.code_size, copy.copy(self._store))
        other._metadata = self._metadata
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Collection:
        return self.__copy__()

    def view(self) -> RowView:
        """The rows as they are now, to be selected and read."""
        return RowView(self.code_size, copy.copy(self._store))

    @property
    def path(self) -> Path | None:
        """Directory of the rows; None in memory."""
        return self._directory.path if self._directory else None

    @property
    def reference(self) -> DirectoryReference | None:
        """What another process needs to open the same rows; None in memory."""
        return DirectoryReference.of(self._directory) if self._directory else None

    @property
    def read_only(self) -> bool:
        """Whether every change is refused."""
        return bool(self._directory and self._directory.read_only)

    @property
    def snapshot(self) -> int:
        """Number of the snapshot in use, which each commit raises by one; 0 in memory."""
        return self._directory.snapshot_number if self._directory else 0

    @property
    def ntotal(self) -> int:
        """Number of rows."""
        return self._store.ntotal

    @property
    def n_deleted(self) -> int:
        """Number of deleted rows that take space until `compact` drops them."""
        return self._store.n_deleted

    @property
    def n_segments(self) -> int:
        """Number of segments that the rows are stored in."""
        return len(self._store.segments)

    @property
    def next_id(self) -> int:
        """Id of the next row that is added without an id."""
        return self._store.next_id

    def stats(self) -> IndexStats:
        """How many rows there are and how much space they take; no column is read."""
        rows = self.view()
        return IndexStats(
            rows.ntotal,
            rows.n_deleted,
            rows.n_segments,
            self.code_size,
            rows.next_id,
            tuple(rows.attribute_names),
            **rows.column_bytes(),
            snapshot=self.snapshot,
            path=self.path,
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """JSON values of the caller, read-only; assign a mapping to change them.

        In a directory an assignment is stored when it returns, like any other change.
        """
        directory = self._directory
        stored = directory.settings.get("metadata", {}) if directory else self._metadata
        metadata: dict[str, Any] = read_only(stored)
        return metadata

    @metadata.setter
    def metadata(self, value: Mapping[str, Any]) -> None:
        checked = as_metadata(value)
        with self._writing():
            if directory := self._directory:
                directory.commit(settings={**directory.settings, "metadata": checked})
            else:
                self._metadata = checked

    @property
    def _directory(self) -> IndexStore | None:
        return self._store if isinstance(self._store, IndexStore) else None

    def check_writable(self) -> None:
        """Raise `StoreError` if the directory was opened for reading only."""
        if self.read_only:
            error = StoreError(
                f"{self.path}: the index was opened read-only and cannot be changed; load it "
                "without read_only=True to change it."
            )
            error.errno = errno.EROFS
            raise error

    @contextmanager
    def on_this_snapshot(self) -> Iterator[None]:
        """Changes in the block are made to the rows that are shown now, or not at all.

        If another process changes the directory meanwhile, they raise `SnapshotChangedError`. For
        a caller that has decided what to change by looking at the rows.
        """
        with self._changing:
            before, self._pinned_by = self._pinned_by, threading.get_ident()
            try:
                yield
            finally:
                self._pinned_by = before

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Keep other writers out, so that what is read in the block is what the block changes.

        The collection shows the newest rows from then on. In memory other threads are kept out.

        Yields
        ------
        bool
            Whether they are other rows than those that were shown before.

        Raises
        ------
        StoreError
            If the directory was opened read-only or is locked, see `IndexStore.hold_lock`.
        """
        with self._writing():
            directory = self._directory
            if directory is None:
                yield False
                return
            with directory.hold_lock():
                yield directory.refresh()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.check_writable()
        with self._changing:
            yield

    def _follows(self) -> bool:
        return self._pinned_by != threading.get_ident()

    def _change(self, make: Callable[[], T]) -> T:
        """Make a change to the newest rows, whatever other processes have stored meanwhile."""
        with self._writing():
            if not self._follows():
                return make()
            with self.exclusive():
                return make()

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
            if self._follows() and self._directory:
                self._directory.refresh()
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
        remove: ArrayLike | None = None,
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
        remove : array_like of int, optional
            Ids of rows to remove. New rows can have these ids.

        Raises
        ------
        InvalidInputError
            Nothing was changed.
        StoreError
            The system refused; nothing was changed.
        """
        given = as_codes(codes, self.code_size).copy()
        old = np.empty(0, np.int64) if remove is None else as_ids(remove, None, distinct=False)

        def change() -> None:
            labels = self._new_ids(ids, len(given), old)
            rows = Rows(given, labels, attributes, paths)
            columns = _copied(rows.attributes)
            self._append(Rows(rows.codes, rows.ids, columns, rows.path_strings), old)

        self._change(change)

    def update(
        self, ids: ArrayLike, codes: ArrayLike, *, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Replace the codes of rows, and some of their attributes; paths stay.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the collection, each once.
        codes : array_like, shape (n, code_size), uint8
            New codes.
        attributes : mapping of str to array_like, each shape (n,), optional
            New values of some columns.

        Raises
        ------
        InvalidInputError
            Nothing was changed.
        """
        given = as_codes(codes, self.code_size).copy()
        labels = as_ids(ids, len(given))

        def change() -> None:
            kept = self._rows_of(labels)
            if kept is None:
                return
            new = Rows(given, labels, attributes)
            if unknown := new.attributes.keys() - kept.attributes.keys():
                names = ", ".join(kept.attribute_names)
                has = f"expected {names}, as the index has" if names else "the index has none"
                raise InvalidInputError(
                    f"attributes have {min(unknown)}; {has}; rows get their attributes when they "
                    "are added."
                )
            columns = {**kept.attributes, **_copied(new.attributes)}
            self._append(Rows(new.codes, kept.ids, columns, kept.path_strings), labels)

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
                for position, segment in enumerate(self._store.segments):
                    rows = np.flatnonzero(selected(segment, params))
                    if len(rows):
                        deleted[position] = rows
            if deleted:
                self._store.commit(delete=deleted)
            return sum(map(len, deleted.values()))

        return self._change(change)

    def merge(self, other: RowView, add_id: int = 0) -> None:
        """Add all rows of another collection, see `HiHPQIndex.merge_from`."""
        add_id, ids = as_count(add_id, "add_id", -_MAX_ID), other.ids
        if len(ids) and not 0 <= int(ids[0]) + add_id <= int(ids[-1]) + add_id <= _MAX_ID:
            raise InvalidInputError(
                f"add_id is {add_id}, with which ids of other would leave 0 to 2**63 - 1; expected "
                "another one."
            )

        def change() -> None:
            for _, rows, _ in self._store.find(ids + add_id):
                raise InvalidInputError(
                    f"id {ids[rows >= 0][0]} of other is taken once add_id {add_id} is added; "
                    f"expected free ids; pass add_id={self.next_id}."
                )
            if not len(ids):
                return
            moved = (
                Rows(batch.codes, batch.ids + add_id, batch.attributes, batch.path_strings)
                for batch in other.batches()
            )
            self._store.commit(
                append=map(self._store.conform, moved),
                next_id=self._next_after(int(ids[-1]) + add_id),
            )

        self._change(change)

    def reset(self) -> None:
        """Remove all rows, and count ids from 0 again."""
        with self._writing():
            self._store.commit(drop=range(self.n_segments), next_id=0)

    def compact(self) -> bool:
        """Join small segments and drop deleted rows; whether there was anything to do.

        Search results stay the same, and other readers of the directory are not disturbed.
        """
        return self._change(lambda: self._store.compact())

    def refresh(self) -> bool:
        """Show what other processes have committed since; whether there was anything."""
        with self._changing:
            return self._directory.refresh() if self._directory else False

    def clone(self) -> Collection:
        """A copy in memory."""
        rows, out = self.view(), Collection(self.code_size)
        out._store.commit(append=rows.batches(), next_id=rows.next_id)
        out.metadata = self.metadata
        return out

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any],
        files: Mapping[str, bytes],
        overwrite: bool,
        move: bool,
    ) -> None:
        """Write the rows and the metadata to an index directory, see `HiHPQIndex.save`.

        Nothing is written to the directory of this collection, as all changes are stored there.

        Parameters
        ----------
        path : path-like
            The directory.
        settings, files
            Settings and files of the codec.
        overwrite : bool
            Whether to replace an index that is there.
        move : bool
            Whether this collection is in the directory from now on.
        """
        target = Path(os.path.abspath(path))
        with self._changing:
            with os_errors("look for", target):
                if self.path and target.exists() and target.samefile(self.path):
                    return
            store = write_directory(
                target,
                self.view(),
                settings={**settings, "metadata": self.metadata},
                files=files,
                overwrite=overwrite,
            )
            if move:
                self._store = store

    def read_report(self, name: str) -> bytes | None:
        """Content of a file that `write_report` wrote; None if there is none."""
        return self._directory.read_report(name) if self._directory else None

    def write_report(self, name: str, data: bytes) -> None:
        """Write a file for people beside the index, such as ``skipped.csv``.

        Raises
        ------
        InvalidInputError
            If the name is not that of a report, or the collection is in memory.
        """
        if self._directory is None:
            raise InvalidInputError(
                f"report {name!r} is for an index in memory; expected one in a directory; save it."
            )
        with self._writing():
            self._directory.write_report(name, data)

    def remove_leftovers(self) -> None:
        """Remove files that an interrupted change has left in the directory."""
        with self._writing():
            if self._directory:
                self._directory.remove_leftovers()

    def _new_ids(
        self, ids: ArrayLike | None, n: int, removed: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if ids is None:
            if self.next_id > _MAX_ID - n:
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

    def _rows_of(self, labels: NDArray[np.int64]) -> Rows | None:
        """The rows with some ids, all of which must be there; None for no ids."""
        found = self._store.find(labels)
        taken = [segment.take(np.sort(rows[rows >= 0])) for _, rows, segment in found]
        known = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows in taken)])
        refuse_missing(labels, ~np.isin(labels, known))
        return Rows.merge(taken) if taken else None

    def _positions(self, labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Position of each segment that has some of the ids to the numbers of those rows."""
        return {position: rows[rows >= 0] for position, rows, _ in self._store.find(labels)}

    def _append(self, rows: Rows, remove: NDArray[np.int64]) -> None:
        last = int(rows.ids[-1]) if rows.n else -1
        deleted = self._positions(remove) if len(remove) else {}
        self._store.append(rows, deleted, self._next_after(last))

    def _next_after(self, last: int) -> int:
        """`next_id` once ``last`` is the highest id that was added."""
        return max(self.next_id, min(last, _MAX_ID - 1) + 1)


def _copied(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Columns that their owner cannot change any more."""
    return {name: column[np.arange(len(column))] for name, column in columns.items()}
