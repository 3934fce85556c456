"""`IndexStore`: rows in an index directory, read as one snapshot and changed by transactions."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hyperpq.errors import CorruptIndexError, InvalidInputError, SnapshotChangedError, StoreError
from hyperpq.store.base import Deletions
from hyperpq.store.leftovers import remove_leftovers
from hyperpq.store.lock import writer_lock
from hyperpq.store.manifest import FileEntry, Manifest
from hyperpq.store.manifest_parser import (
    MAX_FILE_BYTES,
    check_present,
    is_current,
    is_file_name,
)
from hyperpq.store.place import Place
from hyperpq.store.rows import Rows
from hyperpq.store.segments import check_deletions, check_next_id, check_position
from hyperpq.store.snapshot import Snapshot, open_snapshot
from hyperpq.store.snapshot_reader import SnapshotReader
from hyperpq.store.swap import recover_directory
from hyperpq.store.transaction import Transaction, make_folders, write_manifest
from hyperpq.store.verify import verify_directory
from hyperpq.utils.files import (
    atomic_write,
    checksums,
    fsync_folder,
    make_folder,
)

Durability: TypeAlias = Literal["full", "fast"]
"""``full``: a commit survives a kill and a power cut. ``fast``: every fsync is left out, so that a
commit survives a kill, but a power cut may cost the index, which `IndexStore.verify` reports."""


class IndexStore(SnapshotReader):
    """A store in an index directory: settings, checked files, and shards of codes as segments.

    An object shows one snapshot. Commits of another writer do not change it until `refresh` is
    called. Reading needs neither a lock nor the right to write, and changes nothing on disk.
    `docs/reference/format.md` describes every file and the order of a commit.

    Parameters
    ----------
    path : Path
        The directory.
    snapshot : Snapshot
        What is shown; see `open` and `create`.

    Attributes
    ----------
    path : Path
        The directory.
    durability : {"full", "fast"}
        What a commit survives, see `Durability`.
    lock_timeout : float
        Seconds that a change waits for another writer before it raises `IndexLockedError`; 0, not
        to wait, by default.
    read_only : bool
        Whether every change is refused, see `open`.
    """

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        super().__init__(path, snapshot)
        self.durability: Durability = "full"
        self.lock_timeout = 0.0
        self.read_only = False
        # The process in which `hold_lock` is active; a forked child does not hold the lock.
        self._lock_holder = 0

    def __copy__(self) -> IndexStore:
        """Another object with the same snapshot, which does not hold the lock of this one."""
        other = IndexStore(self.path, self._snapshot)
        other.durability, other.lock_timeout = self.durability, self.lock_timeout
        other.read_only = self.read_only
        return other

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        settings: dict[str, Any],
        files: Mapping[str, bytes],
    ) -> IndexStore:
        """Make a new index directory with no rows.

        Parameters
        ----------
        path : path-like
            Must not exist, be an empty folder, or hold only what an interrupted `create` left.
        settings : dict
            Anything that JSON can hold.
        files : mapping of str to bytes
            Files beside the manifest, such as those of the codec; `commit` can replace them.

        Raises
        ------
        StoreError
            If the place is taken or the system refuses.
        InvalidInputError
            If a file name or the settings cannot be stored.
        """
        root = Path(os.path.abspath(path))
        manifest = Manifest(1, _json_copy(settings), 0, 0, _file_entries(files), ())
        recover_directory(root)
        place = Place(root, inside=True)
        place.check_free(files)
        make_folder(root)
        with writer_lock(root):
            place.check_free(files)
            make_folders(root)
            for name, data in files.items():
                atomic_write(root / name, data)
            write_manifest(root, manifest)
        return cls(root, open_snapshot(root))

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, verify: bool = False, read_only: bool = False
    ) -> IndexStore:
        """Open an index directory for reading and writing; the opening itself writes nothing.

        The manifest, the tombstones and files below 256 KiB are read and checked; every other file
        is mapped, once it is checked that it has its length. `read_file` and `verify` check
        contents.

        Parameters
        ----------
        path : path-like
            The directory.
        verify : bool
            Check every file first, as `verify` does.
        read_only : bool
            Whether every change by this object raises a `StoreError`. Without it a change is
            refused only where the system refuses to write.

        Raises
        ------
        IndexNotFoundError
            If there is no index.
        FormatVersionError
            If a later hyperpq wrote it.
        CorruptIndexError
            If a file is missing, torn or altered; the message names it.
        StoreError
            If the system refuses to read.
        """
        root = Path(os.path.abspath(path))
        if verify:
            damage = [problem for problem in verify_directory(root) if problem.kind == "damage"]
            if damage:
                others = len(damage) - 1
                more = f" There are {others} more problems." if others else ""
                if others == 1:
                    more = " There is 1 more problem."
                raise CorruptIndexError(f"{root / damage[0].file}: {damage[0].what}{more}")
        store = cls(root, open_snapshot(root))
        store.read_only = read_only
        return store

    def write_report(self, name: str, data: bytes) -> None:
        """Write a file for people beside the index, whole or not at all, without a checksum.

        Parameters
        ----------
        name : str
            Letters, digits, ``_`` and ``-``, and an ending of `verify.REPORT_ENDINGS`.
        data : bytes
            The content.

        Raises
        ------
        IndexLockedError
            If another process is writing to the index.
        """
        self._check_report(name)
        with self._lock():
            atomic_write(self.path / name, data, alone=True)

    def commit(
        self,
        *,
        append: Iterable[Rows] = (),
        delete: Deletions | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
        settings: dict[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Make the next snapshot, durable when this returns.

        Parameters
        ----------
        append, delete, drop, next_id
            See `Store.commit`. Each of ``append`` becomes a shard.
        settings : dict, optional
            New settings; the old ones are kept unless given.
        files : mapping of str to bytes, optional
            All files of the next snapshot, such as those of another codec, instead of the present
            ones. Codes of the former codec cannot stay: every segment must be among ``drop``.

        Raises
        ------
        InvalidInputError
            If an argument does not fit the index.
        IndexLockedError
            If another process is writing, and has not finished within `lock_timeout`.
        SnapshotChangedError
            If another writer has committed since this object was opened or refreshed. What the
            arguments say of segments may be wrong by now, so nothing was changed.
        StoreError
            If the system refuses (disk full, I/O error, read-only). The snapshot before is intact.
        """
        old = self.manifest
        new = replace(
            old,
            snapshot_number=old.snapshot_number + 1,
            settings=old.settings if settings is None else _json_copy(settings),
            next_id=old.next_id if next_id is None else check_next_id(next_id),
        )
        if files is not None:
            new = new.replace_files(_file_entries(files))
        deletions, dropped = check_deletions(self.segments, delete or {}), set(drop)
        for position in dropped:
            check_position(self.segments, position, "drop")
        if files is not None and len(dropped) < len(self.segments):
            raise InvalidInputError(
                f"drop has {len(dropped)} of {len(self.segments)} segments; expected all of them, "
                "as files replace the codec of every row."
            )
        with self._lock():
            if not is_current(self.path, old):
                raise SnapshotChangedError(
                    f"{self.path}: the index was changed by another writer; refresh the index, "
                    "then try again."
                )
            make_folders(self.path)
            sync = self.durability == "full"
            transaction = Transaction(self.path, self._snapshot, new, sync=sync)
            try:
                if files is not None and new.files != old.files:
                    transaction.replace_files(files)
                for position, shard in enumerate(self.segments):
                    if position not in dropped:
                        transaction.keep(shard, deletions.get(position))
                for rows in append:
                    transaction.append(rows)
                    # Before the next rows are made: only one segment is in memory.
                    del rows
                self._snapshot = transaction.publish()
            except BaseException:
                transaction.abandon()
                raise
            remove_leftovers(self.path, self.manifest, sync=sync)

    def compact(self) -> bool:
        """Join small shards and leave out deleted rows; whether there was anything to do.

        Otherwise files that an interrupted commit has left are removed. See `Store.compact`.
        """
        done = super().compact()
        if not done:
            self.remove_leftovers()
        return done

    def remove_leftovers(self) -> None:
        """Remove files that an interrupted commit has left; every commit does so at its end."""
        with self._lock():
            if is_current(self.path, self.manifest):
                # An earlier attempt may have failed when it made its manifest durable.
                sync = self.durability == "full"
                fsync_folder(self.path, sync=sync)
                remove_leftovers(self.path, self.manifest, sync=sync)

    @contextmanager
    def hold_lock(self) -> Iterator[None]:
        """Keep other writers out, so that what is refreshed in the block stays the newest.

        Changes by this object in the block take place under the same lock, and blocks can be
        nested. Other threads must not change the object meanwhile.

        Raises
        ------
        IndexLockedError
            If another process is writing, and has not finished within `lock_timeout`.
        """
        with self._lock():
            before, self._lock_holder = self._lock_holder, os.getpid()
            try:
                yield
            finally:
                self._lock_holder = before

    def _lock(self) -> AbstractContextManager[None]:
        if self._lock_holder == os.getpid():
            return nullcontext()
        return self._taken_lock()

    @contextmanager
    def _taken_lock(self) -> Iterator[None]:
        """The writer lock, taken once what a killed writer has left undone is undone."""
        if self.read_only:
            refused = StoreError(
                f"{self.path}: the index was opened with read_only; open it without to change it."
            )
            refused.errno = errno.EROFS
            raise refused
        recover_directory(self.path)
        # Otherwise the lock would be what is missing, or be made in a folder of something else.
        check_present(self.path)
        with writer_lock(self.path, wait=self.lock_timeout):
            yield


def _file_entries(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    for name, data in files.items():
        if not is_file_name(name) or len(data) > MAX_FILE_BYTES:
            raise InvalidInputError(
                f"files have {name!r} of {len(data)} bytes; expected a name of letters, digits, _, "
                f". and -, and at most {MAX_FILE_BYTES} bytes."
            )
    return {name: FileEntry(len(data), checksums(data)) for name, data in files.items()}


def _json_copy(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        copied = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"settings cannot be stored as JSON: {error}.") from error
    if not isinstance(copied, dict):
        raise InvalidInputError(f"settings are of {type(settings)}; expected a dict.")
    return copied
