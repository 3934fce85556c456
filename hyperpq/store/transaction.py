"""`Transaction`: the next snapshot of an index directory, written aside, then published at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import StoreError
from hyperpq.store.hdf5_layout import map_file
from hyperpq.store.leftovers import unpublished_names, write_unpublished
from hyperpq.store.manifest import (
    FOLDERS,
    MANIFEST_NAME,
    Manifest,
    shard_path,
    tombstone_path,
)
from hyperpq.store.manifest_parser import parse_manifest, read_manifest
from hyperpq.store.rows import Rows
from hyperpq.store.segments import check_appended
from hyperpq.store.shard import Shard, write_shard
from hyperpq.store.snapshot import Snapshot
from hyperpq.store.tombstones import write_tombstones
from hyperpq.utils.files import (
    atomic_write,
    fsync_folder,
    irregular_file,
    os_errors,
    remove_quietly,
    rename_over,
    temporary_path,
    write_synced,
)


class Transaction:
    """A snapshot in the making; the writer lock must be held from first to last.

    Nothing that the old snapshot names is touched before `publish`, and `publish` replaces the old
    snapshot by one rename of the manifest.

    Parameters
    ----------
    root : Path
        The index directory.
    old : Snapshot
        What is on disk.
    new : Manifest
        What the next snapshot holds, but for its shards.
    sync : bool
        See `utils.files.write_synced`.
    """

    def __init__(self, root: Path, old: Snapshot, new: Manifest, *, sync: bool = True) -> None:
        self._root, self._old, self._new, self._sync = root, old.manifest, new, sync
        self._shards: list[Shard] = []
        self._opened: dict[str, NDArray[np.uint8]] = dict(old.files)
        self._next_shard = new.next_shard
        # Final names of what is written under temporary ones.
        self._files: list[Path] = []

    def keep(self, shard: Shard, delete: NDArray[np.int64] | None = None) -> None:
        """Take over a shard, without the rows that ``delete`` numbers.

        A shard without a row left is left out.
        """
        if delete is not None:
            deleted_rows = np.union1d(shard.deleted_rows, delete)
            if len(deleted_rows) == shard.n:
                return
            if len(deleted_rows) > len(shard.deleted_rows):
                shard = self._with_tombstones(shard, deleted_rows)
        self._shards.append(shard)

    def _with_tombstones(self, shard: Shard, deleted_rows: NDArray[np.int64]) -> Shard:
        file = tombstone_path(shard.entry.number, self._new.snapshot_number)
        self._files.append(self._root / file)
        aside = temporary_path(self._files[-1])
        tombstones = write_tombstones(aside, file, deleted_rows, sync=self._sync)
        return shard.replace_deleted(replace(shard.entry, tombstones=tombstones), deleted_rows)

    def append(self, rows: Rows) -> None:
        """Write rows as a new shard.

        Raises
        ------
        InvalidInputError
            If they have another code size or schema than the shards that are there.
        StoreError
            If the system refuses to write.
        """
        if self._shards:
            check_appended(rows, self._shards[0])
        target = self._root / shard_path(self._next_shard)
        self._files.append(target)
        aside = temporary_path(target)
        entry = write_shard(aside, self._next_shard, rows, sync=self._sync)
        self._next_shard += 1
        # Opened under its temporary name, it stays the same file under its final one.
        data = map_file(aside, entry.content)
        self._shards.append(Shard(self._root, entry, np.empty(0, np.int64), data))

    def replace_files(self, data: Mapping[str, bytes]) -> None:
        """Write the files that the new snapshot has instead of those of the old one.

        Parameters
        ----------
        data : mapping of str to bytes
            Content of each of its ``files``.

        Raises
        ------
        StoreError
            If the system refuses to write.
        """
        old, new = self._old, self._new
        # One of the two snapshots leaves its names without a manifest, and an earlier attempt may.
        names = {manifest.stored_name(name) for manifest in (old, new) for name in manifest.files}
        names |= unpublished_names(self._root) or set()
        write_unpublished(self._root, names, sync=self._sync)
        for name, content in data.items():
            target = self._root / new.stored_name(name)
            self._files.append(target)
            aside = temporary_path(target)
            write_synced(aside, [(0, content)], len(content), sync=self._sync)
            self._opened[name] = map_file(aside, new.files[name])

    def publish(self) -> Snapshot:
        """Give the new files their names, then name them in the manifest: the moment of commit.

        Returns
        -------
        Snapshot
            What is on disk now.

        Raises
        ------
        StoreError
            If the system refuses. The old snapshot is then the one on disk, unless the message says
            that this is not known.
        """
        entries = tuple(shard.entry for shard in self._shards)
        manifest = replace(self._new, shards=entries, next_shard=self._next_shard)
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
            write_manifest(self._root, manifest, sync=self._sync)
        except BaseException as cause:
            if self._is_still_old(cause):
                for path in renamed:
                    remove_quietly(path)
            raise
        files = {name: self._opened[name] for name in manifest.files}
        return Snapshot(manifest, tuple(self._shards), files)

    def _is_still_old(self, cause: BaseException) -> bool:
        """Put the old manifest back if the new one has its name but could not be made durable.

        Returns whether the new manifest never had the name. Otherwise a power cut may bring it
        back, and the files that it names must stay.
        """
        try:
            if read_manifest(self._root) == self._old:
                return True
            write_manifest(self._root, self._old, sync=self._sync)
        except StoreError:
            unknown = StoreError(
                f"{str(cause).rstrip('.')}; it is not known whether the commit is stored; open the "
                "index again to see."
            )
            unknown.errno = getattr(cause, "errno", None)
            raise unknown from cause
        return False

    def abandon(self) -> None:
        """Remove what was written aside."""
        for path in self._files:
            remove_quietly(temporary_path(path))


def write_manifest(root: Path, manifest: Manifest, *, sync: bool = True) -> None:
    """Replace the manifest of ``root``, durably and in one step; under the writer lock."""
    path, data = root / MANIFEST_NAME, manifest.to_bytes()
    # What can't be read back must not become the index.
    parse_manifest(data, path)
    atomic_write(path, data, alone=True, sync=sync)


def make_folders(root: Path) -> None:
    """Make the folders of an index; a copy of it may have lost the empty ones."""
    for name in FOLDERS:
        with os_errors("create", root / name):
            (root / name).mkdir(exist_ok=True)
        if (root / name).is_symlink():
            raise irregular_file(root / name)
