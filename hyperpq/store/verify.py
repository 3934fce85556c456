"""Checking every byte of an index directory, and telling what in it isn't the index's."""

from __future__ import annotations

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
    Column,
    FileEntry,
    Manifest,
    ShardEntry,
    is_file_name,
    read_manifest,
)
from hyperpq.store.shard import Shard, problem_of_offsets, read_dead

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
    while True:
        try:
            manifest = read_manifest(root)
        except StoreError as error:
            if not os.path.lexists(root / MANIFEST_NAME):
                raise
            return [Problem(MANIFEST_NAME, str(error))]
        problems = list(_problems(root, manifest))
        # A writer that commits meanwhile removes what its generation no longer names.
        if not problems or _is_current(root, manifest):
            return problems


def _is_current(root: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(root) == manifest
    except StoreError:
        return False


def _problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
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
            ids.append(_checked_live_ids(root, shard))
        except _DamageError as damage:
            yield damage.problem
    yield from _repeated_ids(ids)
    for name in foreign_files(root, manifest, garbage=True):
        yield Problem(name, "the manifest doesn't name this file", "garbage")


def _checked_live_ids(root: Path, shard: ShardEntry) -> np.ndarray:
    """Check a shard and its removed rows; give the ids of the rows that are left."""
    if shard.dead:
        _check_hdf5(root, shard.dead.file, shard.dead.content, shard.dead.columns)
    _check_hdf5(root, shard.file, shard.content, shard.columns)
    file = shard.dead.file if shard.dead else shard.file
    try:
        rows = Shard(root, shard, read_dead(root, shard))
        file = shard.file
        ids, table = rows.ids, rows.path_table()
    except StoreError as error:
        raise _DamageError(file, str(error)) from error
    if shard.ids and shard.ids != (ids.min(), ids.max()):
        raise _DamageError(file, "/ids don't have the range that the manifest says")
    if table and (what := problem_of_offsets(table[0], len(table[1]))):
        raise _DamageError(file, what)
    return np.delete(ids, rows.dead_rows)


def _check_hdf5(root: Path, file: str, entry: FileEntry, columns: dict[str, Column]) -> None:
    try:
        right = checksum_of_file(root / file, entry.bytes) == entry.xxh3_128
        what = structure_problem(root / file, columns) if right else "the checksum is wrong"
    except StoreError as error:
        what = str(error)
    if what:
        raise _DamageError(file, what)


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
