"""One generation of an index directory, read while a writer may be making the next."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from hyperpq.errors import CorruptIndexError
from hyperpq.store.manifest import FileEntry, Manifest
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.shard import Shard, read_dead
from hyperpq.store.transaction import FOLDERS
from hyperpq.utils.files import os_errors


def read_generation(root: Path, known: Iterable[Shard] = ()) -> tuple[Manifest, list[Shard]]:
    """One generation as it is on disk; ``known`` shards of this directory are taken over."""
    while True:
        folder = _identity(root)
        manifest = read_manifest(root)
        try:
            shards = _load_shards(root, manifest, known)
        except CorruptIndexError:
            # A writer that commits meanwhile removes what its generation no longer names.
            if read_manifest(root) == manifest:
                raise
            continue
        # A name in an index is never given to another content, but the whole folder may have been
        # replaced by another index with a shard of the same name and length.
        if folder == _identity(root):
            return manifest, shards


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another that has its name later."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _load_shards(root: Path, manifest: Manifest, known: Iterable[Shard]) -> list[Shard]:
    for name in FOLDERS:
        if (root / name).is_symlink():
            raise CorruptIndexError(f"{root / name}: a link, and an index holds none")
    for name, entry in manifest.files.items():
        _check_status(root / name, entry)
    kept = {(shard.entry.file, shard.entry.content): shard for shard in known}
    shards = []
    for shard in manifest.shards:
        old = kept.get((shard.file, shard.content))
        if old and old.entry == shard:
            shards.append(old)
            continue
        dead = read_dead(root, shard)
        shards.append(old.with_dead(shard, dead) if old else Shard(root, shard, dead))
    return shards


def _check_status(path: Path, entry: FileEntry) -> None:
    with os_errors("read", path):
        try:
            status = os.lstat(path)
        except FileNotFoundError as error:
            raise CorruptIndexError(f"{path}: this file of the index is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise CorruptIndexError(f"{path}: not a regular file; an index holds no links or devices")
    if status.st_size != entry.bytes:
        raise CorruptIndexError(
            f"{path}: {status.st_size} bytes long, the manifest says {entry.bytes}; "
            "the file is torn or altered"
        )
