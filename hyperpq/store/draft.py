"""The next generation of an index directory: written aside, then published in one step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hyperpq.errors import StoreError
from hyperpq.store.durable import (
    atomic_write,
    fsync_folder,
    os_errors,
    remove_quietly,
    rename_over,
    temporary_path,
)
from hyperpq.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    dead_file,
    parse_manifest,
    read_manifest,
)
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard, identity_of, write_dead, write_shard

FOLDERS = ("shards", "dead")


class Draft:
    """A generation in the making; the writer lock must be held from first to last.

    Nothing that the old generation names is touched before `publish`, and `publish` changes it
    by one rename of the manifest.

    Parameters
    ----------
    root : Path
        The index directory.
    old : Manifest
        The generation on disk.
    manifest : Manifest
        The next one, but for its shards.
    """

    def __init__(self, root: Path, old: Manifest, manifest: Manifest):
        self.manifest = manifest
        self.shards: list[Shard] = []
        self._root = root
        self._old = old
        self._files: list[Path] = []  # final names of what is written under temporary ones

    def keep(self, shards: Iterable[Shard], removals: Mapping[str, np.ndarray]) -> None:
        """Take over shards, without the rows that ``removals`` gives by shard name."""
        for shard in shards:
            if shard.name in removals:
                dead = np.union1d(shard.dead_rows, removals[shard.name])
                if len(dead) > len(shard.dead_rows):
                    shard = shard.with_dead(self._write_dead(shard.entry, dead), dead)
            self.shards.append(shard)

    def append(self, batches: Sequence[Rows | Shard]) -> None:
        """Write each batch of rows as a new shard."""
        for number, rows in enumerate(batches, self._old.next_shard):
            target = self._root / f"shards/{number:06d}.h5"
            self._files.append(target)
            entry = write_shard(temporary_path(target), number, rows)
            with os_errors("read", target):
                identity = identity_of(os.stat(temporary_path(target)))
            dead = np.flatnonzero(rows.dead) if rows.dead is not None else np.empty(0, np.int64)
            if len(dead):
                entry = self._write_dead(entry, dead.astype(np.int64))
            self.shards.append(Shard(self._root, entry, dead, identity))

    def _write_dead(self, shard: ShardEntry, dead: np.ndarray) -> ShardEntry:
        name = dead_file(shard.number, self.manifest.generation)
        self._files.append(self._root / name)
        return replace(shard, dead=write_dead(temporary_path(self._files[-1]), name, dead))

    def publish(self) -> None:
        """Give the new files their names, then name them in the manifest: the moment of commit.

        Raises
        ------
        StoreError
            If the system refuses. The old generation is then the one on disk, unless the
            message says that it isn't known.
        """
        entries = tuple(shard.entry for shard in self.shards)
        self.manifest = replace(self.manifest, shards=entries)
        # An earlier attempt may have failed after its manifest was renamed and put back. Its
        # names are about to be used again, so what is in the folder now must be there for good.
        fsync_folder(self._root)
        renamed = []
        try:
            for path in self._files:
                rename_over(temporary_path(path), path)
                renamed.append(path)
            for folder in sorted({path.parent for path in self._files}):
                fsync_folder(folder)
            write_manifest(self._root, self.manifest)
        except BaseException as cause:
            if self._is_still_old(cause):
                for path in renamed:
                    remove_quietly(path)
            raise

    def _is_still_old(self, cause: BaseException) -> bool:
        """Put the old manifest back if the new one has its name but couldn't be made durable.

        Returns whether the new manifest never had the name. Otherwise a power cut may bring it
        back, and the files that it names must stay.
        """
        try:
            if read_manifest(self._root) == self._old:
                return True
            write_manifest(self._root, self._old)
        except StoreError:
            raise StoreError(
                f"{cause}; whether the commit is stored isn't known, open the index again to see"
            ) from cause
        return False

    def abandon(self) -> None:
        """Remove what was written aside."""
        for path in self._files:
            remove_quietly(temporary_path(path))

    def remove_unnamed(self) -> None:
        """Remove, after `publish`, what only the old generation named."""
        for name in self._old.named_files.keys() - self.manifest.named_files.keys():
            remove_quietly(self._root / name)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest of ``root``, durably and in one step; under the writer lock."""
    path, data = root / MANIFEST_NAME, manifest.to_bytes()
    # What couldn't be read back must not become the index.
    parse_manifest(data, path)
    atomic_write(path, data, alone=True)


def make_folders(root: Path) -> None:
    """Make the folders of an index; a copy of it may have lost the empty ones."""
    for name in FOLDERS:
        with os_errors("create", root / name):
            (root / name).mkdir(exist_ok=True)
