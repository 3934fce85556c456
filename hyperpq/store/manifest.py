"""The manifest: what an index directory holds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from hyperpq.store.columns import GROUPS
from hyperpq.utils.files import checksum

MANIFEST_NAME = "manifest.json"
FORMAT = "hyperpq-index"
VERSION = 3
MAX_INT = 2**63 - 1
ITEM_SIZES = {"uint8": 1, "int32": 4, "int64": 8, "float32": 4, "float64": 8}
# Groups of a shard whose columns aren't plain numbers, and what `columns.kind_of` calls them.
KINDS = {group: kind for kind, group in GROUPS.items()}


@dataclass(frozen=True)
class FileEntry:
    """A file whose content the manifest vouches for: length and XXH3-128 of each 16 MiB."""

    bytes: int
    xxh3_128: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {"bytes": self.bytes, "xxh3_128": list(self.xxh3_128)}


@dataclass(frozen=True)
class Place:
    """Where a contiguous HDF5 dataset lies in its file; little-endian, offset 0 if empty."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + self.nbytes


@dataclass(frozen=True)
class DeadEntry:
    """The file of removed rows of one shard: sorted row numbers in ``/rows``."""

    file: str
    rows: int
    offset: int
    content: FileEntry

    @property
    def columns(self) -> dict[str, Place]:
        """The file's only dataset."""
        return {"rows": Place("int64", (self.rows,), self.offset)}


@dataclass(frozen=True)
class ShardEntry:
    """One shard file and where its columns lie."""

    number: int
    rows: int
    code_size: int
    columns: dict[str, Place]
    ids: tuple[int, int] | None
    content: FileEntry
    dead: DeadEntry | None = None

    @property
    def name(self) -> str:
        """The shard's name: its number, six digits or more."""
        return f"{self.number:06d}"

    @property
    def file(self) -> str:
        """Path in the index directory."""
        return f"shards/{self.name}.h5"

    @property
    def live(self) -> int:
        """Number of rows that are not removed."""
        return self.rows - (self.dead.rows if self.dead else 0)

    @property
    def schema(self) -> dict[str, str]:
        """Kind of each attribute column, see `columns.kind_of`; ``path`` too if there are paths."""
        kinds = {"path": "path"} if "path_bytes" in self.columns else {}
        for name, place in self.columns.items():
            group, _, attribute = name.rpartition("/")
            if group == "attributes":
                kinds[attribute] = place.dtype
            elif group in KINDS:
                kinds[attribute] = KINDS[group]
        return kinds


@dataclass(frozen=True)
class Manifest:
    """One generation of an index directory."""

    generation: int
    settings: dict[str, Any]
    next_id: int
    next_shard: int
    files: dict[str, FileEntry]
    shards: tuple[ShardEntry, ...]

    def to_bytes(self) -> bytes:
        """The file's text: JSON with sorted keys, equal for equal manifests."""
        content = self._content()
        content["checksum"] = checksum(canonical(content))
        return canonical(content) + b"\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "generation": self.generation,
            "settings": self.settings,
            "next_id": self.next_id,
            "next_shard": self.next_shard,
            "files": {name: entry.content() for name, entry in self.files.items()},
            "shards": [_shard_content(entry) for entry in self.shards],
        }

    @property
    def named_files(self) -> dict[str, FileEntry]:
        """Every file that the manifest names, by its path in the index directory."""
        named = dict(self.files)
        for shard in self.shards:
            named[shard.file] = shard.content
            if shard.dead:
                named[shard.dead.file] = shard.dead.content
        return named

    def fingerprint(self) -> str:
        """Hash of what the index holds, whatever its history and file names."""
        content = self._content()
        del content["generation"], content["next_shard"]
        for shard in content["shards"]:
            del shard["file"]
            if shard["dead"]:
                del shard["dead"]["file"]
        return checksum(canonical(content))


def canonical(value: object) -> bytes:
    """JSON of ``value`` with sorted keys, no spaces and only ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _shard_content(entry: ShardEntry) -> dict[str, Any]:
    dead = entry.dead and {
        "file": entry.dead.file,
        "rows": entry.dead.rows,
        "offset": entry.dead.offset,
        **entry.dead.content.content(),
    }
    columns = {
        name: {"dtype": place.dtype, "shape": list(place.shape), "offset": place.offset}
        for name, place in entry.columns.items()
    }
    return {
        "file": entry.file,
        "rows": entry.rows,
        "code_size": entry.code_size,
        "columns": columns,
        "ids": entry.ids and list(entry.ids),
        "dead": dead,
        **entry.content.content(),
    }


def dead_file(number: int, generation: int) -> str:
    """Path in the index directory of a shard's removed rows as of a generation."""
    return f"dead/{number:06d}-{generation:08d}.h5"
