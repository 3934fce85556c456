"""`pull`: make an index directory what is published at a URL."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from hyperpq.errors import IndexNotFoundError, SnapshotChangedError, StoreError
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.remote.pushing import FILES_AT_ONCE, LOCK_TIMEOUT
from hyperpq.remote.record import REPORT, RemoteRecord
from hyperpq.remote.storage import MissingObjectError, Published, Storage
from hyperpq.store.index_store import IndexStore
from hyperpq.store.lock import writer_lock
from hyperpq.store.manifest import FileEntry, Manifest
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.place import PULLING, Place, find_place
from hyperpq.store.publish import link_file, publish_inside
from hyperpq.store.snapshot_reader import SnapshotReader
from hyperpq.store.swap import recover_directory
from hyperpq.store.transaction import make_folders, write_manifest
from hyperpq.utils.cache import cache_folder
from hyperpq.utils.files import atomic_write, checksum, checksums_of_file, fsync_folder, make_folder

# How long a process waits for another one that pulls into the same directory.
_WAIT_SECONDS = 3600.0


def local_copy(url: str, *, progress: ProgressLike = None) -> Path:
    """Directory with what is published at a URL now, in the user's cache.

    Files that an earlier copy has are not copied again. All processes of a user share the copy.

    Parameters
    ----------
    url : str
        See `pull`.
    progress : Progress or bool, optional
        See `hyperpq.progress.ProgressLike`.

    Returns
    -------
    Path
        A folder below `hyperpq.utils.cache.cache_folder`. It is for reading.

    Raises
    ------
    StoreError
        If there is no home directory for the cache, and as `pull`.
    """
    url = url.rstrip("/")
    folder = cache_folder()
    if folder is None:
        raise StoreError(
            f"{url}: there is no home directory for a copy; set HYPERPQ_CACHE to a folder for it."
        )
    path = folder / "remote" / checksum(url.encode())
    pull(url, path, overwrite=True, progress=progress)
    return path


def pull(
    url: str,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: ProgressLike = None,
) -> bool:
    """Make an index directory what is published at a URL.

    Files that the directory has are kept, others are copied beside it and checked, then the
    manifest is replaced: readers of the directory see the old snapshot or the new one, whole. A
    pull that is killed goes on where it was.

    Parameters
    ----------
    url : str
        Where an index was published by `push`, such as ``s3://bucket/index``.
    path : path-like
        An index directory, or where it is to be.
    overwrite : bool
        Whether to replace an index in the directory that has changes which were not pushed.
    progress : Progress or bool, optional
        See `hyperpq.progress.ProgressLike`.

    Returns
    -------
    bool
        Whether the directory has another content than before.

    Raises
    ------
    IndexNotFoundError
        If nothing is published at the URL.
    SnapshotChangedError
        If the directory has changes that were not pushed. Nothing was changed.
    CorruptIndexError, FormatVersionError
        If a file at the URL is damaged, or of a later version.
    IndexLockedError
        If another process is writing to the directory.
    StoreError
        If the storage or the system refuses.
    InvalidInputError, MissingDependencyError
        If there is no such protocol, or a package for it is missing.
    """
    storage = Storage(url)
    target = Path(os.path.abspath(path))
    # Before anything is made.
    _read(storage)
    recover_directory(target)
    place = find_place(target)
    work = place.working_directory(PULLING)
    make_folder(work)
    with writer_lock(work, wait=_WAIT_SECONDS):
        is_done = False
        try:
            changed = _update(storage, place, work / "index", overwrite, progress)
            is_done = True
        finally:
            # What was copied is used when this is called again.
            if is_done or not (work / "index").exists():
                shutil.rmtree(work, ignore_errors=True)
    return changed


def _read(storage: Storage) -> Published:
    published = storage.read()
    if published is None:
        raise IndexNotFoundError(
            f"{storage.url}: there is no index here; publish one with `hyperpq push`, or check the "
            "URL."
        )
    return published


def _update(
    storage: Storage, place: Place, work: Path, overwrite: bool, progress: ProgressLike
) -> bool:
    former = read_manifest(place.path) if SnapshotReader.exists(place.path) else None
    while True:
        published = _read(storage)
        fingerprint = published.manifest.fingerprint()
        if former is None:
            place.check_free()
        elif not _begin_to_replace(former, place.path, storage.url, fingerprint, overwrite):
            return False
        try:
            _gather(storage, published.manifest, former, place.path, work, progress)
            break
        except MissingObjectError:
            # The writer of a new snapshot may remove files of an old one.
            if _read(storage).data == published.data:
                raise
    atomic_write(work / REPORT, RemoteRecord(storage.url, fingerprint).to_bytes())
    make_folder(place.path)
    publish_inside(work, place, overwrite=former is not None, expected=former)
    return True


def _begin_to_replace(
    former: Manifest, path: Path, url: str, fingerprint: str, overwrite: bool
) -> bool:
    """Note that an index is going to be replaced; False if it has that content already."""
    own, record = former.fingerprint(), RemoteRecord.read(path, url)
    is_same = own == fingerprint
    if not is_same and not overwrite and not record.allows_pull_over(own):
        raise SnapshotChangedError(
            f"{path}: the index has changes that were not pushed to {url}; push them, pull into "
            "another directory, or pull with overwrite to lose them."
        )
    noted = RemoteRecord(url, own) if is_same else replace(record, pulling=fingerprint)
    if noted != record:
        store = IndexStore.open(path)
        store.lock_timeout = LOCK_TIMEOUT
        store.write_report(REPORT, noted.to_bytes())
    return not is_same


def _gather(
    storage: Storage,
    manifest: Manifest,
    former: Manifest | None,
    present: Path,
    work: Path,
    progress: ProgressLike,
) -> None:
    """Make an index directory of what is published, from files that are present and others."""
    make_folder(work)
    make_folders(work)
    here = {} if former is None else {entry: file for file, entry in former.named_files.items()}
    missing: list[tuple[Path, FileEntry]] = []
    for file, entry in manifest.named_files.items():
        if entry in here:
            link_file(present / here[entry], work / file, entry)
        elif not _is_whole(work / file, entry):
            missing.append((work / file, entry))

    def copy(file: tuple[Path, FileEntry]) -> int:
        path, entry = file
        storage.download(entry, path)
        return entry.size

    total = sum(entry.size for _, entry in missing)
    shown = as_progress(progress)
    with (
        shown.phase("downloading", total, "bytes") as phase,
        ThreadPoolExecutor(FILES_AT_ONCE) as do,
    ):
        for size in do.map(copy, missing):
            phase.advance(size)
    for folder in sorted({path.parent for path, _ in missing}):
        fsync_folder(folder)
    write_manifest(work, manifest)


def _is_whole(path: Path, entry: FileEntry) -> bool:
    """Whether an interrupted pull has left a file here, whole."""
    try:
        return checksums_of_file(path, entry.size) == entry.checksums
    except StoreError:
        return False
