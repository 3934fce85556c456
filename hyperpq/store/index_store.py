"""`IndexStore`: rows in an index directory, read as one snapshot and changed by transactions."""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hyperpq.errors import CorruptIndexError, InvalidInputError, SnapshotChangedError, StoreError
from hyperpq.store.base import Deletions, Store
from hyperpq.store.leftovers import remove_leftovers
from hyperpq.store.lock import writer_lock
from hyperpq.store.manifest import MANIFEST_NAME, FileEntry, Manifest
from hyperpq.store.manifest_parser import (
    MAX_FILE_BYTES,
    check_present,
    is_current,
    is_file_name,
)
from hyperpq.store.place import Place, whole_directory
from hyperpq.store.rows import Rows
from hyperpq.store.segments import check_deletions, check_next_id, check_position
from hyperpq.store.shard import Shard
from hyperpq.store.snapshot import Snapshot, open_snapshot, snapshot_of
from hyperpq.store.swap import recover_directory
from hyperpq.store.transaction import Transaction, make_folders, write_manifest
from hyperpq.store.verify import REPORT_ENDINGS, Problem, is_report_name, verify_directory
from hyperpq.utils.files import (
    atomic_write,
    checksums,
    fsync_folder,
    make_folder,
    os_errors,
    read_regular,
    torn_file,
)

Durability: TypeAlias = Literal["full", "fast"]
"""``full``: a commit survives a kill and a power cut. ``fast``: every fsync is left out, so that a
commit survives a kill, but a power cut may cost the index, which `IndexStore.verify` reports."""


class IndexStore(Store):
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
        self.path = path
        self.durability: Durability = "full"
        self.lock_timeout = 0.0
        self.read_only = False
        self._snapshot = snapshot
        # The process in which `hold_lock` is active; a forked child does not hold the lock.
        self._lock_holder = 0

    def __repr__(self) -> str:
        return (
            f"IndexStore({str(self.path)!r}, snapshot_number={self.snapshot_number}, "
            f"ntotal={self.ntotal})"
        )

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

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Whether a directory has the manifest of an index; its content is not checked.

        Raises
        ------
        StoreError
            If the system refuses to look.
        """
        manifest = whole_directory(Path(path)) / MANIFEST_NAME
        with os_errors("look for", manifest):
            try:
                os.lstat(manifest)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

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
                more = f" There are {len(damage) - 1} more problems." if len(damage) > 1 else ""
                raise CorruptIndexError(f"{root / damage[0].file}: {damage[0].what}{more}")
        store = cls(root, open_snapshot(root))
        store.read_only = read_only
        return store

    def refresh(self) -> bool:
        """Show the snapshot that is on disk now; whether it is another one.

        It may have other files, see `commit`: rows and `read_file` are always of one snapshot.

        Raises
        ------
        StoreError
            If another index has taken the place of this one.
        CorruptIndexError, IndexNotFoundError
            As `open`; this object then shows the same snapshot as before.
        """
        snapshot = open_snapshot(self.path, self._snapshot)
        if not snapshot.manifest.follows(self._manifest):
            raise StoreError(f"{self.path}: another index is in this place now; open it again.")
        changed = snapshot.manifest != self._manifest
        self._snapshot = snapshot
        return changed

    def show(self, manifest: Manifest) -> bool:
        """Show the snapshot of a known manifest, unless later commits removed a part of it.

        Parameters
        ----------
        manifest : Manifest
            A manifest that this directory had.

        Returns
        -------
        bool
            Whether that snapshot is shown now; otherwise the one of before is.

        Raises
        ------
        StoreError
            If another index has taken the place of that one.
        """
        if not (self._manifest.follows(manifest) or manifest.follows(self._manifest)):
            raise StoreError(f"{self.path}: another index is in this place now; open it again.")
        if manifest != self._manifest:
            try:
                root = whole_directory(self.path)
                self._snapshot = snapshot_of(root, manifest, self._snapshot)
            except CorruptIndexError:
                return False
        return True

    @property
    def manifest(self) -> Manifest:
        """What the snapshot that is shown holds."""
        return self._manifest

    @property
    def _manifest(self) -> Manifest:
        return self._snapshot.manifest

    @property
    def segments(self) -> tuple[Shard, ...]:
        """The rows in shards, in the order in which they were added."""
        return self._snapshot.shards

    @property
    def snapshot_number(self) -> int:
        """Number of the snapshot that this object shows: 1 for a new index, +1 a commit."""
        return self._manifest.snapshot_number

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings."""
        return copy.deepcopy(self._manifest.settings)

    @property
    def next_id(self) -> int:
        """The next id to give to a row, as the last commit set it."""
        return self._manifest.next_id

    @property
    def file_names(self) -> list[str]:
        """Names of the files that `read_file` reads."""
        return sorted(self._manifest.files)

    def fingerprint(self) -> str:
        """Hash of the content, equal for equal indexes: XXH3-128, 32 hexadecimal digits."""
        return self._manifest.fingerprint()

    def read_file(self, name: str) -> bytes:
        """Read one of the files of the snapshot that is shown, checked against its checksum.

        It is there even if a later commit has replaced it.

        Raises
        ------
        CorruptIndexError
            If the manifest does not name it, or if it is altered.
        """
        entry = self._manifest.files.get(name)
        if entry is None:
            raise CorruptIndexError(
                f"{self.path / MANIFEST_NAME}: the index has no file {name!r}; expected "
                f"{', '.join(self.file_names) or 'none'}."
            )
        data = self._snapshot.files[name].tobytes()
        if checksums(data) != entry.checksums:
            raise torn_file(self.path / self._manifest.stored_name(name), "the checksum is wrong")
        return data

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

    def read_report(self, name: str) -> bytes | None:
        """Read what `write_report` wrote under ``name``, or None if there is nothing."""
        self._check_report(name)
        path = whole_directory(self.path) / name
        return read_regular(path, limit=MAX_FILE_BYTES) if os.path.lexists(path) else None

    def _check_report(self, name: str) -> None:
        if not is_report_name(name) or name in self._manifest.files:
            raise InvalidInputError(
                f"report is {name!r}; expected letters, digits, _ and - and an ending of "
                f"{', '.join(REPORT_ENDINGS)}, and no file of the index."
            )

    def verify(self) -> list[Problem]:
        """Check the directory as it stands on disk; see `verify_directory`."""
        return verify_directory(self.path)

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
        old = self._manifest
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
            remove_leftovers(self.path, self._manifest, sync=sync)

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
            if is_current(self.path, self._manifest):
                # An earlier attempt may have failed when it made its manifest durable.
                sync = self.durability == "full"
                fsync_folder(self.path, sync=sync)
                remove_leftovers(self.path, self._manifest, sync=sync)

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
