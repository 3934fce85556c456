"""`Snapshot`: one state of an index directory, read while a writer may be making the next."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperpq.errors import CorruptIndexError, StoreError
from hyperpq.store.manifest import FOLDERS, FileEntry, Manifest
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.place import whole_directory
from hyperpq.store.shard import Shard
from hyperpq.store.tombstones import read_tombstones
from hyperpq.utils.files import irregular_file, missing_file, os_errors, wrong_length


@dataclass(frozen=True)
class Snapshot:
    """What one commit has left in an index directory.

    Attributes
    ----------
    manifest : Manifest
        What the directory holds.
    shards : tuple of Shard
        The rows, opened.
    """

    manifest: Manifest
    shards: tuple[Shard, ...] = ()


def open_snapshot(path: Path, known: Iterable[Shard] = ()) -> Snapshot:
    """Read the present snapshot of the index ``path``, wherever it is whole; write nothing.

    Parameters
    ----------
    path : Path
        The place of the index.
    known : iterable of Shard
        See `read_snapshot`.

    Raises
    ------
    IndexNotFoundError, FormatVersionError, CorruptIndexError, StoreError
        See `read_snapshot`.
    """
    while True:
        found = present_folder(path)
        try:
            return read_snapshot(found[0], known)
        except StoreError:
            # A replacement that goes on meanwhile renames the folder.
            if present_folder(path) == found:
                raise


def present_folder(path: Path) -> tuple[Path, tuple[int, int] | None]:
    """The `whole_directory` of an index, and what tells it from another one of that name."""
    root = whole_directory(path)
    return root, _identity(root)


def read_snapshot(root: Path, known: Iterable[Shard] = ()) -> Snapshot:
    """Read the present snapshot of an index directory.

    Parameters
    ----------
    root : Path
        The index directory.
    known : iterable of Shard
        Shards of this directory that are open already, and are taken over.

    Raises
    ------
    IndexNotFoundError, FormatVersionError, CorruptIndexError, StoreError
        See `manifest_parser.read_manifest`, `Shard` and `tombstones.read_tombstones`.
    """
    while True:
        folder = _identity(root)
        manifest = read_manifest(root)
        try:
            shards = _open_shards(root, manifest, known)
        except CorruptIndexError:
            # A writer that commits meanwhile removes what its snapshot no longer names.
            if read_manifest(root) == manifest:
                raise
            continue
        # A name in an index is never given to another content, but the whole folder may have been
        # replaced by another index with a shard of the same name and length.
        if folder == _identity(root):
            return Snapshot(manifest, shards)


def snapshot_of(root: Path, manifest: Manifest) -> Snapshot:
    """Open a snapshot whose manifest is known; later commits may have removed files of it.

    Raises
    ------
    CorruptIndexError, StoreError
        If a file of it is gone or has another length.
    """
    return Snapshot(manifest, _open_shards(root, manifest, ()))


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that has its name later."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_shards(root: Path, manifest: Manifest, known: Iterable[Shard]) -> tuple[Shard, ...]:
    for name in FOLDERS:
        if (root / name).is_symlink():
            raise irregular_file(root / name)
    for name, entry in manifest.files.items():
        _check_status(root / manifest.stored_name(name), entry)
    opened = {(shard.entry.file, shard.entry.content): shard for shard in known}
    shards = []
    for named in manifest.shards:
        shard = opened.get((named.file, named.content))
        if shard is None:
            shard = Shard(root, named, read_tombstones(root, named))
        elif shard.entry != named:
            shard = shard.replace_deleted(named, read_tombstones(root, named))
        shards.append(shard)
    return tuple(shards)


def _check_status(path: Path, entry: FileEntry) -> None:
    with os_errors("read", path):
        try:
            status = os.lstat(path)
        except FileNotFoundError as error:
            raise missing_file(path) from error
    if not stat.S_ISREG(status.st_mode):
        raise irregular_file(path)
    if status.st_size != entry.size:
        raise wrong_length(path, status.st_size, entry.size)
