"""The manifest: the file of an index directory that says what a snapshot of it holds.

The names that are stored are those of the first release. In the code they are called

=================  ==========================================================================
stored name        name in the code
=================  ==========================================================================
``generation``     `Manifest.snapshot_number`: 1 for a new index, one more with every commit
``dead``           `ShardEntry.tombstones`: the file with the numbers of a shard's deleted rows
``dead/``          the folder of these files, see `tombstone_path`
``shards/``        the folder of the shards, which are the segments of an `IndexStore`
``xxh3_128``       `FileEntry.checksums`
``bytes``          `FileEntry.size`
=================  ==========================================================================

This module writes the stored names and `manifest_parser` reads them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from hyperpq.store.columns import GROUPS
from hyperpq.utils.files import checksum

MANIFEST_NAME = "manifest.json"
SHARDS_FOLDER, TOMBSTONES_FOLDER = "shards", "dead"
FOLDERS = (SHARDS_FOLDER, TOMBSTONES_FOLDER)
FORMAT = "hyperpq-index"
VERSIONS = (3, 4, 5, 6)
"""Versions that are read and written; see `Manifest.version`."""
NETWORK_FILE = "network.safetensors"
"""Name in `Manifest.files` of what fine-tuning changed in the network of an index of images."""
CELLS_FILE = "cells.safetensors"
"""Name in `Manifest.files` of the centroids of an index whose codes are grouped by cell."""
MAX_FORMER = 64
"""How many former codecs a manifest remembers."""
MAX_INT = 2**63 - 1
ITEM_SIZES = {"uint8": 1, "int32": 4, "int64": 8, "float32": 4, "float64": 8}
KINDS = {group: kind for kind, group in GROUPS.items()}
"""HDF5 groups of the columns that are not plain numbers, to what `columns.kind_of` calls them."""


@dataclass(frozen=True)
class FileEntry:
    """A file whose content the manifest vouches for.

    Attributes
    ----------
    size : int
        Length in bytes.
    checksums : tuple of str
        XXH3-128 of each 16 MiB, see `utils.files.checksums`.
    """

    size: int
    checksums: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The entry under its stored names."""
        return {"bytes": self.size, "xxh3_128": list(self.checksums)}


@dataclass(frozen=True)
class Extent:
    """Where a contiguous little-endian HDF5 dataset lies in its file; offset 0 if it is empty."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]

    @property
    def end(self) -> int:
        """Offset of the first byte behind the dataset."""
        return self.offset + self.nbytes


@dataclass(frozen=True)
class TombstonesEntry:
    """The file with the numbers of a shard's deleted rows, ascending, in the dataset ``/rows``.

    Attributes
    ----------
    file : str
        Path in the index directory.
    rows : int
        How many rows are deleted.
    offset : int
        Where the dataset lies in the file.
    content : FileEntry
        Length and checksums of the file.
    """

    file: str
    rows: int
    offset: int
    content: FileEntry

    @property
    def columns(self) -> dict[str, Extent]:
        """The file's only dataset."""
        return {"rows": Extent("int64", (self.rows,), self.offset)}

    def to_json(self) -> dict[str, Any]:
        """The entry under its stored names."""
        own = {"file": self.file, "rows": self.rows, "offset": self.offset}
        return own | self.content.to_json()


@dataclass(frozen=True)
class ShardEntry:
    """A shard file.

    Attributes
    ----------
    number : int
        Shards are numbered in the order in which they were written; no number is given twice.
    rows : int
        Number of rows, deleted ones included.
    code_size : int
        Bytes of one row of codes.
    columns : dict of str to Extent
        The HDF5 datasets, by their path in the file.
    ids : (int, int) or None
        The least and the greatest id; None if there are no rows.
    content : FileEntry
        Length and checksums of the file.
    tombstones : TombstonesEntry or None
        The file of its deleted rows; None if none is deleted.
    """

    number: int
    rows: int
    code_size: int
    columns: dict[str, Extent]
    ids: tuple[int, int] | None
    content: FileEntry
    tombstones: TombstonesEntry | None = None

    @property
    def name(self) -> str:
        """The shard's name: its number, in six digits or more."""
        return f"{self.number:06d}"

    @property
    def file(self) -> str:
        """Path in the index directory."""
        return shard_path(self.number)

    @property
    def n_live(self) -> int:
        """Number of rows that are not deleted."""
        return self.rows - (self.tombstones.rows if self.tombstones else 0)

    @property
    def feature_size(self) -> int:
        """Bytes of the features of one row; 0 if there are none."""
        return self.columns["features"].shape[1] if "features" in self.columns else 0

    @property
    def n_cells(self) -> int:
        """Number of cells that codes are grouped by; 0 if they are not."""
        return self.columns["cell_starts"].shape[0] - 1 if "cell_starts" in self.columns else 0

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""
        kinds = {"path": "path"} if "path_bytes" in self.columns else {}
        for name, extent in self.columns.items():
            group, _, attribute = name.rpartition("/")
            if group == "attributes":
                kinds[attribute] = extent.dtype
            elif group in KINDS:
                kinds[attribute] = KINDS[group]
        return kinds

    def to_json(self) -> dict[str, Any]:
        """The entry under its stored names."""
        columns = {
            name: {"dtype": extent.dtype, "shape": list(extent.shape), "offset": extent.offset}
            for name, extent in self.columns.items()
        }
        return {
            "file": self.file,
            "rows": self.rows,
            "code_size": self.code_size,
            "columns": columns,
            "ids": self.ids and list(self.ids),
            "dead": self.tombstones and self.tombstones.to_json(),
            **self.content.to_json(),
        }


