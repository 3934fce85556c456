"""`pull`: make an index directory what is published at a URL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from hyperpq.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    SnapshotChangedError,
    StoreError,
)
from hyperpq.progress import ProgressLike, as_progress
from hyperpq.remote.pushing import FILES_AT_ONCE, LOCK_TIMEOUT
from hyperpq.remote.record import REPORT, RemoteRecord
from hyperpq.remote.storage import Published, Storage
from hyperpq.store.hdf5_layout import map_file
from hyperpq.store.lock import working_folder, writer_lock
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


def local_copy(url: str, *, verify: bool = False, progress: ProgressLike = None) -> Path:
    """Directory with what is published at a URL now, in the user's cache.

    Files that an earlier copy has are not copied again, unless they are damaged. All processes of a
    user share the copy.

    Parameters
    ----------
    url : str
        See `pull`.
    verify : bool
        Whether to compare the checksums of all files that the copy has. Otherwise shards are
        compared only by their length, unless they are small.
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
    _pull(Storage(url), path, overwrite=True, verify=verify, is_cache=True, progress=progress)
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
    pull that is killed goes on where it was. A file of the directory with another length than the
    manifest says is damaged, and is copied again.

    Parameters
    ----------
    url : str
        Where an index was published by `push`, such as ``s3://bucket/index``.
    path : path-like
        An index directory, or where it is to be.
    overwrite : bool
        Whether to replace an index in the directory that has changes which were not pushed, and to
        compare the checksums of all its files, so that damaged ones are copied again.
    progress : Progress or bool, optional
        See `hyperpq.progress.ProgressLike`.

    Returns
    -------
    bool
        Whether the directory has another content than before, or a damaged file was replaced.

    Raises
    ------
    IndexNotFoundError
        If nothing is published at the URL.
    SnapshotChangedError
        If the directory has changes that were not pushed. Nothing was changed.
    CorruptIndexError, FormatVersionError
        If a file at the URL is missing, damaged, or of a later version, or if the manifest of the
        directory is.
    IndexLockedError
        If another process is writing to the directory.
    StoreError
        If the storage or the system refuses.
    InvalidInputError, MissingDependencyError
        If there is no such protocol, or a package for it is missing.
    """
    storage = Storage(url)
    return _pull(storage, path, overwrite=overwrite, verify=overwrite, progress=progress)


def _pull(
    storage: Storage,
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    verify: bool,
    is_cache: bool = False,
    progress: ProgressLike,
) -> bool:
    target = Path(os.path.abspath(path))
    # Before anything is made.
    fingerprint = _read(storage).manifest.fingerprint()
    recover_directory(target)
    place = find_place(target)
    work = place.working_directory(PULLING)
    # What an interrupted pull has left is removed under its lock.
    if not os.path.exists(work) and _is_up_to_date(place.path, storage.url, fingerprint, verify):
        return False
    with working_folder(work, wait=_WAIT_SECONDS):
        former = _former(place, is_cache)
        changed = _update(storage, place, former, work / "index", overwrite, verify, progress)
        # After an error, what was copied is used when this is called again.
        shutil.rmtree(work / "index", ignore_errors=True)
    return changed


def _is_up_to_date(path: Path, url: str, fingerprint: str, verify: bool) -> bool:
    """Whether there is nothing to do. It takes no lock, so that readers do not wait for others."""
    try:
        manifest = read_manifest(path)
    # What is wrong with it is said by who has the lock.
    except StoreError:
        return False
    return (
        manifest.fingerprint() == fingerprint
        and RemoteRecord.read(path, url) == RemoteRecord(url, fingerprint)
        and manifest.named_files.keys() == _whole_files(path, manifest, verify)
    )


def _former(place: Place, is_cache: bool) -> Manifest | None:
    """The manifest of the directory; None, in a free place, if there is no index."""
    try:
        if SnapshotReader.exists(place.path):
            return read_manifest(place.path)
        place.check_free()
    except StoreError as error:
        # Nobody else writes to the cache: what is no whole index is damage.
        if not is_cache or place.inside or error.errno is not None:
            raise
        shutil.rmtree(place.path, ignore_errors=True)
    return None


def _read(storage: Storage) -> Published:
    published = storage.read()
    if published is None:
        raise IndexNotFoundError(
            f"{storage.url}: there is no index here; publish one with `hyperpq push`, or check the "
            "URL."
        )
    return published


def _update(
    storage: Storage,
    place: Place,
    former: Manifest | None,
    work: Path,
    overwrite: bool,
    verify: bool,
    progress: ProgressLike,
) -> bool:
    here: dict[FileEntry, Path] = {}
    is_damaged = False
    if former is not None:
        named, whole = former.named_files, _whole_files(place.path, former, verify)
        here = {named[file]: place.path / file for file in whole}
        is_damaged = len(whole) < len(named)
    while True:
        published = _read(storage)
        fingerprint = published.manifest.fingerprint()
        if former is not None:
            _begin_to_replace(former, place.path, storage.url, fingerprint, overwrite)
            if former.fingerprint() == fingerprint and not is_damaged:
                return False
        try:
            _gather(storage, published.manifest, here, work, progress)
            break
        except CorruptIndexError:
            # The writer of a new snapshot may remove files of an old one.
            if _read(storage).data == published.data:
                raise
    atomic_write(work / REPORT, RemoteRecord(storage.url, fingerprint).to_bytes())
    make_folder(place.path)
    publish_inside(work, place, overwrite=former is not None, expected=former)
    return True


def _begin_to_replace(
    former: Manifest, path: Path, url: str, fingerprint: str, overwrite: bool
) -> None:
    """Note, in a directory, that its index is going to be replaced, or has that content already."""
    own, record = former.fingerprint(), RemoteRecord.read(path, url)
    is_same = own == fingerprint
    if not is_same and not overwrite and not record.allows_pull_over(own):
        raise SnapshotChangedError(
            f"{path}: the index has changes that were not pushed to {url}; push them, pull into "
            "another directory, or pull with overwrite to lose them."
        )
    noted = RemoteRecord(url, own) if is_same else replace(record, pulling=fingerprint)
    if noted != record:
        # An `IndexStore` would not open a damaged index.
        with writer_lock(path, wait=LOCK_TIMEOUT):
            atomic_write(path / REPORT, noted.to_bytes(), alone=True)


def _gather(
    storage: Storage,
    manifest: Manifest,
    here: Mapping[FileEntry, Path],
    work: Path,
    progress: ProgressLike,
) -> None:
    """Make an index directory of what is published, from files that are present and others."""
    make_folder(work)
    make_folders(work)
    missing: list[tuple[Path, FileEntry]] = []
    for file, entry in manifest.named_files.items():
        if entry in here:
            link_file(here[entry], work / file, entry)
        elif not _is_whole(work / file, entry, verify=True):
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


def _whole_files(root: Path, manifest: Manifest, verify: bool) -> set[str]:
    """Those files of a directory that have what the manifest says.

    Shards are compared as when they are opened, other files by all checksums, as what opens an
    index reads them whole. With ``verify`` all are compared by all checksums.
    """
    shards = {shard.file for shard in manifest.shards}
    return {
        file
        for file, entry in manifest.named_files.items()
        if _is_whole(root / file, entry, verify=verify or file not in shards)
    }


def _is_whole(path: Path, entry: FileEntry, *, verify: bool) -> bool:
    try:
        if verify:
            return checksums_of_file(path, entry.size) == entry.checksums
        map_file(path, entry)
        return True
    except StoreError:
        return False
