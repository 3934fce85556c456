"""`CodeChanges`: what gives all rows of a collection other codes, or another order."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from hyperpq.errors import InvalidInputError, SnapshotChangedError
from hyperpq.index.cells import learned_cells, regrouped
from hyperpq.index.directory import codec_of, codec_settings, index_files, kept_tuned
from hyperpq.index.encoded import recoded
from hyperpq.index.holder import Shown
from hyperpq.index.metadata import as_metadata
from hyperpq.index.recall import RecallCurve
from hyperpq.index.recoding import NewVectors, Recoding
from hyperpq.index.row_changes import RowChanges
from hyperpq.index.searcher import trained
from hyperpq.index.view import RowView
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.store import MemoryStore, live_batches

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.training_record import TrainingRecord


class CodeChanges(RowChanges):
    """Rows whose codec, vectors or cells are replaced, each in one commit; see `Collection`."""

    def recode(
        self,
        codec: IndexCodec,
        training: TrainingRecord,
        *,
        tuned: TunedWeights | None = None,
        progress: ProgressLike = None,
    ) -> None:
        """Give all rows the codes of their kept features by another codec, in one commit.

        The rows are the newest ones of the directory. Ids, attributes, paths and `next_id` stay.
        What others add meanwhile is encoded under the lock, and the rest before it is taken.

        Parameters
        ----------
        codec : IndexCodec
            The codec from then on.
        training : TrainingRecord
            What it was learned from.
        tuned : TunedWeights, optional
            The network of the features that it was learned from, as `RowView.tuned`.
        progress : Progress or bool, optional
            Where to report the rows that are encoded.

        Raises
        ------
        InvalidInputError
            If the rows keep no features, or the call is inside `exclusive` or `on_this_snapshot`.
        SnapshotChangedError
            If the features are of another network by now; nothing was changed.
        StoreError
            If the system refuses; the codec and the rows are those of before.
        """
        kept, shown = self.view().kept_by(), as_progress(progress)
        recoding = Recoding(codec, kept, shown)
        self.check_writable()
        if (directory := self._directory) is not None:
            recoding.prepare(directory.segments)
            # What others have added during that time, which may have been long.
            newest = copy.copy(directory)
            self._refresh(newest)
            recoding.prepare(newest.segments)
        with self._writing():
            if self._holds_lock or not self._follows():
                raise InvalidInputError(
                    "the codec cannot be replaced inside a block of exclusive() or "
                    "on_this_snapshot(); expected a call outside."
                )
            if (directory := self._directory) is None:
                memory, total = MemoryStore(), self._store.ntotal
                rows = live_batches(self._store.segments)
                new = recoded(rows, codec, kept, keep=kept, progress=shown, total=total)
                memory.commit(append=codec.grouped(new), next_id=self.next_id)
                self._shown = replace(
                    self._shown,
                    store=memory,
                    codec=codec,
                    code_size=codec.code_size,
                    training=training,
                )
                return
            # Another object, so that the new rows are not shown before their codec is.
            newest = copy.copy(directory)
            with newest.hold_lock():
                self._refresh(newest)
                if tuned != kept_tuned(newest):
                    raise SnapshotChangedError(
                        f"{newest.path}: its network was fine-tuned while its codec was learned "
                        "again; expected features of one network; try again."
                    )
                newest.commit(
                    append=codec.grouped(recoding.rows(newest.segments)),
                    drop=range(len(newest.segments)),
                    settings={
                        **RecallCurve.settings(newest.settings, None),
                        **codec_settings(codec),
                        "training": training.to_json(),
                    },
                    files=index_files(codec, tuned),
                )
                self._shown = Shown(newest, codec, codec.code_size)

    def replace_vectors(self, new: NewVectors) -> None:
        """Give all rows other vectors, those of another network, with their codec, in one commit.

        Ids, attributes, paths and `next_id` stay, and so does how features are kept.

        Parameters
        ----------
        new : NewVectors
            The vectors and their codec.

        Raises
        ------
        InvalidInputError
            If the rows are in memory.
        StoreError
            If the system refuses; the index is as it was.
        """
        with self._writing():
            directory = self._directory
            if directory is None:
                raise InvalidInputError(
                    "the index is in memory; expected one in a directory; save it."
                )
            newest = copy.copy(directory)
            with newest.hold_lock():
                self._refresh(newest)
                settings = RecallCurve.settings(newest.settings, None) | codec_settings(new.codec)
                settings["metadata"] = as_metadata(new.metadata(settings.get("metadata", {})))
                settings.pop("training", None)
                if new.training is not None:
                    settings["training"] = new.training.to_json()
                view = RowView(self.code_size, newest, self.held, self.feature_codec)
                newest.commit(
                    append=new.codec.grouped(new.rows(view)),
                    drop=range(len(newest.segments)),
                    settings=settings,
                    files=index_files(new.codec, new.tuned),
                )
                codec = codec_of(newest).on(self._device)
                self._shown = Shown(newest, codec, codec.code_size)

    def regroup(self, nlist: int | Literal["auto"]) -> None:
        """Group the codes by other cells, or by none, in one commit, see `HiHPQIndex.make_cells`.

        Parameters
        ----------
        nlist : int or "auto"
            Number of cells; 0 for none.

        Raises
        ------
        InvalidInputError
            If there are fewer rows than cells, or the call is inside `exclusive` or
            `on_this_snapshot`.
        SnapshotChangedError
            If the codec or the cells are replaced meanwhile; nothing was changed.
        StoreError
            If the system refuses; the index is as it was.
        """
        view = self.view()
        held = trained(view.held)
        cells = learned_cells(view.segments, held.coder, nlist)
        curve = None if cells is None else RecallCurve.measured(view, held.coder, cells)
        with self._writing():
            if self._holds_lock or not self._follows():
                raise InvalidInputError(
                    "cells cannot be replaced inside a block of exclusive() or on_this_snapshot(); "
                    "expected a call outside."
                )
            replaced = SnapshotChangedError(
                f"{self.path or 'the index'}: its codec or its cells were replaced meanwhile; try "
                "again."
            )
            # The cells are those of the codes of this codec.
            if held is not self.held:
                raise replaced
            codec = held.with_cells(cells)
            if (directory := self._directory) is None:
                memory = MemoryStore()
                memory.commit(append=regrouped(self._store.segments, codec), next_id=self.next_id)
                self._shown = replace(self._shown, store=memory, codec=codec)
                return
            newest = copy.copy(directory)
            with newest.hold_lock():
                self._refresh(newest)
                if newest.manifest.files != directory.manifest.files:
                    self._show_newest(newest)
                    raise replaced
                newest.commit(
                    append=regrouped(newest.segments, codec),
                    drop=range(len(newest.segments)),
                    settings=RecallCurve.settings(newest.settings, curve),
                    files=index_files(codec, kept_tuned(newest)),
                )
                self._shown = Shown(newest, codec, codec.code_size)
