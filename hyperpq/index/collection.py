"""`Collection`: the rows of an index, in memory or in a directory, and how they change."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from hyperpq.errors import InvalidInputError, SnapshotChangedError
from hyperpq.index.code_changes import CodeChanges
from hyperpq.index.directory import codec_settings, index_files, write_directory
from hyperpq.index.holder import Shown
from hyperpq.index.merging import MovedRows
from hyperpq.index.metadata import as_metadata, read_only
from hyperpq.index.path_map import settled
from hyperpq.index.recall import RecallCurve
from hyperpq.index.searcher import trained
from hyperpq.index.stats import IndexStats
from hyperpq.index.view import RowView
from hyperpq.store import MemoryStore, Rows
from hyperpq.utils.files import os_errors

if TYPE_CHECKING:
    from hyperpq.index.index_codec import IndexCodec


class Collection(CodeChanges):
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
    codec : IndexCodec, optional
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

    def stats(self) -> IndexStats:
        """How many rows there are and how much space they take; no column is read."""
        rows = self.view()
        return IndexStats(
            rows.ntotal,
            rows.n_deleted,
            rows.n_segments,
            rows.code_size,
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

    def merge(
        self,
        other: RowView,
        add_id: int = 0,
        *,
        codec: IndexCodec | None = None,
        encode_anew: bool = False,
    ) -> None:
        """Add all rows of another collection, see `HiHPQIndex.merge_from`.

        Parameters
        ----------
        other : RowView
            The rows.
        add_id : int
            Number added to their ids.
        codec : IndexCodec, optional
            The codec of the codes that are stored; the one that is shown now by default.
        encode_anew : bool
            Whether the codes are made of the kept features of ``other`` by that codec, which is
            not the codec of ``other``.
        """
        moved, codec = MovedRows.of(other, add_id, self.feature_codec), codec or self.held
        ids = moved.ids + moved.add_id

        def change() -> None:
            for _, rows, _ in self._store.find(ids):
                raise InvalidInputError(
                    f"id {moved.ids[rows >= 0][0]} of other is taken once add_id {moved.add_id} is "
                    f"added; expected free ids; pass add_id={self.next_id}."
                )
            if not len(ids):
                return
            batches = map(self._with_stored_paths, moved.batches(codec, encode_anew=encode_anew))
            self._store.commit(
                append=map(self._store.conform, map(self._grouped, batches)),
                next_id=self._next_after(int(ids[-1])),
            )

        self._change(change, codec)

    def _with_stored_paths(self, rows: Rows) -> Rows:
        paths = self._stored_paths(rows.path_strings)
        return Rows(rows.codes, rows.ids, rows.attributes, paths, rows.features)

    def put(self, batches: Iterable[Rows], next_id: int) -> None:
        """Fill a collection in memory that has no rows yet."""
        with self._changing:
            grouped = batches if self.held is None else self.held.grouped(batches)
            self._store.commit(append=grouped, next_id=next_id)

    def reset(self) -> None:
        """Remove all rows, and count ids from 0 again."""
        with self._writing():
            self._store.commit(drop=range(self.n_segments), next_id=0)

    def compact(self) -> bool:
        """Join small segments and drop deleted rows; whether there was anything to do.

        Search results stay the same, and other readers of the directory are not disturbed. Where
        there are cells, their recall is measured again if the rows are others by now.
        """
        done = self._change(lambda: self._store.compact())
        return self.store_recall() or done

    def store_recall(self) -> bool:
        """Store what searches of some cells find, unless what is stored still holds.

        Returns
        -------
        bool
            Whether it was stored. It is not in memory, where it is measured when it is needed, nor
            if the codec or the cells are replaced meanwhile.
        """
        view = self.view()
        held, stored = view.held, view.recall_curve
        if not view.is_stored or held is None or held.cells is None:
            return False
        if stored is not None and stored.holds_for(view):
            return False
        curve = RecallCurve.of(view, held.coder, held.cells)

        def change() -> None:
            directory = self._directory
            assert directory is not None  # a collection stays in its directory
            directory.commit(settings=RecallCurve.settings(directory.settings, curve))

        try:
            self._change(change, held)
        except SnapshotChangedError:
            return False
        return True

    def clone(self) -> Self:
        """A copy in memory, with the same codec object."""
        rows, out = self.view(), type(self).__new__(type(self))
        type(self).__init__(out, rows.code_size, features=self.feature_codec)
        store = MemoryStore()
        store.commit(append=rows.batches(features=True), next_id=rows.next_id)
        out._shown = Shown(store, rows.held, rows.code_size, rows.training, rows.tuned)
        out._device, out.scanner = self._device, self.scanner
        out.metadata = settled(self.metadata, self.path, None)
        return out

    def save(self, path: str | os.PathLike[str], *, overwrite: bool, move: bool) -> None:
        """Write codec, rows and metadata to an index directory, see `HiHPQIndex.save`.

        Nothing is written to the directory of this collection, as all changes are stored there.

        Parameters
        ----------
        path : path-like
            The directory.
        overwrite : bool
            Whether to replace an index that is there.
        move : bool
            Whether this collection is in the directory from now on.

        Raises
        ------
        NotTrainedError
            If there is no codec to save.
        """
        target = Path(os.path.abspath(path))
        with self._changing:
            rows = self.view()
            codec = trained(rows.held)
            with os_errors("look for", target):
                if self.path and target.exists() and target.samefile(self.path):
                    return
            settings = codec_settings(codec)
            settings["metadata"] = settled(self.metadata, self.path, target)
            if rows.feature_codec is not None:
                settings["features"] = rows.feature_codec.kind
                if rows.training is not None:
                    settings["training"] = rows.training.to_json()
            if codec.cells is not None:
                curve = RecallCurve.of(rows, codec.coder, codec.cells)
                settings = RecallCurve.settings(settings, curve)
            files = index_files(codec, rows.tuned)
            store = write_directory(
                target, rows, settings=settings, files=files, overwrite=overwrite
            )
            if move:
                self._shown = replace(self._shown, store=store, training=None, tuned=None)

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
