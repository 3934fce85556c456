"""The manifest: what an index directory holds, checked field by field before anything uses it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hyperpq._version import __version__
from hyperpq.codes import tiled_size
from hyperpq.errors import CorruptIndexError, FormatVersionError, IndexNotFoundError
from hyperpq.store.durable import checksum, read_regular
from hyperpq.store.rows import ATTRIBUTE_DTYPES, is_attribute_name

MANIFEST_NAME = "manifest.json"
FORMAT = "hyperpq-index"
VERSION = 2
MAX_INT = 2**63 - 1
ITEM_SIZES = {"uint8": 1, "int32": 4, "int64": 8, "float32": 4, "float64": 8}
# Half a million shards; a longer manifest is no manifest.
_MAX_BYTES = 1 << 28
# Far more than any codec makes; it bounds the shapes that arrays are made with.
_MAX_CODE_SIZE = 1 << 20
# Files that are read whole: nobody should be able to ask for more memory than this.
MAX_FILE_BYTES = 1 << 30
_HEX = re.compile(r"[0-9a-f]{32}")
_SHARD_FILE = re.compile(r"shards/([0-9]{6,12})\.h5")
_DEAD_FILE = re.compile(r"dead/([0-9]{6,12})-([0-9]{8,19})\.h5")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_RESERVED_FILES = frozenset((MANIFEST_NAME, "shards", "dead"))


@dataclass(frozen=True)
class FileEntry:
    """A file whose content the manifest vouches for: length and XXH3-128."""

    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Column:
    """Where a contiguous HDF5 dataset lies in its file; little-endian, offset 0 if empty."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class DeadEntry:
    """The file of removed rows of one shard: sorted row numbers in ``/rows``."""

    file: str
    rows: int
    offset: int
    content: FileEntry

    @property
    def columns(self) -> dict[str, Column]:
        """The file's only dataset."""
        return {"rows": Column("int64", (self.rows,), self.offset)}


@dataclass(frozen=True)
class ShardEntry:
    """One shard file and where its columns lie."""

    number: int
    rows: int
    code_size: int
    columns: dict[str, Column]
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
            "files": {name: vars(entry) for name, entry in self.files.items()},
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
        **vars(entry.dead.content),
    }
    columns = {
        name: {"dtype": column.dtype, "shape": list(column.shape), "offset": column.offset}
        for name, column in entry.columns.items()
    }
    return {
        "file": entry.file,
        "rows": entry.rows,
        "code_size": entry.code_size,
        "columns": columns,
        "ids": entry.ids and list(entry.ids),
        "dead": dead,
        **vars(entry.content),
    }


def is_file_name(name: object) -> bool:
    """Whether ``name`` can be a file at the top of an index directory beside the manifest."""
    return (
        isinstance(name, str)
        and _FILE_NAME.fullmatch(name) is not None
        and name.lower() not in _RESERVED_FILES
        and not name.endswith(".tmp")
    )


