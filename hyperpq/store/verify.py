"""Checking every byte of an index directory, and telling what in it isn't the index's."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hyperpq.errors import StoreError
from hyperpq.store.durable import LOCK_NAME, checksum_of_file
from hyperpq.store.hdf5 import structure_problem
from hyperpq.store.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    is_file_name,
    read_manifest,
)
from hyperpq.store.shard import Shard, checked_read, parse_dead, problem_of_offsets

_REPORT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}\.(csv|jsonl|json|txt|html)")
_FOLDERS = ("shards", "dead")


@dataclass(frozen=True)
class Problem:
    """One finding of `verify`.

    Attributes
    ----------
    file : str
        Path in the index directory.
    what : str
        What is wrong, one sentence.
    kind : {"damage", "garbage"}
        Garbage is a file that the manifest doesn't name, as a crash leaves; it does no harm.
    """

    file: str
    what: str
    kind: Literal["damage", "garbage"] = "damage"


def is_report_name(name: object) -> bool:
    """Whether ``name`` can be a report's: a text file at the top of an index."""
    return isinstance(name, str) and is_file_name(name) and _REPORT_NAME.fullmatch(name) is not None


class _DamageError(Exception):
    """Carries a finding out of the checks of one shard."""

    def __init__(self, file: str, what: str):
        self.problem = Problem(file, what)


def verify_directory(path: str | os.PathLike[str]) -> list[Problem]:
    """Check an index directory as it stands on disk; works where it is too damaged to be opened.

    Checked are the manifest, length and checksum of every file it names, the structure of every
    HDF5 file, row counts, the order of paths and removed rows, and that no id occurs twice among
    the rows that are not removed.

    Parameters
    ----------
    path : path-like
        The index directory.

    Returns
    -------
    list of Problem
        Damage first, then garbage; empty for a sound and tidy index.

    Raises
    ------
    IndexNotFoundError
        If there is no index at all.
    """
    root = Path(path)
    try:
        manifest, dead = _snapshot(root)
    except StoreError as error:
        if not os.path.lexists(root / MANIFEST_NAME):
            raise
        return [Problem(MANIFEST_NAME, str(error))]
    return list(_problems(root, manifest, dead))


def _snapshot(root: Path) -> tuple[Manifest, dict[str, bytes | StoreError]]:
    """One generation: its manifest, and the dead-row files, which the next one may remove."""
    while True:
        manifest = read_manifest(root)
        dead: dict[str, bytes | StoreError] = {}
        for entry in [shard.dead for shard in manifest.shards if shard.dead]:
            try:
                dead[entry.file] = checked_read(root / entry.file, entry.content)
            except StoreError as error:
                dead[entry.file] = error
        is_whole = not any(isinstance(data, StoreError) for data in dead.values())
        if is_whole or read_manifest(root) == manifest:
            return manifest, dead


def _problems(
    root: Path, manifest: Manifest, dead: dict[str, bytes | StoreError]
) -> Iterator[Problem]:
    for folder in _FOLDERS:
        if (root / folder).is_symlink():
            yield Problem(folder, "is a link; an index holds none")
            return
    for name, entry in manifest.files.items():
        try:
            if checksum_of_file(root / name, entry.bytes) != entry.xxh3_128:
                yield Problem(name, "the checksum is wrong")
        except StoreError as error:
            yield Problem(name, str(error))
    ids = []
    for shard in manifest.shards:
        try:
            data = dead[shard.dead.file] if shard.dead else None
            ids.append(_checked_live_ids(root, shard, data))
        except _DamageError as damage:
            yield damage.problem
    yield from _repeated_ids(ids)
    for name in foreign_files(root, manifest, garbage=True):
        yield Problem(name, "the manifest doesn't name this file", "garbage")


def _checked_live_ids(root: Path, shard: ShardEntry, dead: bytes | StoreError | None) -> np.ndarray:
    """Check a shard and its removed rows; give the ids of the rows that are left."""
    file, path = shard.file, root / shard.file
    try:
        if checksum_of_file(path, shard.content.bytes) != shard.content.xxh3_128:
            raise _DamageError(file, "the checksum is wrong")
        if what := structure_problem(path, shard.columns):
            raise _DamageError(file, what)
        rows = Shard(root, shard, np.empty(0, np.int64))
        ids, table = rows.ids, rows.path_table()
    except StoreError as error:
        raise _DamageError(file, str(error)) from error
    if shard.ids and shard.ids != (ids.min(), ids.max()):
        raise _DamageError(file, "/ids don't have the range that the manifest says")
    if table and (what := problem_of_offsets(table[0], len(table[1]))):
        raise _DamageError(file, what)
    return np.delete(ids, _checked_dead(root, shard, dead)) if shard.dead else ids


def _checked_dead(root: Path, shard: ShardEntry, data: bytes | StoreError | None) -> np.ndarray:
    assert shard.dead is not None
    try:
        if isinstance(data, StoreError):
            raise data
        rows = parse_dead(root, shard, data)
    except StoreError as error:
        raise _DamageError(shard.dead.file, str(error)) from error
    if what := structure_problem(io.BytesIO(data or b""), shard.dead.columns):
        raise _DamageError(shard.dead.file, what)
    return rows


def _repeated_ids(ids: list[np.ndarray]) -> Iterator[Problem]:
    merged = np.sort(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    repeated = merged[1:][merged[1:] == merged[:-1]]
    if len(repeated):
        yield Problem(
            "shards",
            f"{len(np.unique(repeated))} ids occur more than once, the first is {repeated[0]}",
        )


def foreign_files(root: Path, manifest: Manifest, *, garbage: bool = False) -> list[str]:
    """Files in ``root`` that the manifest doesn't name and that aren't reports.

    Parameters
    ----------
    root : Path
        The index directory.
    manifest : Manifest
        What it should hold.
    garbage : bool
        True lists also what an interrupted commit leaves; False only what can't be a store's.

    Returns
    -------
    list of str
        Paths in the directory; a folder that isn't the store's stands for all it holds.
    """
    named = {MANIFEST_NAME, LOCK_NAME, *manifest.named_files}
    foreign = []
    for folder in ("", *_FOLDERS):
        for name in _names(root / folder):
            relative = f"{folder}/{name}" if folder else name
            is_known = relative in named or (
                not folder and (name in _FOLDERS or is_report_name(name))
            )
            is_leftover = name.startswith(".") and name.endswith(".tmp")
            is_leftover |= bool(folder) and name.endswith(".h5")
            if not is_known and (garbage or not is_leftover):
                foreign.append(relative)
    return foreign


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        # A missing folder holds no file; files that should be there are found missing by name.
        return []
