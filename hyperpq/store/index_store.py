"""`IndexStore`: an index directory, read in one generation and written one generation at a time."""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hyperpq.errors import CorruptIndexError, InvalidInputError, StoreError
from hyperpq.store.draft import FOLDERS, Draft, make_folders, write_manifest
from hyperpq.store.durable import (
    LOCK_NAME,
    atomic_write,
    checksum,
    fsync_folder,
    os_errors,
    read_regular,
    writer_lock,
)
from hyperpq.store.manifest import (
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    MAX_INT,
    FileEntry,
    Manifest,
    is_file_name,
    read_manifest,
)
from hyperpq.store.replace import recover_directory
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard, checked_read, identity_of, read_dead
from hyperpq.store.verify import Problem, is_report_name, verify_directory


class IndexStore:
    """An index directory on disk: settings, checked files and shards of codes.

    An object shows one generation; another writer's commits don't change it. Reading needs no
    lock and no right to write. `docs/format.md` describes every file and the order of a commit.

    Attributes
    ----------
    path : Path
        The directory.
    shards : list of Shard
        The rows, in the order in which they were added.
    """

    def __init__(self, path: Path, manifest: Manifest, shards: list[Shard]):
        self.path = path
        self.shards = shards
        self._manifest = manifest

    def __repr__(self) -> str:
        return f"IndexStore({str(self.path)!r}, generation={self.generation}, ntotal={self.ntotal})"

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
            Files beside the manifest, never changed again, such as the codec.

        Raises
        ------
        StoreError
            If the place is taken or the system refuses.
        InvalidInputError
            If a file name or the settings can't be stored.
        """
        root = Path(os.path.abspath(path))
        manifest = Manifest(1, _json_copy(settings), 0, 0, {}, ())
        for name, data in files.items():
            if not is_file_name(name) or len(data) > MAX_FILE_BYTES:
                raise InvalidInputError(
                    f"files: {name!r} is not a name for a file of an index, or longer than 1 GiB"
                )
            manifest.files[name] = FileEntry(len(data), checksum(data))
        recover_directory(root)
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
        with os_errors("create", root):
            root.mkdir(parents=True, exist_ok=True)
        _check_free(root, files)
        with writer_lock(root):
            _check_free(root, files)
            make_folders(root)
            for name, data in files.items():
                atomic_write(root / name, data)
            write_manifest(root, manifest)
        for folder in made:
            fsync_folder(folder.parent)
        return cls(root, manifest, [])

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> IndexStore:
        """Open an index directory for reading and writing.

        The manifest and the lists of removed rows are read and checked; of every other file only
        that it is there and has its length. Contents are checked by `read_file` and `verify`.

        Parameters
        ----------
        path : path-like
            The directory.
        verify : bool
            Check every file first, as `verify` does.

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
        recover_directory(root)
        if verify:
            damage = [problem for problem in verify_directory(root) if problem.kind == "damage"]
            if damage:
                more = f" ({len(damage) - 1} more problems)" if len(damage) > 1 else ""
                raise CorruptIndexError(f"{root / damage[0].file}: {damage[0].what}{more}")
        while True:
            manifest = read_manifest(root)
            try:
                return cls(root, manifest, _load_shards(root, manifest))
            except CorruptIndexError:
                # A writer that commits meanwhile removes what its generation no longer names.
                if read_manifest(root) == manifest:
                    raise

    @property
    def generation(self) -> int:
        """Number of the generation that this object shows."""
        return self._manifest.generation

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

    @property
    def ntotal(self) -> int:
        """Number of rows that are not removed."""
        return sum(shard.live for shard in self._manifest.shards)

    def fingerprint(self) -> str:
        """Hash of the content, equal for equal indexes: XXH3-128, 32 hexadecimal digits."""
        return self._manifest.fingerprint()

    def read_file(self, name: str) -> bytes:
        """Read one of the files given to `create`, checked against its checksum.

        Raises
        ------
        CorruptIndexError
            If the manifest doesn't name it, or it is missing or altered.
        """
        if name not in self._manifest.files:
            raise CorruptIndexError(f"{self.path / MANIFEST_NAME}: the index has no file {name!r}")
        return checked_read(self.path / name, self._manifest.files[name])

    def write_report(self, name: str, data: bytes) -> None:
        """Write a file for people beside the index, whole or not at all, without a checksum.

        Parameters
        ----------
        name : str
            Letters, digits, ``_`` and ``-``, and one of the endings ``.csv``, ``.jsonl``,
            ``.json``, ``.txt`` and ``.html``.
        data : bytes
            The content.

        Raises
        ------
        IndexLockedError
            If another process is writing to the index.
        """
        path = self._report_path(name)
        with writer_lock(self.path):
            atomic_write(path, data, alone=True)

    def read_report(self, name: str) -> bytes | None:
        """Read what `write_report` wrote under ``name``, or None if there is nothing."""
        path = self._report_path(name)
        return read_regular(path, limit=MAX_FILE_BYTES) if os.path.lexists(path) else None

    def _report_path(self, name: str) -> Path:
        if not is_report_name(name) or name in self._manifest.files:
            raise InvalidInputError(
                f"report {name!r}: expected letters, digits, _ and - and one of the endings "
                ".csv, .jsonl, .json, .txt, .html, and no file of the index"
            )
        return self.path / name

    def verify(self) -> list[Problem]:
        """Check the directory as it stands on disk; see `verify_directory`."""
        return verify_directory(self.path)

    def commit(
        self,
        *,
        append: Sequence[Rows | Shard] = (),
        remove: Mapping[str, np.ndarray] | None = None,
        settings: dict[str, Any] | None = None,
        next_id: int | None = None,
    ) -> None:
        """Make one new generation, durable when this returns.

        Parameters
        ----------
        append : sequence of Rows or Shard
            Each becomes a shard; all of the index have one ``code_size``.
        remove : mapping of str to integer ndarray
            Shard name to numbers of rows to remove; rows that are removed already may be among
            them.
        settings : dict or None
            New settings; None keeps them.
        next_id : int or None
            New value of `next_id`; None keeps it.

        Raises
        ------
        InvalidInputError
            If the arguments don't fit the index.
        IndexLockedError
            If another process is writing.
        StoreError
            If another writer has committed since this object was opened, or the system refuses
            (disk full, I/O error, read-only). The generation before is intact.
        """
        old = self._manifest
        manifest = replace(
            old,
            generation=old.generation + 1,
            settings=old.settings if settings is None else _json_copy(settings),
            next_id=old.next_id if next_id is None else _check_next_id(next_id),
            next_shard=old.next_shard + len(append),
        )
        removals = self._check_removals(remove or {})
        self._check_code_sizes(append)
        with writer_lock(self.path):
            if read_manifest(self.path) != old:
                raise StoreError(f"{self.path}: changed by another writer; open the index again")
            make_folders(self.path)
            draft = Draft(self.path, old, manifest)
            try:
                draft.keep(self.shards, removals)
                draft.append(append)
                draft.publish()
            except BaseException:
                draft.abandon()
                raise
            self._manifest, self.shards = draft.manifest, draft.shards
            draft.remove_unnamed()

    def _check_removals(self, remove: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = {shard.name: shard.n for shard in self.shards}
        for name, rows in remove.items():
            if name not in sizes:
                raise InvalidInputError(f"remove: there is no shard {name!r}")
            rows = np.asarray(rows)
            if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
                raise InvalidInputError(f"remove: rows of shard {name} must be a list of integers")
            if rows.size and not 0 <= rows.min() <= rows.max() < sizes[name]:
                raise InvalidInputError(f"remove: shard {name} has rows 0 to {sizes[name] - 1}")
        return {name: np.asarray(rows).astype(np.int64) for name, rows in remove.items()}

    def _check_code_sizes(self, append: Sequence[Rows | Shard]) -> None:
        sizes = {rows.code_size for rows in (*self.shards, *append)}
        if len(sizes) > 1:
            raise InvalidInputError(f"append: code_size {sorted(sizes)}, expected one for all rows")


def _json_copy(settings: dict[str, Any]) -> dict[str, Any]:
    try:
        copied = json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"settings: JSON can't hold them: {error}") from error
    if not isinstance(copied, dict):
        raise InvalidInputError(f"settings: {type(settings).__name__}, expected a dict")
    return copied