@dataclass(frozen=True)
class Manifest:
    """What a snapshot of an index directory holds.

    Attributes
    ----------
    snapshot_number : int
        1 for a new index, one more with every commit.
    settings : dict
        What the index stores about itself, as JSON holds it.
    next_id : int
        The next id to give to a row.
    next_shard : int
        The number of the next shard.
    files : dict of str to FileEntry
        Files beside the manifest, such as those of the codec.
    shards : tuple of ShardEntry
        The rows.
    stored_names : dict of str to str
        Names in the directory of those of `files` that are not called as they are there: an index
        that was published inside another one, or that got another codec, had to leave the files
        of before alone.
    former : tuple of str
        The `codec_checksum` of each codec that the index had before, the last one at the end, at
        most `MAX_FORMER`. By these a later snapshot of an index is told from another index.
    """

    snapshot_number: int
    settings: dict[str, Any]
    next_id: int
    next_shard: int
    files: dict[str, FileEntry]
    shards: tuple[ShardEntry, ...]
    stored_names: dict[str, str] = field(default_factory=dict)
    former: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """Version of the format, the lowest whose readers understand everything that is there.

        6 if codes are grouped by cell, 5 if the index has a network of its own, 4 if rows have
        features or the codec was replaced, 3 otherwise.
        """
        if CELLS_FILE in self.files:
            return 6
        if NETWORK_FILE in self.files:
            return 5
        return 4 if self.former or any(shard.feature_size for shard in self.shards) else 3

    def to_bytes(self) -> bytes:
        """The file's text: JSON with sorted keys, equal for equal manifests."""
        content = self._to_json()
        content["checksum"] = checksum(canonical(content))
        return canonical(content) + b"\n"

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": self.version,
            "generation": self.snapshot_number,
            "settings": self.settings,
            "next_id": self.next_id,
            "next_shard": self.next_shard,
            "files": {name: self._file_to_json(name) for name in self.files},
            "shards": [entry.to_json() for entry in self.shards],
            **({"former": list(self.former)} if self.version > 3 else {}),
        }

    def _file_to_json(self, name: str) -> dict[str, Any]:
        stored = self.stored_names.get(name)
        return self.files[name].to_json() | ({} if stored is None else {"file": stored})

    def stored_name(self, name: str) -> str:
        """Name in the index directory of one of `files`."""
        return self.stored_names.get(name, name)

    @property
    def named_files(self) -> dict[str, FileEntry]:
        """Every file that the manifest names, by its path in the index directory."""
        named = {self.stored_name(name): entry for name, entry in self.files.items()}
        for shard in self.shards:
            named[shard.file] = shard.content
            if shard.tombstones:
                named[shard.tombstones.file] = shard.tombstones.content
        return named

    def replace_files(self, files: dict[str, FileEntry]) -> Manifest:
        """The snapshot with other files, under names in the directory that are free."""
        if files == self.files:
            return self
        own = self.codec_checksum
        former = [*(digest for digest in self.former if digest != own), own]
        return replace(
            self,
            files=files,
            stored_names={name: renamed_file(name, self.snapshot_number) for name in files},
            former=tuple(former[-MAX_FORMER:]),
        )

    @property
    def codec_checksum(self) -> str:
        """Hash of `files`, whatever their names in the directory."""
        return checksum(canonical({name: entry.to_json() for name, entry in self.files.items()}))

    def follows(self, earlier: Manifest) -> bool:
        """Whether this can be a later snapshot of the same index, perhaps with another codec."""
        return self.files == earlier.files or earlier.codec_checksum in self.former

    def fingerprint(self) -> str:
        """Hash of what the index holds, whatever its history and file names."""
        content = replace(self, former=())._to_json()
        del content["generation"], content["next_shard"]
        for entry in content["files"].values():
            entry.pop("file", None)
        for shard in content["shards"]:
            del shard["file"]
            if shard["dead"]:
                del shard["dead"]["file"]
        return checksum(canonical(content))


def canonical(value: object) -> bytes:
    """JSON of ``value`` with sorted keys, without spaces and in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def shard_path(number: int) -> str:
    """Path in the index directory of a shard."""
    return f"{SHARDS_FOLDER}/{number:06d}.h5"


def renamed_file(name: str, snapshot_number: int) -> str:
    """Name in the index directory of one of `Manifest.files` whose own name is taken.

    Its dot keeps it apart from the names of reports.
    """
    return f"{snapshot_number:08d}.{name}"


def tombstone_path(number: int, snapshot_number: int) -> str:
    """Path in the index directory of the tombstones of a shard as of a snapshot."""
    return f"{TOMBSTONES_FOLDER}/{number:06d}-{snapshot_number:08d}.h5"
