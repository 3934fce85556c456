"""Reading a manifest: every field is checked before anything uses it.

The stored names and those of the code are in the table of `manifest`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperpq._version import __version__
from hyperpq.codes import tiled_size
from hyperpq.errors import FormatVersionError, IndexNotFoundError
from hyperpq.store.columns import NUMBERS, is_attribute_name
from hyperpq.store.grouping import MAX_CELLS
from hyperpq.store.manifest import (
    CELLS_FILE,
    FOLDERS,
    FORMAT,
    ITEM_SIZES,
    KINDS,
    MANIFEST_NAME,
    MAX_FORMER,
    MAX_INT,
    SHARDS_FOLDER,
    TOMBSTONES_FOLDER,
    VERSIONS,
    Extent,
    FileEntry,
    Manifest,
    ShardEntry,
    TombstonesEntry,
    canonical,
    renamed_file,
    tombstone_path,
)
from hyperpq.store.rows import MAX_FEATURE_SIZE
from hyperpq.utils.files import CHECKSUM_BLOCK, checksum, os_errors, read_regular, torn_file

MAX_FILE_BYTES = 1 << 30
"""Length of a file that is read whole: nobody can ask for more memory than this."""
MAX_MANIFEST_BYTES = 1 << 28  # half a million shards; a longer file is no manifest
_MAX_CODE_SIZE = 1 << 20  # far above any codec's; it bounds the shapes that arrays are made with
_MAX_MESSAGE = 500  # characters of what is wrong with a manifest; a stranger's text may be in it
_MAX_SHOWN = 60  # characters of one wrong value
_HEX = re.compile(r"[0-9a-f]{32}")
_SHARD_FILE = re.compile(SHARDS_FOLDER + r"/([0-9]{6,12})\.h5")
_TOMBSTONE_FILE = re.compile(TOMBSTONES_FOLDER + r"/([0-9]{6,12})-([0-9]{8,19})\.h5")
_RENAMED_FILE = re.compile(r"([0-9]{8,19})\.[A-Za-z0-9_.-]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_RESERVED_FILES = frozenset((MANIFEST_NAME, *FOLDERS))


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
        If the manifest is not exactly what this format allows.
    StoreError
        If the system refuses to read it.
    """
    check_present(root)
    path = root / MANIFEST_NAME
    return parse_manifest(read_regular(path, limit=MAX_MANIFEST_BYTES), path)


def check_present(root: Path) -> None:
    """Raise `IndexNotFoundError` unless ``root`` is a folder with a manifest.

    Raises
    ------
    IndexNotFoundError
        If there is no such directory or no manifest in it.
    StoreError
        If the system refuses to look.
    """
    path = root / MANIFEST_NAME
    with os_errors("read", path):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_index(root) from None


def _no_index(root: Path) -> IndexNotFoundError:
    unfinished = Path(os.path.realpath(root) + ".building")
    if unfinished.is_dir() and any(entry.name != ".lock" for entry in unfinished.iterdir()):
        return IndexNotFoundError(
            f"{root}: there is no index here yet, as a build of it was interrupted; continue it: "
            "repeat its `hyperpq build` with --resume."
        )
    if root.is_dir():
        what = f"the folder has no {MANIFEST_NAME}"
    elif root.is_symlink():
        what = "the link leads nowhere"
    elif root.exists():
        what = "this is a file; an index is a folder"
    else:
        what = "no such folder"
    return IndexNotFoundError(
        f"{root}: there is no index here ({what}); make one with `hyperpq build`, or check the "
        "path."
    )


def is_current(root: Path, manifest: Manifest) -> bool:
    """Whether ``root`` has this manifest; see `read_manifest` for errors."""
    path = root / MANIFEST_NAME
    # Equal manifests have equal bytes: mostly nothing has to be parsed.
    is_there = os.path.lexists(path)
    if is_there and read_regular(path, limit=MAX_MANIFEST_BYTES) == manifest.to_bytes():
        return True
    return read_manifest(root) == manifest


