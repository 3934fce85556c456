"""The files of a build's working directory: plan, chunks of features, and its removal."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.folder import ImageFile
from hyperpq.images.extract import Features
from hyperpq.store import atomic_write
from hyperpq.utils.files import HOLDER_NAME, LOCK_NAME

# Arrays of `Features` that a chunk keeps, a file each.
_PARTS = ("rows", "plain", "views", "sizes")


def clear(work: Path) -> None:
    """Empty a working directory but for its lock."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (LOCK_NAME, HOLDER_NAME):
            entry.unlink()


def trash(work: Path) -> Path:
    """Name of a working directory that is being removed."""
    return work.with_name(work.name + "-done")


def discard(work: Path) -> None:
    """Remove a working directory at one stroke: half of one must not be taken for a build."""
    os.rename(work, trash(work))
    shutil.rmtree(trash(work), ignore_errors=True)


def plan_bytes(files: Sequence[ImageFile], skipped: dict[bytes, str]) -> bytes:
    """The plan: NUL-terminated records, as paths may hold any other byte."""
    records = [b"f %d %d %s" % (f.size, f.mtime_ns, f.path) for f in files]
    records += [b"s %s" % path for path in skipped]
    records += [b"r %s" % reason.encode() for reason in skipped.values()]
    return b"".join(record + b"\0" for record in records)


def read_plan(path: Path) -> tuple[list[ImageFile], dict[bytes, str]]:
    """Inverse of `plan_bytes`."""
    files, left_out, reasons = [], [], []
    for record in path.read_bytes().split(b"\0")[:-1]:
        if record.startswith(b"f "):
            size, mtime, name = record[2:].split(b" ", 2)
            files.append(ImageFile(name, int(size), int(mtime)))
        elif record.startswith(b"s "):
            left_out.append(record[2:])
        else:
            reasons.append(record[2:].decode())
    return files, dict(zip(left_out, reasons, strict=True))


def write_chunk(name: Path, chunk: Features) -> None:
    """Arrays first, the JSON that makes them count last."""
    for part in _PARTS:
        data = io.BytesIO()
        np.save(data, getattr(chunk, part), allow_pickle=False)
        atomic_write(name.with_suffix(f".{part}.npy"), data.getvalue())
    atomic_write(name.with_suffix(".json"), json.dumps(chunk.skipped).encode())


def read_chunk(name: Path) -> Features | None:
    """What `write_chunk` wrote, None if it wasn't written whole."""
    note = name.with_suffix(".json")
    if not note.exists():
        return None
    rows, plain, views, sizes = (_load_array(name.with_suffix(f".{part}.npy")) for part in _PARTS)
    skipped = [(row, why) for row, why in json.loads(note.read_text())]
    return Features(rows, plain, views, sizes, skipped)


def _load_array(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
