"""`Collection`: the rows of an index, in memory or in a directory, and how they change."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.filters.selectors import IDSelector, IDSelectorArray, SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.directory import codec_settings
from hyperpq.index.encoded import recoded
from hyperpq.index.holder import Shown, SnapshotHolder
from hyperpq.index.path_map import PathMap
from hyperpq.index.view import RowView, refuse_missing, selected
from hyperpq.progress import ProgressLike
from hyperpq.store import Column, MemoryStore, Rows, Store, live_batches
from hyperpq.store.strings import Strings
from hyperpq.utils.validation import as_array, as_codes, as_count, as_ids

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.index.training_record import TrainingRecord

_MAX_ID = np.iinfo(np.int64).max


class Collection(SnapshotHolder):
    """Coded rows with ids, attributes, paths and kept features, in memory or in a directory.

    `HiHPQIndex` holds a collection, which has the codec of its codes, too. Rows are read through
    `view`. Every change is one transaction: it takes place completely or not at all, and in a
    directory it is durable when the call returns.

    Parameters
    ----------
    code_size : int
        Bytes of one code.
    store : MemoryStore or IndexStore, optional
        Where the rows are; in memory by default.
    codec : Codec, optional
        The codec of the rows.
    features : FeatureCodec, optional
        How rows in memory keep their features; a directory says it itself.
    device : str
        Torch device of codecs that are read from the directory.

    Attributes
    ----------
    feature_codec : FeatureCodec or None
        How the rows keep their features; None if they keep none.

    Notes
    -----
    Changes by several threads take place one after another. A view shows the rows before or after
    a change, never a part of it.

    Where another process has changed the directory meanwhile, `add`, `update`, `remove`, `merge`
    and `compact` are made to what it has stored, which this object then shows: ids by default are
    counted on from there, and given ids and columns are checked against it. A change waits up to
    `IndexStore.lock_timeout` seconds while another process is writing. `reset` and an assignment to
    `metadata` would undo what the caller has not seen, and raise `SnapshotChangedError` instead.
    So do changes that bring codes of a codec that another process or thread has replaced.

    A pickle of a collection in a directory has its path and not its rows. It shows the same
    snapshot, or the newest one if files of that are gone. A collection in memory is pickled whole.
    """

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
        codec: Codec | None = None,
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
        codec : Codec, optional
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
        shown = self._shown
        given = as_codes(codes, shown.code_size).copy()
        kept = self._as_kept(features, len(given))
        old = np.empty(0, np.int64) if remove is None else as_ids(remove, None, distinct=False)

        def change() -> None:
            labels = self._new_ids(ids, len(given), old)
            rows = Rows(given, labels, attributes, self._stored_paths(paths), kept)
            columns = _copied(rows.attributes)
            self._append(Rows(rows.codes, rows.ids, columns, rows.path_strings, rows.features), old)

        self._change(change, codec or shown.codec)

    def update(
        self,
        ids: ArrayLike,
        codes: ArrayLike,
        *,
        attributes: Mapping[str, Any] | None = None,
        features: NDArray[np.uint8] | None = None,
        codec: Codec | None = None,
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
        shown = self._shown
        given = as_codes(codes, shown.code_size).copy()
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

        self._change(change, codec or shown.codec)

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
                Rows(kept.codes, kept.ids, columns, new.path_strings, kept.features), labels
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
                for position, segment in enumerate(self._store.segments):
                    rows = np.flatnonzero(selected(segment, params, PathMap.of(self._store)))
                    if len(rows):
                        deleted[position] = rows
            if deleted:
                self._store.commit(delete=deleted)
            return sum(map(len, deleted.values()))

        return self._change(change)

    def merge(
        self,
        other: RowView,
        add_id: int = 0,
        *,
        codec: Codec | None = None,
        encode_anew: bool = False,
    ) -> None:
        """Add all rows of another collection, see `HiHPQIndex.merge_from`.

        Parameters
        ----------
        other : RowView
            The rows.
        add_id : int
            Number added to their ids.
        codec : Codec, optional
            The codec of the codes that are stored; the one that is shown now by default.
        encode_anew : bool
            Whether the codes are made of the kept features of ``other`` by that codec, which is
            not the codec of ``other``.
        """
        add_id, ids = as_count(add_id, "add_id", -_MAX_ID), other.ids
        codec = codec or self.codec
        if len(ids) and not 0 <= int(ids[0]) + add_id <= int(ids[-1]) + add_id <= _MAX_ID:
            raise InvalidInputError(
                f"add_id is {add_id}, with which ids of other would leave 0 to 2**63 - 1; expected "
                "another one."
            )
        if self.feature_codec is not None and other.feature_codec is None:
            raise InvalidInputError(
                f"other keeps no features; expected features of the kind "
                f"{self.feature_codec.kind!r}, which this index keeps; add its vectors instead."
            )

        def batches() -> Iterable[Rows]:
            if not encode_anew and self.feature_codec in (None, other.feature_codec):
                return other.batches(features=self.feature_codec is not None)
            assert codec is not None
            rows = other.batches(features=True)
            return recoded(rows, codec, other.kept_by(), keep=self.feature_codec)

        def change() -> None:
            for _, rows, _ in self._store.find(ids + add_id):
                raise InvalidInputError(
                    f"id {ids[rows >= 0][0]} of other is taken once add_id {add_id} is added; "
                    f"expected free ids; pass add_id={self.next_id}."
                )
            if not len(ids):
                return
            moved = (
                Rows(
                    batch.codes,
                    batch.ids + add_id,
                    batch.attributes,
                    self._stored_paths(batch.path_strings),
                    batch.features,
                )
                for batch in batches()
            )
            self._store.commit(
                append=map(self._store.conform, moved),
                next_id=self._next_after(int(ids[-1]) + add_id),
            )

        self._change(change, codec)

    def put(self, batches: Iterable[Rows], next_id: int) -> None:
        """Fill a collection in memory that has no rows yet."""
        with self._changing:
            self._store.commit(append=batches, next_id=next_id)

    def recode(
        self, codec: Codec, training: TrainingRecord, *, progress: ProgressLike = None
    ) -> None:
        """Give all rows the codes of their kept features by another codec, in one commit.

        The rows are the newest ones of the directory. Ids, attributes, paths and `next_id` stay.

        Parameters
        ----------
        codec : Codec
            The codec from then on.
        training : TrainingRecord
            What it was learned from.
        progress : Progress or bool, optional
            Where to report the rows that are encoded.

        Raises
        ------
        InvalidInputError
            If the rows keep no features, or the call is inside `exclusive` or `on_this_snapshot`.
        StoreError
            If the system refuses; the codec and the rows are those of before.
        """
        kept = self.view().kept_by()
        with self._writing():
            if self._holds_lock or not self._follows():
                raise InvalidInputError(
                    "the codec cannot be replaced inside a block of exclusive() or "
                    "on_this_snapshot(); expected a call outside."
                )

            def codes_of(store: Store) -> Iterable[Rows]:
                rows = live_batches(store.segments)
                return recoded(rows, codec, kept, keep=kept, progress=progress, total=store.ntotal)

            directory = self._directory
            if directory is None:
                memory = MemoryStore()
                memory.commit(append=codes_of(self._store), next_id=self.next_id)
                self._shown = Shown(memory, codec, codec.code_size, training)
                return
            from hyperpq.codec.serialization import to_files

            # Another object, so that the new rows are not shown before their codec is.
            newest = copy.copy(directory)
            with newest.hold_lock():
                newest.refresh()
                newest.commit(
                    append=codes_of(newest),
                    drop=range(len(newest.segments)),
                    settings={
                        **newest.settings,
                        **codec_settings(codec),
                        "training": training.to_json(),
                    },
                    files=to_files(codec),
                )
                self._shown = Shown(newest, codec, codec.code_size)

    def reset(self) -> None:
        """Remove all rows, and count ids from 0 again."""
        with self._writing():
            self._store.commit(drop=range(self.n_segments), next_id=0)

    def compact(self) -> bool:
        """Join small segments and drop deleted rows; whether there was anything to do.

        Search results stay the same, and other readers of the directory are not disturbed.
        """
        return self._change(lambda: self._store.compact())

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
        if paths is None or path_map.is_identity:
            return paths
        shown = paths.tolist() if isinstance(paths, Strings) else paths
        return [path_map.stored(path) for path in shown]

    def _append(self, rows: Rows, remove: NDArray[np.int64]) -> None:
        last = int(rows.ids[-1]) if rows.n else -1
        deleted = self._positions(remove) if len(remove) else {}
        self._store.append(rows, deleted, self._next_after(last))

    def _next_after(self, last: int) -> int:
        """`next_id` once ``last`` is the highest id that was added."""
        return max(self.next_id, min(last, _MAX_ID - 1) + 1)


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