def parse_manifest(data: bytes, path: Path | str) -> Manifest:
    """Check the text of a manifest; ``path`` is for messages. See `read_manifest` for errors."""
    try:
        content = json.loads(data, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return _manifest(content, data)
    except FormatVersionError as error:
        raise FormatVersionError(f"{path}: {error}") from None
    # RecursionError: JSON nested too deep. UnicodeDecodeError and JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        raise torn_file(path, str(error)[:_MAX_MESSAGE]) from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key occurs twice in one JSON object")
    return keys


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _manifest(content: Any, data: bytes) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"this is not a manifest of format {FORMAT!r}")
    version = _count(content.get("version"), "version", low=1)
    if version not in VERSIONS:
        advice = (
            f"install a later hyperpq that reads version {version}"
            if version > max(VERSIONS)
            else "build the index again (no release wrote that version)"
        )
        raise FormatVersionError(
            f"the index has format version {version}; hyperpq {__version__} reads versions "
            f"{min(VERSIONS)} to {max(VERSIONS)}; {advice}."
        )
    keys = "format version generation settings next_id next_shard files shards checksum"
    keys += " former" if version > 3 else ""
    fields = _object(content, keys.split(), "manifest")
    digest = fields.pop("checksum")
    # Bytes, too: no flipped bit goes unnoticed, not even one that JSON doesn't mind.
    if checksum(canonical(fields)) != digest or canonical(content) + b"\n" != data:
        raise ValueError("the checksum does not fit the content")
    for key, kind in (("settings", dict), ("files", dict), ("shards", list)):
        if not isinstance(fields[key], kind):
            raise ValueError(f"{key} is no {kind.__name__}")
    snapshot_number = _count(fields["generation"], "generation", low=1)
    files, stored_names = {}, {}
    for name, value in fields["files"].items():
        if not is_file_name(name):
            raise ValueError(f"files has {name!r}, which is no file name of an index")
        known = ["bytes", "xxh3_128"]
        if isinstance(value, dict) and "file" in value:
            stored_names[name] = _stored_name(value["file"], name, snapshot_number)
            known.append("file")
        entry = _object(value, known, f"files: {name}")
        files[name] = _file_entry(entry, f"files: {name}", high=MAX_FILE_BYTES)
    manifest = Manifest(
        snapshot_number=snapshot_number,
        settings=fields["settings"],
        next_id=_count(fields["next_id"], "next_id"),
        next_shard=_count(fields["next_shard"], "next_shard"),
        files=files,
        shards=tuple(_shard_entry(shard) for shard in fields["shards"]),
        stored_names=stored_names,
        former=_former(fields.get("former", [])),
    )
    if manifest.version != version:
        raise ValueError(
            f"version is {version}; what the manifest names is version {manifest.version}"
        )
    if len({manifest.stored_name(name) for name in files}) < len(files):
        raise ValueError("files has a file twice")
    _check_shards_fit(manifest)
    return manifest


def _former(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_FORMER:
        raise ValueError(f"former is no list of at most {MAX_FORMER} checksums")
    former = tuple(_match(_HEX, digest)[0] for digest in value)
    if len(set(former)) < len(former):
        raise ValueError("former has a checksum twice")
    return former


def _stored_name(value: Any, name: str, snapshot_number: int) -> str:
    """Name in the directory of one of ``files``, if it has another one there."""
    number = _match(_RENAMED_FILE, value)[1]
    fits = value == renamed_file(name, int(number)) and int(number) <= snapshot_number
    if not fits or not is_file_name(value):
        raise ValueError(f"files: {_short(value)} is no name that {name} can have")
    return str(value)


def _check_shards_fit(manifest: Manifest) -> None:
    numbers = [shard.number for shard in manifest.shards]
    if len(set(numbers)) != len(numbers):
        raise ValueError("a shard is named twice")
    if any(number >= manifest.next_shard for number in numbers):
        raise ValueError("a shard has a number that is not below next_shard")
    if len({shard.code_size for shard in manifest.shards}) > 1:
        raise ValueError("shards differ in code_size")
    if len({shard.feature_size for shard in manifest.shards}) > 1:
        raise ValueError("shards differ in the size of their features")
    if len({shard.n_cells for shard in manifest.shards}) > 1:
        raise ValueError("shards differ in the number of cells")
    if manifest.shards and (manifest.shards[0].n_cells > 0) != (CELLS_FILE in manifest.files):
        raise ValueError(f"shards have cells without {CELLS_FILE}, or none with it")
    if any(shard.schema != manifest.shards[0].schema for shard in manifest.shards):
        raise ValueError("shards differ in their attributes")
    for shard in manifest.shards:
        tombstones = shard.tombstones
        if tombstones and _snapshot_of(tombstones) > manifest.snapshot_number:
            raise ValueError(f"{tombstones.file} has the number of a later snapshot")


def _snapshot_of(entry: TombstonesEntry) -> int:
    """Number of the snapshot that wrote a file of tombstones, from its name."""
    return int(_match(_TOMBSTONE_FILE, entry.file)[2])


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
        columns=_columns(fields["columns"], rows, code_size, content.size, where),
        ids=_id_range(fields["ids"], rows, where),
        content=content,
    )
    if shard.file != fields["file"]:
        raise ValueError(f"{where} should have the name {shard.file}")
    if fields["dead"] is not None:
        shard = replace(shard, tombstones=_tombstones_entry(fields["dead"], shard))
    return shard


def _columns(value: Any, rows: int, code_size: int, size: int, where: str) -> dict[str, Extent]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: columns is no object")
    columns: dict[str, Extent] = {}
    for name, fields in value.items():
        which = f"{where}: column {name!r}"
        fields = _object(fields, ("dtype", "shape", "offset"), which)
        dtype, lengths = fields["dtype"], fields["shape"]
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES or not isinstance(lengths, list):
            raise ValueError(f"{which} has an unknown dtype or shape")
        shape = tuple(_count(length, f"{which}: shape") for length in lengths)
        if not _column_fits(name, dtype, shape, rows, code_size):
            raise ValueError(f"{which}: {dtype} {shape} is no column of a shard of {rows} rows")
        offset = _count(fields["offset"], f"{which}: offset")
        columns[name] = _inside(Extent(dtype, shape, offset), size, which)
    if "codes" not in columns or "ids" not in columns:
        raise ValueError(f"{where} lacks the column codes or ids")
    _check_together(columns, where)
    return columns


