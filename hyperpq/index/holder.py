"""`SnapshotHolder`: which rows an index shows, with their codec, and who may change them."""

from __future__ import annotations

import copy
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self

from hyperpq.errors import InvalidInputError, SnapshotChangedError, StoreError
from hyperpq.index.directory import (
    DirectoryReference,
    codec_of,
    kept_code_size,
    kept_features,
)
from hyperpq.index.view import RowView
from hyperpq.scan.scanner import Scanner, scanner_for
from hyperpq.store import IndexStore, MemoryStore, Rows, Store
from hyperpq.store.snapshot_reader import another_index
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.training_record import TrainingRecord

T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """A codec and rows that it coded.

    An object of this class is replaced as a whole, so that no thread sees the codec of one snapshot
    with the rows of another. Changes that leave the codec as it is are made to the store in place.

    Attributes
    ----------
    store : Store
        The rows.
    codec : IndexCodec or None
        Their codec; None before training, and for rows without one.
    code_size : int
        Bytes of one code.
    training : TrainingRecord or None
        What the codec of an index in memory was learned from.
    tuned : TunedWeights or None
        What fine-tuning changed in the network of an index in memory.
    """

    store: Store
    codec: IndexCodec | None
    code_size: int
    training: TrainingRecord | None = None
    tuned: TunedWeights | None = None


