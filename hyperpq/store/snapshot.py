"""`Snapshot`: one state of an index directory, read while a writer may be making the next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import CorruptIndexError, StoreError
from hyperpq.store.hdf5_layout import map_file
from hyperpq.store.manifest import FOLDERS, Manifest
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.place import whole_directory
from hyperpq.store.shard import Shard
from hyperpq.store.tombstones import read_tombstones
from hyperpq.utils.files import irregular_file


@dataclass(frozen=True)
class Snapshot:
    """What one commit has left in an index directory.

    Attributes
    ----------
    manifest : Manifest
        What the directory holds.
    shards : tuple of Shard
        The rows, opened.
    files : mapping of str to ndarray, shape (bytes,), uint8
        Bytes of each of the manifest's ``files``, mapped: a later commit may remove them.
    """

    manifest: Manifest
    shards: tuple[Shard, ...] = ()
    files: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)


def open_snapshot(path: Path, known: Snapshot | None = None) -> Snapshot:
    """Read the present snapshot of the index ``path``, wherever it is whole; write nothing.

    Parameters
    ----------
    path : Path
        The place of the index.
    known : Snapshot, optional
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


def read_snapshot(root: Path, known: Snapshot | None = None) -> Snapshot:
    """Read the present snapshot of an index directory.

    Parameters
    ----------
    root : Path
        The index directory.
    known : Snapshot, optional
        A snapshot of this directory; what is open already is taken over.

    Raises
    ------
    IndexNotFoundError, FormatVersionError, CorruptIndexError, StoreError
        See `manifest_parser.read_manifest`, `Shard` and `tombstones.read_tombstones`.
    """
    while True:
        folder = _identity(root)
        manifest = read_manifest(root)
        try:
            snapshot = snapshot_of(root, manifest, known)
        except CorruptIndexError:
            # A writer that commits meanwhile removes what its snapshot no longer names.
            if read_manifest(root) == manifest:
                raise
            continue
        # A name in an index is never given to another content, but the whole folder may have been
        # replaced by another index with a shard of the same name and length.
        if folder == _identity(root):
            return snapshot


def snapshot_of(root: Path, manifest: Manifest, known: Snapshot | None = None) -> Snapshot:
    """Open a snapshot whose manifest is known; later commits may have removed files of it.

    Raises
    ------
    CorruptIndexError, StoreError
        If a file of it is gone, has another length, or is small and altered.
    """
    for name in FOLDERS:
        if (root / name).is_symlink():
            raise irregular_file(root / name)
    files = _open_files(root, manifest, known)
    return Snapshot(manifest, _open_shards(root, manifest, known), files)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that has its name later."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _open_files(
    root: Path, manifest: Manifest, known: Snapshot | None
) -> dict[str, NDArray[np.uint8]]:
    opened = {}
    if known is not None:
        for name, entry in known.manifest.files.items():
            opened[known.manifest.stored_name(name), entry] = known.files[name]
    files = {}
    for name, entry in manifest.files.items():
        stored = manifest.stored_name(name)
        data = opened.get((stored, entry))
        files[name] = map_file(root / stored, entry) if data is None else data
    return files


def _open_shards(root: Path, manifest: Manifest, known: Snapshot | None) -> tuple[Shard, ...]:
    before = known.shards if known else ()
    opened = {(shard.entry.file, shard.entry.content): shard for shard in before}
    shards = []
    for named in manifest.shards:
        shard = opened.get((named.file, named.content))
        if shard is None:
            shard = Shard(root, named, read_tombstones(root, named))
        elif shard.entry != named:
            shard = shard.replace_deleted(named, read_tombstones(root, named))
        shards.append(shard)
    return tuple(shards)