def _check_together(columns: dict[str, Extent], where: str) -> None:
    """Columns of strings have offsets and bytes, and no two attributes have one name."""
    if ("path_bytes" in columns) != ("path_offsets" in columns):
        raise ValueError(f"{where} has only one of path_bytes and path_offsets")
    if ("places" in columns) != ("cell_starts" in columns):
        raise ValueError(f"{where} has only one of places and cell_starts")
    groups: dict[str, set[str]] = {}
    for column in columns:
        group, _, name = column.rpartition("/")
        groups.setdefault(group, set()).add(name)
    labelled = groups.get("categories", set())
    if not labelled == groups.get("label_offsets", set()) == groups.get("label_bytes", set()):
        raise ValueError(f"{where} has not the same categories, label_offsets and label_bytes")
    names = [name for group in ("attributes", *KINDS) for name in groups.get(group, ())]
    if len(set(names)) < len(names):
        raise ValueError(f"{where} has two attributes of one name")


def _column_fits(name: str, dtype: str, shape: tuple[int, ...], rows: int, code_size: int) -> bool:
    group, _, attribute = name.rpartition("/")
    if group and not is_attribute_name(attribute):
        return False
    if group == "attributes":
        return dtype in NUMBERS and shape == (rows,)
    if group == "label_offsets":
        return dtype == "int64" and len(shape) == 1 and 1 <= shape[0] <= rows + 1
    if name == "path_bytes" or group == "label_bytes":
        return dtype == "uint8" and len(shape) == 1
    if name == "cell_starts":
        return dtype == "int64" and len(shape) == 1 and 2 <= shape[0] <= MAX_CELLS + 1
    if name == "features":
        fits = len(shape) == 2 and shape[0] == rows and 1 <= shape[1] <= MAX_FEATURE_SIZE
        return dtype == "uint8" and fits
    return (group or name, dtype, shape) in (
        ("times", "int64", (rows,)),
        ("categories", "int32", (rows,)),
        ("codes", "uint8", (tiled_size(rows, code_size),)),
        ("ids", "int64", (rows,)),
        ("places", "int32", (rows,)),
        ("path_offsets", "int64", (rows + 1,)),
    )


def _inside(extent: Extent, size: int, where: str) -> Extent:
    if extent.offset % ITEM_SIZES[extent.dtype] or extent.end > size:
        raise ValueError(f"{where} lies outside the file of {size} bytes, or is not aligned")
    return extent


def _tombstones_entry(value: Any, shard: ShardEntry) -> TombstonesEntry:
    fields = _object(value, ("file", "rows", "offset", "bytes", "xxh3_128"), shard.file)
    match = _match(_TOMBSTONE_FILE, fields["file"])
    where = match[0]
    if match[0] != tombstone_path(shard.number, int(match[2])):
        raise ValueError(f"{where} is not the file of deleted rows of {shard.file}")
    rows = _count(fields["rows"], f"{where}: rows", low=1, high=shard.rows)
    # The row numbers and what HDF5 puts around them: the file is read whole.
    content = _file_entry(fields, where, high=8 * rows + (1 << 16))
    entry = TombstonesEntry(where, rows, _count(fields["offset"], f"{where}: offset"), content)
    _inside(entry.columns["rows"], content.size, where)
    return entry


def _id_range(value: Any, rows: int, where: str) -> tuple[int, int] | None:
    if rows == 0 and value is None:
        return None
    if rows == 0 or not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{where}: ids is not the least and the greatest id")
    low = _count(value[0], f"{where}: ids", low=-(2**63))
    return low, _count(value[1], f"{where}: ids", low=low)


def _file_entry(fields: dict[str, Any], where: str, high: int = MAX_INT) -> FileEntry:
    size, digests = _count(fields["bytes"], f"{where}: bytes", high=high), fields["xxh3_128"]
    if not isinstance(digests, list) or len(digests) != max(1, -(-size // CHECKSUM_BLOCK)):
        raise ValueError(f"{where}: xxh3_128 has not one checksum for each {CHECKSUM_BLOCK} bytes")
    return FileEntry(size, tuple(_match(_HEX, digest)[0] for digest in digests))


def _object(value: Any, keys: Collection[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"{where} is no object with the keys {', '.join(keys)}")
    return dict(value)


def _count(value: Any, where: str, low: int = 0, high: int = MAX_INT) -> int:
    # type(), not isinstance: JSON's true is not 1.
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{where} is {_short(value)}; expected an integer from {low} to {high}")
    return value


def _match(pattern: re.Pattern[str], value: Any) -> re.Match[str]:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_short(value)} does not match {pattern.pattern}")
    return match


def _short(value: Any) -> str:
    return ascii(value)[:_MAX_SHOWN]