def read_manifest(root: Path) -> Manifest:
    """Read and check ``manifest.json`` of the index directory ``root``.

    Raises
    ------
    IndexNotFoundError
        If there is no such directory or no manifest in it.
    FormatVersionError
        If the format is another; the message names it.
    CorruptIndexError
        If the manifest isn't exactly what this format allows.
    StoreError
        If the system refuses to read it.
    """
    path = root / MANIFEST_NAME
    if not path.is_symlink() and not path.exists():
        what = f"the folder has no {MANIFEST_NAME}" if root.is_dir() else "no such folder"
        advice = "make one with `hyperpq build`, or check the path"
        raise IndexNotFoundError(f"{root}: no index here ({what}); {advice}")
    return parse_manifest(read_regular(path, limit=_MAX_BYTES), path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Check the text of a manifest; ``path`` is for messages. See `read_manifest` for errors."""
    try:
        content = json.loads(data, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return _manifest(content, data)
    except FormatVersionError as error:
        raise FormatVersionError(f"{path}: {error}") from None
    # RecursionError: JSON nested too deep. UnicodeDecodeError and JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise CorruptIndexError(f"{path}: {error}; the manifest is torn or altered") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice in one JSON object")
    return keys


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _manifest(content: Any, data: bytes) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"not a manifest of format {FORMAT!r}")
    version = _count(content.get("version"), "version", low=1)
    if version != VERSION:
        advice = (
            f"install a later hyperpq that reads version {version}"
            if version > VERSION
            else "build the index again (no release wrote that version)"
        )
        raise FormatVersionError(
            f"the index is in format version {version}, and hyperpq {__version__} reads "
            f"version {VERSION}; {advice}"
        )
    keys = "format version generation settings next_id next_shard files shards checksum"
    fields = _object(content, keys.split(), "manifest")
    digest = fields.pop("checksum")
    # Bytes, too: no flipped bit goes unnoticed, not even one that JSON doesn't mind.
    if checksum(canonical(fields)) != digest or canonical(content) + b"\n" != data:
        raise ValueError("the checksum doesn't fit the content")
    for key, kind in (("settings", dict), ("files", dict), ("shards", list)):
        if not isinstance(fields[key], kind):
            raise ValueError(f"{key}: expected {kind.__name__}")
    files = {}
    for name, value in fields["files"].items():
        if not is_file_name(name):
            raise ValueError(f"files: {name!r} is not a file name that an index may have")
        entry = _object(value, ("bytes", "xxh3_128"), f"files: {name}")
        files[name] = _file_entry(entry, f"files: {name}", high=MAX_FILE_BYTES)
    manifest = Manifest(
        generation=_count(fields["generation"], "generation", low=1),
        settings=fields["settings"],
        next_id=_count(fields["next_id"], "next_id"),
        next_shard=_count(fields["next_shard"], "next_shard"),
        files=files,
        shards=tuple(_shard_entry(shard) for shard in fields["shards"]),
    )
    _check_shards_fit(manifest)
    return manifest


def _check_shards_fit(manifest: Manifest) -> None:
    numbers = [shard.number for shard in manifest.shards]
    if len(set(numbers)) != len(numbers):
        raise ValueError("a shard is named twice")
    if any(number >= manifest.next_shard for number in numbers):
        raise ValueError("a shard's number isn't below next_shard")
    if len({shard.code_size for shard in manifest.shards}) > 1:
        raise ValueError("shards differ in code_size")
    for shard in manifest.shards:
        if shard.dead and int(_match(_DEAD_FILE, shard.dead.file)[2]) > manifest.generation:
            raise ValueError(f"{shard.dead.file} is of a generation that isn't yet")


def _shard_entry(value: Any) -> ShardEntry:
    keys = "file rows code_size columns ids dead bytes xxh3_128"
    fields = _object(value, keys.split(), "a shard")
    number = int(_match(_SHARD_FILE, fields["file"])[1])
    where = f"shard {fields['file']}"
    rows = _count(fields["rows"], f"{where}: rows")
    code_size = _count(fields["code_size"], f"{where}: code_size", low=1, high=_MAX_CODE_SIZE)
    content = _file_entry(fields, where)
    shard = ShardEntry(
        number=number,
        rows=rows,
        code_size=code_size,
        columns=_columns(fields["columns"], rows, code_size, content.bytes, where),
        ids=_id_range(fields["ids"], rows, where),
        content=content,
    )
    if shard.file != fields["file"]:
        raise ValueError(f"{where}: expected the name {shard.file}")
    if fields["dead"] is not None:
        shard = replace(shard, dead=_dead_entry(fields["dead"], shard))
    return shard


def _columns(value: Any, rows: int, code_size: int, size: int, where: str) -> dict[str, Column]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: columns must be an object")
    columns = {}
    for name, fields in value.items():
        place = f"{where}: column {name!r}"
        fields = _object(fields, ("dtype", "shape", "offset"), place)
        dtype, shape = fields["dtype"], fields["shape"]
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES or not isinstance(shape, list):
            raise ValueError(f"{place}: unknown dtype or shape")
        extent = tuple(_count(length, f"{place}: shape") for length in shape)
        if not _column_fits(name, dtype, extent, rows, code_size):
            raise ValueError(f"{place}: {dtype} {extent} isn't a column of a shard of {rows} rows")
        offset = _count(fields["offset"], f"{place}: offset")
        columns[name] = _inside(Column(dtype, extent, offset), size, place)
    if "codes" not in columns or "ids" not in columns:
        raise ValueError(f"{where}: columns codes and ids must be there")
    if ("path_bytes" in columns) != ("path_offsets" in columns):
        raise ValueError(f"{where}: path_bytes and path_offsets go together")
    return columns


def _column_fits(name: str, dtype: str, shape: tuple[int, ...], rows: int, code_size: int) -> bool:
    group, _, attribute = name.rpartition("/")
    if group:
        is_attribute = group == "attributes" and is_attribute_name(attribute)
        return is_attribute and dtype in ATTRIBUTE_DTYPES and shape == (rows,)
    if name == "path_bytes":
        return dtype == "uint8" and len(shape) == 1
    return (name, dtype, shape) in (
        ("codes", "uint8", (tiled_size(rows, code_size),)),
        ("ids", "int64", (rows,)),
        ("path_offsets", "int64", (rows + 1,)),
    )


def _inside(column: Column, size: int, where: str) -> Column:
    if column.offset % ITEM_SIZES[column.dtype] or column.offset + column.nbytes > size:
        raise ValueError(f"{where}: lies outside the file of {size} bytes, or not aligned")
    return column


def _dead_entry(value: Any, shard: ShardEntry) -> DeadEntry:
    fields = _object(value, ("file", "rows", "offset", "bytes", "xxh3_128"), shard.file)
    match = _match(_DEAD_FILE, fields["file"])
    where = match[0]
    if match[0] != dead_file(shard.number, int(match[2])):
        raise ValueError(f"{where}: isn't the dead file of {shard.file}")
    rows = _count(fields["rows"], f"{where}: rows", low=1, high=shard.rows)
    # The row numbers and what HDF5 puts around them: the file is read whole.
    content = _file_entry(fields, where, high=8 * rows + (1 << 16))
    entry = DeadEntry(where, rows, _count(fields["offset"], f"{where}: offset"), content)
    _inside(entry.columns["rows"], content.bytes, where)
    return entry


def dead_file(number: int, generation: int) -> str:
    """Path in the index directory of a shard's removed rows as of a generation."""
    return f"dead/{number:06d}-{generation:08d}.h5"


def _id_range(value: Any, rows: int, where: str) -> tuple[int, int] | None:
    if rows == 0 and value is None:
        return None
    if rows == 0 or not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where}: ids must be the least and the greatest id")
    low = _count(value[0], f"{where}: ids", low=-(2**63))
    return low, _count(value[1], f"{where}: ids", low=low)


def _file_entry(fields: dict[str, Any], where: str, high: int = MAX_INT) -> FileEntry:
    digest = _match(_HEX, fields["xxh3_128"])[0]
    return FileEntry(_count(fields["bytes"], f"{where}: bytes", high=high), digest)


def _object(value: Any, keys: Collection[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{where}: expected an object with the keys {', '.join(keys)}")
    return dict(value)


def _count(value: Any, where: str, low: int = 0, high: int = MAX_INT) -> int:
    # type(), not isinstance: JSON's true is not 1.
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{where}: {_short(value)}, expected an integer from {low} to {high}")
    return value


def _match(pattern: re.Pattern[str], value: Any) -> re.Match[str]:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_short(value)} doesn't match {pattern.pattern}")
    return match


def _short(value: Any) -> str:
    return ascii(value)[:60]
