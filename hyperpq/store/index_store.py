"""`IndexStore`: an index directory, read in one generation and written one generation at a time."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hyperpq.errors import CorruptIndexError, InvalidInputError, StoreError
from hyperpq.store.base import Removal, RowStore
from hyperpq.store.manifest import MANIFEST_NAME, MAX_INT, FileEntry, Manifest
from hyperpq.store.manifest_parser import (
    MAX_FILE_BYTES,
    is_current,
    is_file_name,
)
from hyperpq.store.rows import Rows
from hyperpq.store.shard import Shard, checked_read
from hyperpq.store.snapshot import read_generation
from hyperpq.store.swap import recover_directory
from hyperpq.store.transaction import FOLDERS, Draft, make_folders, remove_leftovers, write_manifest
from hyperpq.store.verify import Problem, is_report_name, verify_directory
from hyperpq.utils.files import (
    HOLDER_NAME,
    LOCK_NAME,
    atomic_write,
    checksums,
    fsync_folder,
    os_errors,
    read_regular,
    writer_lock,
)

Durability = Literal["full", "fast"]


class IndexStore(RowStore):
    """An index directory on disk: settings, checked files and shards of codes.

    An object shows one generation; another writer's commits don't change it, `refresh` moves on.
    Reading needs no lock and no right to write. `docs/format.md` describes every file and the
    order of a commit.

    Attributes
    ----------
    path : Path
        The directory.
    shards : list of Shard
        The rows, in the order in which they were added.
    durability : {"full", "fast"}
        ``full``: what was committed survives a kill and a power cut. ``fast`` leaves out every
        fsync: it survives a kill; a power cut may cost the index, which `verify` tells.
    """

    def __init__(self, path: Path, manifest: Manifest, shards: list[Shard]):
        self.path = path
        self.shards = shards
        self.durability: Durability = "full"
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
            manifest.files[name] = FileEntry(len(data), checksums(data))
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

        The manifest, the lists of removed rows and shards below 256 KiB are read and checked; of
        every other file only that it is there and has its length. Contents are checked by
        `read_file` and `verify`.

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
        return cls(root, *read_generation(root))

    def refresh(self) -> bool:
        """Show the generation that is on disk now; whether it is another one.

        Raises
        ------
        StoreError
            If another index has taken the place of this one.
        CorruptIndexError, IndexNotFoundError
            As `open`; this object then shows what it did.
        """
        manifest, shards = read_generation(self.path, self.shards)
        if manifest.files != self._manifest.files:
            raise StoreError(f"{self.path}: another index is in this place now; open it again")
        changed = manifest != self._manifest
        self._manifest, self.shards = manifest, shards
        return changed

    @property
    def pieces(self) -> list[Shard]:
        """The shards."""
        return self.shards

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
        append: Iterable[Rows] = (),
        remove: Removal | None = None,
        drop: Iterable[int] = (),
        next_id: int | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Make one new generation, durable when this returns.

        Parameters
        ----------
        append : iterable of Rows
            Each becomes a shard; all of the index have one code size and one schema. One at a
            time is asked for and written.
        remove : mapping of int to integer ndarray, optional
            Position of a shard to numbers of rows to remove; rows that are removed already may be
            among them. A shard without a row left goes.
        drop : iterable of int
            Positions of shards to leave out.
        next_id : int or None
            New value of `next_id`; None keeps it.
        settings : dict or None
            New settings; None keeps them.

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
        )
        removals, dropped = self._check_removals(remove or {}), set(drop)
        with writer_lock(self.path):
            if not is_current(self.path, old):
                raise StoreError(
                    f"{self.path}: changed by another writer; refresh the index, then try again"
                )
            make_folders(self.path)
            draft = Draft(self.path, old, manifest, sync=self.durability == "full")
            try:
                for position, shard in enumerate(self.shards):
                    if position not in dropped:
                        draft.keep(shard, removals.get(position))
                for rows in append:
                    draft.append(rows)
                    # Before the next ones are made: only one piece is in memory.
                    del rows
                draft.publish()
            except BaseException:
                draft.abandon()
                raise
            self._manifest, self.shards = draft.manifest, draft.shards
            remove_leftovers(self.path, self._manifest)

    def compact(self) -> bool:  # noqa: D102
        done = super().compact()
        if not done:
            self.remove_leftovers()
        return done

    def remove_leftovers(self) -> None:
        """Remove files that an interrupted commit left; every commit does so at its end."""
        with writer_lock(self.path):
            if is_current(self.path, self._manifest):
                # An earlier attempt may have failed when it made its manifest durable.
                fsync_folder(self.path, sync=self.durability == "full")
                remove_leftovers(self.path, self._manifest)

    def _check_removals(self, remove: Removal) -> dict[int, np.ndarray]:
        out = {}
        for position, given in remove.items():
            if not 0 <= position < len(self.shards):
                raise InvalidInputError(f"remove: there is no shard {position}")
            rows, n = np.asarray(given), self.shards[position].n
            if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
                raise InvalidInputError(
                    f"remove: rows of shard {position} must be a list of integers"
                )
            if rows.size and not 0 <= rows.min() <= rows.max() < n:
                raise InvalidInputError(f"remove: shard {position} has rows 0 to {n - 1}")
            out[position] = rows.astype(np.int64)
        return out


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
        names -= {LOCK_NAME, HOLDER_NAME, *empty, *files}
        names = {name for name in names if not (name[0] == "." and name.endswith(".tmp"))}
    if names - {LOCK_NAME, HOLDER_NAME}:
        what = "already an index" if MANIFEST_NAME in names else f"not empty ({min(names)})"
        raise StoreError(f"{root}: the folder is {what}; choose another place or remove it first")
