"""The next generation of an index directory: written aside, then published in one step."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.store.manifest import MANIFEST_NAME, Manifest, dead_file
from hyperpq.store.manifest_parser import parse_manifest, read_manifest
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard, map_file, write_dead, write_shard
from hyperpq.utils.files import (
    atomic_write,
    fsync_folder,
    os_errors,
    remove_quietly,
    rename_over,
    temporary_path,
)

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
    sync : bool
        See `durable.write_synced`.
    """

    def __init__(self, root: Path, old: Manifest, manifest: Manifest, *, sync: bool = True):
        self.manifest = manifest
        self.shards: list[Shard] = []
        self._root = root
        self._old = old
        self._sync = sync
        self._next_shard = old.next_shard
        self._files: list[Path] = []  # final names of what is written under temporary ones

    def keep(self, shard: Shard, without: NDArray[np.int64] | None = None) -> None:
        """Take over a shard, without the rows that ``without`` numbers."""
        if without is not None:
            dead = np.union1d(shard.dead_rows, without)
            if len(dead) == shard.n:
                return
            if len(dead) > len(shard.dead_rows):
                name = dead_file(shard.entry.number, self.manifest.generation)
                self._files.append(self._root / name)
                aside = temporary_path(self._files[-1])
                entry = replace(shard.entry, dead=write_dead(aside, name, dead, sync=self._sync))
                shard = shard.with_dead(entry, dead)
        self.shards.append(shard)

    def append(self, rows: Rows) -> None:
        """Write rows as a new shard.

        Raises
        ------
        InvalidInputError
            If they have another code size or schema than the shards that are there.
        """
        if self.shards:
            first = self.shards[0]
            if (rows.code_size, rows.schema) != (first.code_size, first.schema):
                raise InvalidInputError(
                    f"append: code_size {rows.code_size} and columns {rows.schema}, expected "
                    f"{first.code_size} and {first.schema} as in all shards"
                )
        target = self._root / f"shards/{self._next_shard:06d}.h5"
        self._files.append(target)
        aside, no_dead = temporary_path(target), np.empty(0, np.int64)
        entry = write_shard(aside, self._next_shard, rows, sync=self._sync)
        self._next_shard += 1
        # Opened under its temporary name, it stays the same file under its final one.
        data = map_file(aside, entry.content)
        self.shards.append(Shard(self._root, entry, no_dead, data))

    def publish(self) -> None:
        """Give the new files their names, then name them in the manifest: the moment of commit.

        Raises
        ------
        StoreError
            If the system refuses. The old generation is then the one on disk, unless the
            message says that it isn't known.
        """
        entries = tuple(shard.entry for shard in self.shards)
        self.manifest = replace(self.manifest, shards=entries, next_shard=self._next_shard)
        # An earlier attempt may have failed after its manifest was renamed and put back. Its
        # names are about to be used again, so what is in the folder now must be there for good.
        fsync_folder(self._root, sync=self._sync)
        renamed = []
        try:
            for path in self._files:
                rename_over(temporary_path(path), path)
                renamed.append(path)
            for folder in sorted({path.parent for path in self._files}):
                fsync_folder(folder, sync=self._sync)
            write_manifest(self._root, self.manifest, sync=self._sync)
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
            write_manifest(self._root, self._old, sync=self._sync)
        except StoreError:
            raise StoreError(
                f"{cause}; whether the commit is stored isn't known, open the index again to see"
            ) from cause
        return False

    def abandon(self) -> None:
        """Remove what was written aside."""
        for path in self._files:
            remove_quietly(temporary_path(path))


def remove_leftovers(root: Path, manifest: Manifest) -> None:
    """Remove what ``manifest`` doesn't name of an earlier generation or of an interrupted commit.

    The writer lock must be held, and ``manifest`` be the one on disk for good. That something
    can't be removed doesn't matter.
    """
    named = manifest.named_files
    for folder in ("", *FOLDERS):
        with suppress(OSError):
            for name in os.listdir(root / folder):
                path = f"{folder}/{name}" if folder else name
                if path not in named and is_leftover(folder, name):
                    remove_quietly(root / path)


def is_leftover(folder: str, name: str) -> bool:
    """Whether a file that no manifest names looks like one that the store has written."""
    is_temporary = name.startswith(".") and name.endswith(".tmp")
    return is_temporary or (bool(folder) and name.endswith(".h5"))


def write_manifest(root: Path, manifest: Manifest, *, sync: bool = True) -> None:
    """Replace the manifest of ``root``, durably and in one step; under the writer lock."""
    path, data = root / MANIFEST_NAME, manifest.to_bytes()
    # What couldn't be read back must not become the index.
    parse_manifest(data, path)
    atomic_write(path, data, alone=True, sync=sync)


def make_folders(root: Path) -> None:
    """Make the folders of an index; a copy of it may have lost the empty ones."""
    for name in FOLDERS:
        with os_errors("create", root / name):
            (root / name).mkdir(exist_ok=True)
