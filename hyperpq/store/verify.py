"""Checking every byte of an index directory, and telling what in it isn't the index's."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hyperpq.errors import StoreError
from hyperpq.store.hdf5_layout import structure_problem
from hyperpq.store.manifest import MANIFEST_NAME, FileEntry, Manifest, Place, ShardEntry
from hyperpq.store.manifest_parser import is_file_name, read_manifest
from hyperpq.store.shard import Shard, checked_read, parse_dead
from hyperpq.store.transaction import FOLDERS, is_leftover
from hyperpq.utils.files import CHECKED, HOLDER_NAME, LOCK_NAME, checksums_of_file

_REPORT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}\.(csv|jsonl|json|txt|html)")
# Of so many ids of a shard one tells where the ranges end in which repeated ids are sought, and
# a range has so many of these.
_SAMPLED = 1 << 10


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
    checked: dict[tuple[str, FileEntry], np.ndarray | Problem] = {}
    while True:
        try:
            manifest, dead = _snapshot(root)
        except StoreError as error:
            if not os.path.lexists(root / MANIFEST_NAME):
                raise
            return [_said(root, MANIFEST_NAME, error)]
        links = [folder for folder in FOLDERS if (root / folder).is_symlink()]
        if links:
            return [Problem(links[0], "is a link; an index holds none")]
        if _check_shards(root, manifest, checked):
            return list(_problems(root, manifest, dead, checked))


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


def _check_shards(
    root: Path, manifest: Manifest, checked: dict[tuple[str, FileEntry], np.ndarray | Problem]
) -> bool:
    """Check the shards that aren't in ``checked``; False if a writer has replaced one meanwhile."""
    for shard in manifest.shards:
        key = shard.file, shard.content
        if key not in checked:
            found = _checked_ids(root, shard)
            if isinstance(found, Problem):
                names = {entry.file for entry in read_manifest(root).shards}
                if shard.file not in names:
                    return False
            checked[key] = found
    return True


def _problems(
    root: Path,
    manifest: Manifest,
    dead: dict[str, bytes | StoreError],
    checked: dict[tuple[str, FileEntry], np.ndarray | Problem],
) -> Iterator[Problem]:
    for name, entry in manifest.files.items():
        try:
            if what := _checksum_problem(root / name, entry):
                yield Problem(name, what)
        except StoreError as error:
            yield _said(root, name, error)
    sound: list[tuple[np.ndarray, np.ndarray]] = []
    for shard in manifest.shards:
        ids = checked[shard.file, shard.content]
        gone = _checked_dead(root, shard, dead)
        if isinstance(ids, Problem):
            yield ids
        if isinstance(gone, Problem):
            yield gone
        if not isinstance(ids, Problem) and not isinstance(gone, Problem):
            sound.append((ids, gone))
    yield from _repeated_ids(sound)
    for name in foreign_files(root, manifest, garbage=True):
        yield Problem(name, "the manifest doesn't name this file", "garbage")


def _checked_ids(root: Path, shard: ShardEntry) -> np.ndarray | Problem:
    """Ids of all rows of a shard, or what is wrong with it."""
    path = root / shard.file
    try:
        what = _checksum_problem(path, shard.content, shard.columns)
        # HDF5 parses only what has its checksum.
        if what := what or structure_problem(path, shard.columns):
            return Problem(shard.file, what)
        rows = Shard(root, shard, np.empty(0, np.int64))
        # Each of these is checked when it is read.
        for name in rows.attribute_names:
            rows.attribute(name)
        assert rows.path_strings is None or len(rows.path_strings) == rows.n
    except StoreError as error:
        return _said(root, shard.file, error)
    ids = rows.ids
    if shard.ids and shard.ids != (ids[0], ids[-1]):
        return Problem(shard.file, "/ids don't have the range that the manifest says")
    if np.any(ids[1:] <= ids[:-1]):
        return Problem(shard.file, "/ids don't rise")
    return ids


def _said(root: Path, file: str, error: StoreError) -> Problem:
    """What reading a file raised, without its path, which `Problem` has already."""
    return Problem(file, str(error).removeprefix(f"{root / file}: "))


def _checksum_problem(
    path: Path, entry: FileEntry, columns: Mapping[str, Place] | None = None
) -> str | None:
    """Which pieces of a file differ from their checksums, and what lies there; None if none."""
    found = checksums_of_file(path, entry.bytes)
    pairs = enumerate(zip(found, entry.xxh3_128, strict=True))
    starts = [i * CHECKED for i, (is_so, should_be) in pairs if is_so != should_be]
    if not starts or len(found) == 1:
        return "the checksum is wrong" if starts else None
    inside = [
        f"/{name}"
        for name, place in sorted((columns or {}).items())
        if any(place.offset < start + CHECKED and start < place.end for start in starts)
    ]
    return (
        f"the checksum is wrong in {len(starts)} of {len(found)} pieces of {CHECKED} bytes, first "
        f"at byte {starts[0]}; {', '.join(inside) or 'no column'} lies there"
    )


def _checked_dead(
    root: Path, shard: ShardEntry, dead: dict[str, bytes | StoreError]
) -> np.ndarray | Problem:
    """Numbers of the removed rows of a shard, or what is wrong with their file."""
    if shard.dead is None:
        return np.empty(0, np.int64)
    data = dead[shard.dead.file]
    try:
        if isinstance(data, StoreError):
            raise data
        rows = parse_dead(root, shard, data)
    except StoreError as error:
        return _said(root, shard.dead.file, error)
    what = structure_problem(io.BytesIO(data), shard.dead.columns)
    return Problem(shard.dead.file, what) if what else rows


def _repeated_ids(shards: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Problem]:
    """Ids that several shards have, from ascending ids and removed rows of each."""
    count, first = 0, 0
    for ids in _by_range(shards):
        ids.sort()
        repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
        if len(repeated) and not count:
            first = int(repeated[0])
        count += len(repeated)
    if count:
        yield Problem("shards", f"{count} ids occur more than once, the first is {first}")


def _by_range(shards: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """All ids that aren't removed, one range of ids after another: only one is in memory."""
    samples = [ids[::_SAMPLED] for ids, _ in shards]
    # A range has about a million ids, and of each shard at most _SAMPLED more.
    bounds = np.sort(np.concatenate([np.empty(0, np.int64), *samples]))[_SAMPLED::_SAMPLED]
    cuts = [[0, *np.searchsorted(ids, bounds, "right"), len(ids)] for ids, _ in shards]
    for i in range(len(bounds) + 1):
        pieces = [np.empty(0, np.int64)]
        for (ids, gone), cut in zip(shards, cuts, strict=True):
            start, stop = cut[i], cut[i + 1]
            dead = gone[slice(*np.searchsorted(gone, [start, stop]))] - start
            pieces.append(np.delete(ids[start:stop], dead))
        yield np.concatenate(pieces)


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
    named = {MANIFEST_NAME, LOCK_NAME, HOLDER_NAME, *manifest.named_files}
    foreign = []
    for folder in ("", *FOLDERS):
        for name in _names(root / folder):
            relative = f"{folder}/{name}" if folder else name
            is_known = relative in named or (
                not folder and (name in FOLDERS or is_report_name(name))
            )
            if not is_known and (garbage or not is_leftover(folder, name)):
                foreign.append(relative)
    return foreign


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        # A missing folder holds no file; files that should be there are found missing by name.
        return []
