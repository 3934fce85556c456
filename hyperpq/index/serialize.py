"""An index as bytes: `serialize_index` and `deserialize_index`.

The bytes are the files of an index directory, one after another:

==========  ====================================================================================
8 bytes     ``HPQINDEX``
8 bytes     length of the table, an unsigned little-endian integer
the table   JSON: a list of ``[name, length]``, one for each file in the order of their names
the files   without gaps
==========  ====================================================================================

Checksums of all files are in ``manifest.json``, which has one of itself.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpq.errors import InvalidInputError, StoreError
from hyperpq.store.manifest import MANIFEST_NAME
from hyperpq.store.manifest_parser import parse_manifest
from hyperpq.utils.files import os_errors, read_regular

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

_MAGIC = b"HPQINDEX"
_HEAD = len(_MAGIC) + 8
_MAX_TABLE = 1 << 24
# Names of files in an index directory, which cannot lead out of it.
_NAME = re.compile(r"(?:(?:shards|dead)/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def serialize_index(index: HiHPQIndex) -> bytes:
    """Write an index to bytes, as FAISS does; `deserialize_index` reads them.

    They hold the codec, all rows with their attributes, paths and kept features, and the metadata,
    as `write_index` would write them to a directory. They are made by way of a temporary directory.

    Parameters
    ----------
    index : HiHPQIndex
        A trained index, in memory or in a directory.

    Returns
    -------
    bytes

    Raises
    ------
    NotTrainedError
        If the index has no codec.
    StoreError
        If the system refuses to write the temporary directory.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperpq import HiHPQIndex, deserialize_index, serialize_index
    >>> x = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
    >>> index = HiHPQIndex(16, M=2, device="cpu")
    >>> index.train(x, epochs=1)
    >>> index.add(x)
    >>> deserialize_index(serialize_index(index)).ntotal
    300
    """
    with _temporary_place() as root:
        index._write(root, overwrite=False, move=False)
        names = sorted(
            file.relative_to(root).as_posix()
            for file in root.rglob("*")
            if file.is_file() and not file.name.startswith(".")
        )
        files = [read_regular(root / name) for name in names]
    table = json.dumps(
        [[name, len(data)] for name, data in zip(names, files, strict=True)],
        separators=(",", ":"),
    ).encode()
    return b"".join([_MAGIC, len(table).to_bytes(8, "little"), table, *files])


def deserialize_index(data: Any, *, device: str = "auto") -> HiHPQIndex:
    """Read what `serialize_index` wrote, as an index in memory.

    Every checksum is compared first. Bytes from somebody else cannot run code, and more memory than
    their own length is not asked for.

    Parameters
    ----------
    data : bytes-like
        Bytes, or an array of them.
    device : str
        As in the constructor of `HiHPQIndex`.

    Returns
    -------
    HiHPQIndex

    Raises
    ------
    InvalidInputError
        If these are not the bytes of an index, or a part of them is missing or altered.
    StoreError
        If the system refuses to write the temporary directory.
    """
    from hyperpq.index.hihpq_index import HiHPQIndex

    files = _parse(data)
    _check_names(files)
    with _temporary_place() as root:
        with os_errors("write", root):
            for name, content in files.items():
                file = root / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        try:
            opened = HiHPQIndex.load(root, device=device, verify=True, read_only=True)
            return opened.clone()
        except StoreError as error:
            if error.errno is not None:
                raise
            raise _unsound(str(error).replace(f"{root}/", "").replace(str(root), "it")) from error


@contextmanager
def _temporary_place() -> Iterator[Path]:
    """Where an index can be written; what is there at the end is removed."""
    with os_errors("use the temporary directory", Path(os.environ.get("TMPDIR", "TMPDIR"))):
        folder = tempfile.TemporaryDirectory(prefix="hyperpq-")
    with folder:
        yield Path(folder.name) / "index"


def _parse(data: Any) -> dict[str, memoryview]:
    """Files by their names, as parts of ``data``."""
    try:
        view = memoryview(data).cast("B")
    except (TypeError, ValueError, BufferError):
        raise InvalidInputError(
            f"data is of {type(data)}; expected what serialize_index returned: bytes or an array "
            "of bytes."
        ) from None
    size = int.from_bytes(view[len(_MAGIC) : _HEAD], "little")
    if view[: len(_MAGIC)] != _MAGIC or size > min(len(view) - _HEAD, _MAX_TABLE):
        raise _altered("begin like no index")
    try:
        table = json.loads(bytes(view[_HEAD : _HEAD + size]))
    except (ValueError, RecursionError):
        raise _altered("have no table of their files") from None
    files: dict[str, memoryview] = {}
    position = _HEAD + size
    for entry in table if isinstance(table, list) else [None]:
        match entry:
            case [str() as name, int() as length] if (
                _NAME.fullmatch(name)
                and name not in files
                and type(length) is int
                and 0 <= length <= len(view) - position
            ):
                files[name] = view[position : position + length]
                position += length
            case _:
                raise _altered("have a table that does not fit them")
    if position != len(view):
        raise _altered(f"go on after the last file, by {len(view) - position}")
    return files


def _check_names(files: Mapping[str, memoryview]) -> None:
    """Refuse other files than the manifest and those that it names."""
    manifest = Path(MANIFEST_NAME)
    try:
        named = parse_manifest(bytes(files.get(MANIFEST_NAME, b"")), manifest).named_files
    except StoreError as error:
        raise _unsound(str(error)) from error
    if wrong := files.keys() ^ {MANIFEST_NAME, *named}:
        raise _altered(f"and their manifest do not agree about {min(wrong)}")


def _unsound(why: str) -> InvalidInputError:
    return InvalidInputError(f"data is no sound index: {why}")


def _altered(what: str) -> InvalidInputError:
    return InvalidInputError(
        f"the bytes of data {what}; expected what serialize_index returned, whole and unaltered."
    )
