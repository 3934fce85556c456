"""`push`: publish the present snapshot of an index directory at a URL."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hyperpq.errors import SnapshotChangedError
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.remote.record import REPORT, RemoteRecord
from hyperpq.remote.storage import ConditionError, Published, S3Storage, object_name
from hyperpq.store.index_store import IndexStore
from hyperpq.store.manifest import FileEntry
from hyperpq.utils.files import checksums_of_file, torn_file

FILES_AT_ONCE = 4
"""Files that are copied side by side."""
LOCK_TIMEOUT = 10.0
PRUNE_AGE = timedelta(days=7)
"""Age above which `push` may remove an object that no manifest names. A copy of an index that
takes longer would find objects gone, and begin again with the new manifest."""
_REUSE_AGE = timedelta(days=1)
# An object that no manifest names is used again only while nobody may remove it soon. The clocks
# of two machines and of the storage may differ by days.


@dataclass(frozen=True)
class Pushed:
    """What `push` has done.

    Attributes
    ----------
    uploaded : int
        Files that were copied to the URL.
    uploaded_bytes : int
        Their length.
    kept : int
        Files that were there.
    removed : int
        Files that were removed, as no manifest names them.
    """

    uploaded: int
    uploaded_bytes: int
    kept: int
    removed: int = 0


def push(
    path: str | os.PathLike[str],
    url: str,
    *,
    overwrite: bool = False,
    prune: bool = False,
    progress: ProgressLike = None,
) -> Pushed:
    """Publish an index directory at a URL: readers see the old snapshot or the new one, whole.

    Files are uploaded first, each under the hash of its content. Then the manifest is replaced by a
    put that the storage refuses if another writer has published meanwhile. So a push that is killed
    changes nothing for readers, and can be repeated; files that it has uploaded are used again.

    Parameters
    ----------
    path : path-like
        The index directory. No other process can write to it meanwhile.
    url : str
        ``s3://BUCKET/PATH``.
    overwrite : bool
        Whether to replace an index at the URL whose rows this directory may not have, and to upload
        every file again. Without it, a file is there if the storage has one of its length.
    prune : bool
        Whether to remove files of former snapshots at the URL that are older than `PRUNE_AGE`.
    progress : Progress or bool, optional
        See `hyperpq.progress.ProgressLike`.

    Returns
    -------
    Pushed

    Raises
    ------
    SnapshotChangedError
        If the URL has an index that this directory was not made from, or another writer has
        published. The URL is as before.
    CorruptIndexError
        If a file of the directory, or the manifest at the URL, is damaged.
    StoreError
        If the storage refuses, or ignores the condition of a put.
    InvalidInputError, MissingDependencyError
        If the URL is of another protocol, or s3fs is not installed.
    """
    storage = S3Storage(url)
    store = IndexStore.open(path)
    store.lock_timeout = LOCK_TIMEOUT
    with store.hold_lock():
        store.refresh()
        there = storage.read()
        own = store.fingerprint()
        record = RemoteRecord.read(store.path, storage.url)
        is_published = there is not None and there.manifest.fingerprint() == own
        if there is not None and not is_published and not overwrite:
            _check_known(there, record, storage.url)
        done = _upload(store, storage, there, overwrite, progress)
        if not is_published:
            files = store.manifest.named_files.items()
            file, entry = min(files, key=lambda item: item[1].size)
            storage.check_conditions(store.path / file, entry)
            store.write_report(REPORT, replace(record, pushing=own).to_bytes())
            try:
                storage.publish(store.manifest, there)
            except ConditionError:
                raise _changed(storage.url) from None
        store.write_report(REPORT, RemoteRecord(storage.url, own).to_bytes())
    return replace(done, removed=_prune(storage)) if prune else done


def _check_known(there: Published, record: RemoteRecord, url: str) -> None:
    if not record.allows_push_over(there.manifest.fingerprint()):
        raise _changed(url)


def _changed(url: str) -> SnapshotChangedError:
    return SnapshotChangedError(
        f"{url}: another writer has published an index that this one was not made from, and "
        "nothing was replaced; pull it into another directory and make the changes there, or push "
        "with overwrite to replace it."
    )


def _upload(
    store: IndexStore,
    storage: S3Storage,
    there: Published | None,
    every: bool,
    progress: ProgressLike,
) -> Pushed:
    """Upload files that are not at the URL, or every one, once they have their checksums here."""
    found = storage.objects()
    named = {} if there is None else there.manifest.named_files
    safe = {object_name(entry) for entry in named.values()}
    since = datetime.now(timezone.utc) - _REUSE_AGE
    files = store.manifest.named_files
    missing: dict[str, tuple[Path, FileEntry]] = {}
    for file, entry in files.items():
        name = object_name(entry)
        present = found.get(name)
        if (
            every
            or present is None
            or present.size != entry.size
            or (name not in safe and present.modified < since)
        ):
            missing[name] = store.path / file, entry

    def copy(file: tuple[Path, FileEntry]) -> int:
        path, entry = file
        if checksums_of_file(path, entry.size) != entry.checksums:
            raise torn_file(path, "the checksum is wrong")
        storage.upload(path, entry)
        return entry.size

    total = sum(entry.size for _, entry in missing.values())
    shown = as_progress(progress)
    with shown.phase("uploading", total, "bytes") as phase, ThreadPoolExecutor(FILES_AT_ONCE) as do:
        for size in do.map(copy, missing.values()):
            phase.advance(size)
    return Pushed(len(missing), total, len(files) - len(missing))


def _prune(storage: S3Storage) -> int:
    """Remove old objects that the manifest does not name; how many."""
    objects, there = storage.objects(), storage.read()
    if there is None:
        return 0
    named = {object_name(entry) for entry in there.manifest.named_files.values()}
    before = datetime.now(timezone.utc) - PRUNE_AGE
    old = [name for name, item in objects.items() if item.modified < before and name not in named]
    for name in old:
        storage.remove(name)
    return len(old)
