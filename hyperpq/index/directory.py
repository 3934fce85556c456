"""Index directories: rows with a codec and its settings, written and opened as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.codes import code_size
from hyperpq.errors import BackboneError, CorruptIndexError, InvalidInputError
from hyperpq.store import (
    IndexStore,
    check_replaceable,
    find_place,
    recover_directory,
    replace_directory,
)
from hyperpq.store.lock import working_folder
from hyperpq.store.manifest import NETWORK_FILE
from hyperpq.store.place import SAVING
from hyperpq.utils.locations import is_url
from hyperpq.utils.validation import as_choice, as_number

if TYPE_CHECKING:
    from hyperpq.backbones.tuned import TunedWeights
    from hyperpq.codec.feature_codec import FeatureCodec
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.index.recall import RecallCurve
    from hyperpq.index.training_record import TrainingRecord
    from hyperpq.index.view import RowView
    from hyperpq.store import Durability
    from hyperpq.store.manifest import Manifest

DURABILITIES: tuple[Durability, ...] = ("full", "fast")
LOCK_TIMEOUT = 10.0
"""Seconds that a change waits by default while another process writes to the directory."""


@dataclass(frozen=True)
class DirectoryReference:
    """Where an index directory is, and which snapshot of it is shown: what a pickle has of it.

    Attributes
    ----------
    path : Path
        The directory.
    manifest : Manifest
        The snapshot.
    durability : {"full", "fast"}
        See `HiHPQIndex.load`.
    lock_timeout : float
        See `HiHPQIndex.load`.
    read_only : bool
        See `HiHPQIndex.load`.
    """

    path: Path
    manifest: Manifest
    durability: Durability
    lock_timeout: float
    read_only: bool

    @classmethod
    def of(cls, store: IndexStore) -> DirectoryReference:
        """The reference to an opened directory."""
        return cls(
            store.path, store.manifest, store.durability, store.lock_timeout, store.read_only
        )

    def open(self) -> IndexStore:
        """Open the snapshot, or the newest one if files of it are gone.

        Raises
        ------
        StoreError
            If the directory is gone or holds another index, or the system refuses to read it.
        """
        store = IndexStore.open(self.path, read_only=self.read_only)
        store.durability, store.lock_timeout = self.durability, self.lock_timeout
        store.show(self.manifest)
        return store

    def open_with_codec(self) -> tuple[IndexCodec, IndexStore]:
        """`open`, and the codec on the CPU."""
        store = self.open()
        return codec_of(store), store


def write_directory(
    path: Path,
    rows: RowView,
    *,
    settings: dict[str, Any],
    files: Mapping[str, bytes],
    overwrite: bool,
) -> IndexStore:
    """Write an index directory completely or not at all.

    Parameters
    ----------
    path : Path
        A place that does not exist or is an empty folder.
    rows : RowView
        The rows.
    settings : dict
        JSON values for the manifest, see `codec_settings`.
    files : mapping of str to bytes
        The files of the codec and of the network, see `index_files`.
    overwrite : bool
        Whether to replace an index that is at ``path``, once the new one is complete.

    Returns
    -------
    IndexStore
        The opened directory.

    Raises
    ------
    StoreError
        If the place is taken or the system refuses.
    """
    target = Path(os.path.abspath(path))
    recover_directory(target)
    place = find_place(target)
    if not overwrite or not IndexStore.exists(target):
        place.check_free()
    elif not place.is_free():
        IndexStore.open(target)
    # Not in its place: without its rows it would look like an empty index.
    work = place.working_directory(SAVING)
    check_replaceable(work / "index", target)
    with working_folder(work):
        try:
            shutil.rmtree(work / "index", ignore_errors=True)
            store = IndexStore.create(work / "index", settings=settings, files=files)
            if rows.n_segments:
                store.commit(append=rows.batches(features=True), next_id=rows.next_id)
            replace_directory(store.path, target, overwrite=overwrite)
        finally:
            shutil.rmtree(work / "index", ignore_errors=True)
    store = IndexStore.open(target)
    store.lock_timeout = LOCK_TIMEOUT
    return store


def open_directory(
    path: str | os.PathLike[str],
    *,
    verify: bool,
    durability: Durability,
    read_only: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
) -> tuple[IndexCodec, IndexStore]:
    """Open an index directory, see `HiHPQIndex.load`.

    Returns
    -------
    codec : Codec
        On the CPU.
    store : IndexStore
        The rows, and settings that agree with the codec.
    """
    as_choice(durability, "durability", DURABILITIES)
    wait = as_number(lock_timeout, "lock_timeout")
    if wait < 0:
        raise InvalidInputError(f"lock_timeout is {wait}; expected seconds, at least 0.")
    if is_url(path):
        from hyperpq.remote import local_copy

        path, read_only = local_copy(path, verify=verify), True
    store = IndexStore.open(path, verify=verify, read_only=read_only)
    store.durability, store.lock_timeout = durability, wait
    return codec_of(store), store


def codec_of(store: IndexStore) -> IndexCodec:
    """The codec of the snapshot that is shown, on the CPU; settings and rows agree with it.

    Raises
    ------
    CorruptIndexError
        If a file is altered, or settings or rows do not agree.
    """
    from hyperpq.index.index_codec import IndexCodec

    names = [name for name in store.file_names if name != NETWORK_FILE]
    codec = IndexCodec(files={name: store.read_file(name) for name in names})
    settings, own = store.settings, codec_settings(codec)
    if any(settings.get(name) != value for name, value in own.items()):
        raise CorruptIndexError(
            f"{store.path}: manifest.json and codec.json disagree; expected {own}."
        )
    if not isinstance(settings.get("metadata", {}), dict):
        raise CorruptIndexError(
            f"{store.path}: metadata in manifest.json is not an object; expected one."
        )
    if any(segment.code_size != codec.code_size for segment in store.segments):
        raise CorruptIndexError(
            f"{store.path}: a shard has codes of another size than {codec.code_size} bytes; "
            "expected that size."
        )
    nlist = 0 if codec.cells is None else codec.cells.nlist
    if any(segment.n_cells != nlist for segment in store.segments):
        raise CorruptIndexError(
            f"{store.path}: a shard has another number of cells than {nlist}; expected that number."
        )
    size = 0 if (kept := kept_features(store)) is None else kept.size
    if any(segment.feature_size != size for segment in store.segments):
        raise CorruptIndexError(
            f"{store.path}: a shard has features of another size than {size} bytes; expected that "
            "size, as the settings in manifest.json say."
        )
    kept_training(store)
    kept_recall(store)
    return codec


def kept_tuned(store: IndexStore) -> TunedWeights | None:
    """What fine-tuning changed in the network of a directory; None if nothing.

    Raises
    ------
    CorruptIndexError
        If the file is altered, or holds something else.
    """
    if NETWORK_FILE not in store.manifest.files:
        return None
    from hyperpq.backbones.tuned import TunedWeights

    where = store.path / store.manifest.stored_name(NETWORK_FILE)
    try:
        return TunedWeights.from_bytes(store.read_file(NETWORK_FILE), str(where))
    except BackboneError as error:
        raise CorruptIndexError(str(error)) from error


def index_files(codec: IndexCodec, tuned: TunedWeights | None) -> dict[str, bytes]:
    """The files of a directory beside its rows: those of the codec, and that of a tuned network."""
    files = codec.files()
    return files if tuned is None else files | {NETWORK_FILE: tuned.to_bytes()}


def kept_features(store: IndexStore) -> FeatureCodec | None:
    """How the rows of a directory keep their features; None if they keep none.

    Raises
    ------
    CorruptIndexError
        If the settings say what nobody knows.
    """
    settings = store.settings
    if "features" not in settings:
        return None
    from hyperpq.codec.feature_codec import FeatureCodec

    try:
        return FeatureCodec(settings["features"], settings["d"])
    except (InvalidInputError, KeyError) as error:
        raise CorruptIndexError(
            f"{store.path}: features in manifest.json are {settings['features']!r}; expected "
            "'int8', 'float16' or 'float32', and d."
        ) from error


def kept_training(store: IndexStore) -> TrainingRecord | None:
    """What the codec of a directory was learned from; None where it is not recorded.

    Raises
    ------
    CorruptIndexError
        If the record is something else.
    """
    record = store.settings.get("training")
    if record is None:
        return None
    from hyperpq.index.training_record import TrainingRecord

    return TrainingRecord.from_json(record, store.path)


def kept_recall(store: IndexStore) -> RecallCurve | None:
    """What was measured of the cells of a directory; None where it is not recorded.

    Raises
    ------
    CorruptIndexError
        If the record is something else.
    """
    record = store.settings.get("recall")
    if record is None:
        return None
    from hyperpq.index.recall import RecallCurve

    return RecallCurve.from_json(record, store.path)


def kept_code_size(store: IndexStore, expected: int) -> int:
    """Bytes of one code in a directory; those expected unless its rows are of another codec."""
    for segment in store.segments:
        return segment.code_size
    settings = store.settings
    if {"M", "nbits"} <= settings.keys():
        return code_size(settings["M"], settings["nbits"])
    return expected


def codec_settings(codec: IndexCodec) -> dict[str, Any]:
    """Settings of a codec that a manifest repeats; its name of the metric is ``score``."""
    from hyperpq.codec.config import stored_metric

    metric = stored_metric(codec.metric)
    return {"d": codec.d, "M": codec.M, "nbits": codec.nbits, "score": metric}
