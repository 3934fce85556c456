"""`SnapshotReader`: an index directory as one snapshot shows it; what changes nothing."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from hyperpq.errors import CorruptIndexError, InvalidInputError, StoreError
from hyperpq.store.base import Store
from hyperpq.store.manifest import MANIFEST_NAME, Manifest
from hyperpq.store.manifest_parser import MAX_FILE_BYTES
from hyperpq.store.place import whole_directory
from hyperpq.store.shard import Shard
from hyperpq.store.snapshot import Snapshot, open_snapshot, snapshot_of
from hyperpq.store.verify import REPORT_ENDINGS, Problem, is_report_name, verify_directory
from hyperpq.utils.files import checksums, os_errors, read_regular, torn_file


class SnapshotReader(Store):
    """The part of an `IndexStore` that reads: rows, settings and files of one snapshot.

    It needs neither a lock nor the right to write.

    Parameters
    ----------
    path : Path
        The directory.
    snapshot : Snapshot
        What is shown.
    """

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        self.path = path
        self._snapshot = snapshot

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({str(self.path)!r}, snapshot_number={self.snapshot_number}, "
            f"ntotal={self.ntotal})"
        )

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
        if not snapshot.manifest.follows(self.manifest):
            raise another_index(self.path)
        changed = snapshot.manifest != self.manifest
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
        if not (self.manifest.follows(manifest) or manifest.follows(self.manifest)):
            raise another_index(self.path)
        if manifest != self.manifest:
            try:
                root = whole_directory(self.path)
                self._snapshot = snapshot_of(root, manifest, self._snapshot)
            except CorruptIndexError:
                return False
        return True

    @property
    def manifest(self) -> Manifest:
        """What the snapshot that is shown holds."""
        return self._snapshot.manifest

    @property
    def segments(self) -> tuple[Shard, ...]:
        """The rows in shards, in the order in which they were added."""
        return self._snapshot.shards

    @property
    def snapshot_number(self) -> int:
        """Number of the snapshot that this object shows: 1 for a new index, +1 a commit."""
        return self.manifest.snapshot_number

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings."""
        return copy.deepcopy(self.manifest.settings)

    @property
    def next_id(self) -> int:
        """The next id to give to a row, as the last commit set it."""
        return self.manifest.next_id

    @property
    def file_names(self) -> list[str]:
        """Names of the files that `read_file` reads."""
        return sorted(self.manifest.files)

    def fingerprint(self) -> str:
        """Hash of the content, equal for equal indexes: XXH3-128, 32 hexadecimal digits."""
        return self.manifest.fingerprint()

    def read_file(self, name: str) -> bytes:
        """Read one of the files of the snapshot that is shown, checked against its checksum.

        It is there even if a later commit has replaced it.

        Raises
        ------
        CorruptIndexError
            If the manifest does not name it, or if it is altered.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise CorruptIndexError(
                f"{self.path / MANIFEST_NAME}: the index has no file {name!r}; expected "
                f"{', '.join(self.file_names) or 'none'}."
            )
        data = self._snapshot.files[name].tobytes()
        if checksums(data) != entry.checksums:
            raise torn_file(self.path / self.manifest.stored_name(name), "the checksum is wrong")
        return data

    def read_report(self, name: str) -> bytes | None:
        """Read what `write_report` wrote under ``name``, or None if there is nothing."""
        self._check_report(name)
        path = whole_directory(self.path) / name
        return read_regular(path, limit=MAX_FILE_BYTES) if os.path.lexists(path) else None

    def _check_report(self, name: str) -> None:
        if not is_report_name(name) or name in self.manifest.files:
            raise InvalidInputError(
                f"report is {name!r}; expected letters, digits, _ and - and an ending of "
                f"{', '.join(REPORT_ENDINGS)}, and no file of the index."
            )

    def verify(self) -> list[Problem]:
        """Check the directory as it stands on disk; see `verify_directory`."""
        return verify_directory(self.path)


def another_index(path: Path) -> StoreError:
    """The error for an index whose place another one has taken."""
    return StoreError(f"{path}: another index is in this place now; open it again.")