class SnapshotHolder:
    """What a `Collection` is without the changes of its rows.

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
        Torch device of codecs that are read from the directory, and where codes are scanned.

    Attributes
    ----------
    feature_codec : FeatureCodec or None
        How the rows keep their features; None if they keep none.
    scanner : Scanner
        What scans the codes; `scanner_for` the device at first.
    """

    def __init__(
        self,
        code_size: int,
        store: Store | None = None,
        *,
        codec: IndexCodec | None = None,
        features: FeatureCodec | None = None,
        device: str = "cpu",
    ) -> None:
        kept = MemoryStore() if store is None else store
        self._shown = Shown(kept, codec, code_size)
        self.feature_codec = kept_features(kept) if isinstance(kept, IndexStore) else features
        self._device = device
        self.scanner: Scanner = scanner_for(device)
        self._metadata: dict[str, Any] = {}
        self._changing = ForkSafeLock()
        # The thread that stays on its snapshot. A child that another thread forks has none.
        self._pinned_by: int | None = None
        # The process that holds the lock of the directory; a forked child does not.
        self._lock_holder = 0

    def __getstate__(self) -> dict[str, Any]:
        reference = self.reference
        if reference is not None:
            shown = self._shown
            has_codec = shown.codec is not None
            return {"reference": reference, "has_codec": has_codec, "code_size": shown.code_size}
        # A lock cannot be copied, and no thread of this process is in another one.
        kept = self.__dict__.keys() - {"_changing", "_pinned_by"}
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reference = state.pop("reference", None)
        if reference is None:
            self.__dict__ |= state
            self._changing, self._pinned_by = ForkSafeLock(), None
        elif state["has_codec"]:
            codec, store = reference.open_with_codec()
            type(self).__init__(self, codec.code_size, store, codec=codec)
        else:
            store = reference.open()
            type(self).__init__(self, kept_code_size(store, state["code_size"]), store)

    def __copy__(self) -> Self:
        # Rows never change, so that two collections can have the same ones.
        shown, other = self._shown, type(self).__new__(type(self))
        type(self).__init__(other, shown.code_size, features=self.feature_codec)
        other._shown = replace(shown, store=copy.copy(shown.store))
        other._metadata, other._device = self._metadata, self._device
        other.scanner = self.scanner
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.__copy__()
        other._shown = replace(other._shown, codec=copy.deepcopy(other._shown.codec, memo))
        return other

    def view(self) -> RowView:
        """The rows as they are now, with their codec, to be selected and read."""
        shown = self._shown
        return RowView(
            shown.code_size,
            copy.copy(shown.store),
            shown.codec,
            self.feature_codec,
            shown.training,
            scanner=self.scanner,
            tuned=shown.tuned,
            metadata=self._metadata,
        )

    @property
    def _store(self) -> Store:
        return self._shown.store

    @property
    def _directory(self) -> IndexStore | None:
        store = self._shown.store
        return store if isinstance(store, IndexStore) else None

    @property
    def code_size(self) -> int:
        """Bytes of one code."""
        return self._shown.code_size

    @property
    def held(self) -> IndexCodec | None:
        """The codec of the rows that are shown, as the index holds it; None before training."""
        return self._shown.codec

    @property
    def codec(self) -> Codec | None:
        """The same in PyTorch."""
        held = self.held
        return None if held is None else held.module

    def set_codec(
        self, codec: IndexCodec | None, code_size: int, training: TrainingRecord | None = None
    ) -> None:
        """Give rows in memory a codec, while there are none.

        Raises
        ------
        InvalidInputError
            If there are rows, which have codes of another codec.
        """
        with self._changing:
            if self.ntotal or self.path:
                raise InvalidInputError(
                    f"the index has {self.ntotal} vectors coded by its codec; expected a new index "
                    "in memory, as codes of another codec mean nothing; call retrain() of an index "
                    "that keeps features, or make a new index."
                )
            self._shown = replace(self._shown, codec=codec, code_size=code_size, training=training)

    def set_tuned(self, tuned: TunedWeights | None) -> None:
        """Say what fine-tuning changed in the network of the vectors of an index in memory.

        Raises
        ------
        InvalidInputError
            If the rows are in a directory.
        """
        with self._changing:
            if self.path:
                raise InvalidInputError(
                    f"{self.path} has rows of its network; expected an index in memory, as "
                    "features of another network mean nothing; call finetune() of an ImageIndex."
                )
            self._shown = replace(self._shown, tuned=tuned)

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

    def check_writable(self) -> None:
        """Raise `StoreError` if the directory was opened for reading only."""
        if self.read_only:
            error = StoreError(
                f"{self.path}: the index was opened read-only and cannot be changed; load it "
                "without read_only=True, or pull it from its URL into a directory, to change it."
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

        The newest rows and their codec are shown from then on. In memory other threads are kept
        out. Blocks can be nested.

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
            if directory is None or self._holds_lock:
                yield False
                return
            # Another object, so that the rows and the codec of a new snapshot are shown at once.
            newest = copy.copy(directory)
            with newest.hold_lock():
                changed = self._show_newest(newest)
                self._lock_holder = os.getpid()
                try:
                    yield changed
                finally:
                    self._lock_holder = 0

    @property
    def _holds_lock(self) -> bool:
        return self._lock_holder == os.getpid()

    def _show_newest(self, other: IndexStore) -> bool:
        """Show what is on disk by another object of the directory; whether it is something new."""
        shown, directory = self._shown, self._directory
        assert directory is not None
        self._refresh(other)
        codec, size = shown.codec, shown.code_size
        if other.manifest.files != directory.manifest.files:
            size = kept_code_size(other, size)
            if codec is not None:
                codec = codec_of(other).on(self._device)
                size = codec.code_size
        self._shown = Shown(other, codec, size)
        return other.manifest != directory.manifest

    def _refresh(self, other: IndexStore) -> None:
        """Let another object of the directory show what is on disk, if it is of this index."""
        other.refresh()
        # What an index keeps of its vectors never changes, not even with its codec.
        if kept_features(other) != self.feature_codec:
            raise another_index(other.path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.check_writable()
        with self._changing:
            yield

    def _grouped(self, rows: Rows) -> Rows:
        """Rows of the codec that is shown, with their cells if there are any."""
        held = self.held
        return rows if held is None else next(iter(held.grouped([rows])))

    def _follows(self) -> bool:
        return self._pinned_by != threading.get_ident()

    def _change(self, make: Callable[[], T], codec: IndexCodec | None = None) -> T:
        """Make a change to the newest rows, whatever other processes have stored meanwhile.

        Parameters
        ----------
        make : callable
            The change.
        codec : IndexCodec, optional
            The codec of the codes that the change stores.

        Raises
        ------
        SnapshotChangedError
            If the rows have another codec by now; nothing was changed.
        """
        with self._writing():
            if not self._follows():
                self._check_codec(codec)
                return make()
            with self.exclusive():
                self._check_codec(codec)
                return make()

    def _check_codec(self, codec: IndexCodec | None) -> None:
        if codec is not None and codec is not self.held:
            raise SnapshotChangedError(
                f"{self.path or 'the index'}: the codec was replaced after these codes were made; "
                "expected codes of the new codec; encode the vectors again."
            )

    def refresh(self) -> bool:
        """Show what other processes have committed since; whether there was anything.

        If one of them has learned the codec anew, the new codec is shown with its codes.
        """
        with self._changing:
            directory = self._directory
            if directory is None or self._holds_lock:
                return False
            return self._show_newest(copy.copy(directory))