def _check_next_id(next_id: int) -> int:
    if not 0 <= int(next_id) <= MAX_INT:
        raise InvalidInputError(f"next_id: {next_id}, expected 0 to {MAX_INT}")
    return int(next_id)


def _check_free(root: Path, files: Mapping[str, bytes]) -> None:
    """Refuse a folder that holds anything; what an interrupted `create` left is not anything."""
    with os_errors("list", root):
        names = set(os.listdir(root))
    if LOCK_NAME in names and MANIFEST_NAME not in names:
        empty = {name for name in FOLDERS if name in names and not os.listdir(root / name)}
        names -= {LOCK_NAME, *empty, *files}
        names = {name for name in names if not (name[0] == "." and name.endswith(".tmp"))}
    if names - {LOCK_NAME}:
        what = "already an index" if MANIFEST_NAME in names else f"not empty ({min(names)})"
        raise StoreError(f"{root}: the folder is {what}; choose another place or remove it first")


def _load_shards(root: Path, manifest: Manifest) -> list[Shard]:
    for name in FOLDERS:
        if (root / name).is_symlink():
            raise CorruptIndexError(f"{root / name}: a link, and an index holds none")
    found = {name: _status(root / name, entry) for name, entry in manifest.named_files.items()}
    return [
        Shard(root, entry, read_dead(root, entry), identity_of(found[entry.file]))
        for entry in manifest.shards
    ]


def _status(path: Path, entry: FileEntry) -> os.stat_result:
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
    return status
