"""Checking every byte of an index directory, and finding files that do not belong to it."""

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
from hyperpq.store.leftovers import UNPUBLISHED_NAME, is_leftover, unpublished_names
from hyperpq.store.lock import HOLDER_NAME, LOCK_NAME
from hyperpq.store.manifest import FOLDERS, MANIFEST_NAME, Extent, FileEntry, Manifest, ShardEntry
from hyperpq.store.manifest_parser import is_file_name, read_manifest
from hyperpq.store.place import LOST_AND_FOUND
from hyperpq.store.shard import Shard
from hyperpq.store.snapshot import present_folder
from hyperpq.store.tombstones import parse_tombstones, read_tombstones_file
from hyperpq.utils.files import CHECKSUM_BLOCK, checksums_of_file

REPORT_ENDINGS = (".csv", ".jsonl", ".json", ".txt", ".html")
_REPORT_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,60}")
# Repeated ids are sought in one range of ids after another. Of each so many ids of a shard one is a
# sample, and a range has so many samples.
_SAMPLED = 1 << 10


@dataclass(frozen=True)
class Problem:
    """Something that `verify_directory` has found.

    Attributes
    ----------
    file : str
        Path in the index directory.
    what : str
        What is wrong, one sentence.
    kind : {"damage", "garbage"}
        Garbage is a file that the manifest does not name, such as a crash leaves; it does no harm.
    """

    file: str
    what: str
    kind: Literal["damage", "garbage"] = "damage"


def is_report_name(name: object) -> bool:
    """Whether a report, a text file at the top of an index, may be called ``name``."""
    if not isinstance(name, str) or not is_file_name(name):
        return False
    stem, ending = os.path.splitext(name)
    return ending in REPORT_ENDINGS and _REPORT_STEM.fullmatch(stem) is not None


def verify_directory(path: str | os.PathLike[str]) -> list[Problem]:
    """Check an index directory on disk, even one that is too damaged to be opened.

    The check covers the manifest, the length and checksum of every file that it names, the
    structure of every HDF5 file, row counts, the order of paths and of deleted rows, and that no id
    occurs twice among the rows that are not deleted.

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
    while True:
        found = root, _ = present_folder(Path(path))
        files = _files(root)
        try:
            problems = _verify(root)
        except StoreError:
            if present_folder(Path(path)) == found:
                raise
            continue
        is_damaged = any(problem.kind == "damage" for problem in problems)
        # What looks like damage may be another index that takes the place meanwhile.
        if not is_damaged or (present_folder(Path(path)), _files(root)) == (found, files):
            return problems


def _files(root: Path) -> dict[str, tuple[str, FileEntry]] | None:
    """Files of the index beside its rows, by which it is told from another one."""
    try:
        manifest = read_manifest(root)
    except StoreError:
        return None
    return {name: (manifest.stored_name(name), entry) for name, entry in manifest.files.items()}


def _verify(root: Path) -> list[Problem]:
    checked: dict[tuple[str, FileEntry], np.ndarray | Problem] = {}
    while True:
        try:
            manifest, tombstones = _read_snapshot(root)
        except StoreError as error:
            if not os.path.lexists(root / MANIFEST_NAME):
                raise
            return [_problem_of(root, MANIFEST_NAME, error)]
        links = [folder for folder in FOLDERS if (root / folder).is_symlink()]
        if links:
            return [Problem(links[0], "this folder is a link; an index holds no links.")]
        if _check_shards(root, manifest, checked):
            return list(_problems(root, manifest, tombstones, checked))


def _read_snapshot(root: Path) -> tuple[Manifest, dict[str, bytes | StoreError]]:
    """The manifest, and the files of tombstones by their paths, which a later commit may remove."""
    while True:
        manifest = read_manifest(root)
        files: dict[str, bytes | StoreError] = {}
        for entry in [shard.tombstones for shard in manifest.shards if shard.tombstones]:
            try:
                files[entry.file] = read_tombstones_file(root, entry)
            except StoreError as error:
                files[entry.file] = error
        is_whole = not any(isinstance(data, StoreError) for data in files.values())
        if is_whole or read_manifest(root) == manifest:
            return manifest, files


def _check_shards(
    root: Path, manifest: Manifest, checked: dict[tuple[str, FileEntry], np.ndarray | Problem]
) -> bool:
    """Check the shards that are not in ``checked``; False if a writer has just replaced one."""
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
    tombstones: dict[str, bytes | StoreError],
    checked: dict[tuple[str, FileEntry], np.ndarray | Problem],
) -> Iterator[Problem]:
    for logical, entry in manifest.files.items():
        name = manifest.stored_name(logical)
        try:
            if what := _checksum_problem(root / name, entry):
                yield Problem(name, f"{what}.")
        except StoreError as error:
            yield _problem_of(root, name, error)
    sound: list[tuple[np.ndarray, np.ndarray]] = []
    for shard in manifest.shards:
        ids = checked[shard.file, shard.content]
        deleted = _checked_tombstones(root, shard, tombstones)
        if isinstance(ids, Problem):
            yield ids
        if isinstance(deleted, Problem):
            yield deleted
        if not isinstance(ids, Problem) and not isinstance(deleted, Problem):
            sound.append((ids, deleted))
    yield from _repeated_ids(sound)
    for name in foreign_files(root, manifest, garbage=True):
        yield Problem(name, "the manifest does not name this file.", "garbage")


def _checked_ids(root: Path, shard: ShardEntry) -> np.ndarray | Problem:
    """Ids of all rows of a shard, or what is wrong with it."""
    path = root / shard.file
    try:
        what = _checksum_problem(path, shard.content, shard.columns)
        # HDF5 parses only what has its checksum.
        if what := what or structure_problem(path, shard.columns):
            return Problem(shard.file, f"{what}.")
        rows = Shard(root, shard, np.empty(0, np.int64))
        # Each of these is checked when it is read.
        for name in rows.attribute_names:
            rows.attribute(name)
        assert rows.path_strings is None or len(rows.path_strings) == rows.n
    except StoreError as error:
        return _problem_of(root, shard.file, error)
    ids = rows.ids
    if shard.ids and shard.ids != (ids[0], ids[-1]):
        return Problem(shard.file, "/ids do not have the range that the manifest says.")
    if np.any(ids[1:] <= ids[:-1]):
        return Problem(shard.file, "/ids do not rise.")
    return ids


def _problem_of(root: Path, file: str, error: StoreError) -> Problem:
    """The error that reading a file raised, without its path, which `Problem` has already."""
    return Problem(file, str(error).removeprefix(f"{root / file}: "))


def _checksum_problem(
    path: Path, entry: FileEntry, columns: Mapping[str, Extent] | None = None
) -> str | None:
    """Which blocks of a file differ from their checksums, and what lies there; None if none."""
    found = checksums_of_file(path, entry.size)
    pairs = enumerate(zip(found, entry.checksums, strict=True))
    starts = [i * CHECKSUM_BLOCK for i, (actual, expected) in pairs if actual != expected]
    if not starts or len(found) == 1:
        return "the checksum is wrong" if starts else None
    inside = [
        f"/{name}"
        for name, extent in sorted((columns or {}).items())
        if any(extent.offset < start + CHECKSUM_BLOCK and start < extent.end for start in starts)
    ]
    return (
        f"the checksum is wrong in {len(starts)} of {len(found)} blocks of {CHECKSUM_BLOCK} bytes, "
        f"first at byte {starts[0]}; {', '.join(inside) or 'no column'} lies there"
    )


def _checked_tombstones(
    root: Path, shard: ShardEntry, files: dict[str, bytes | StoreError]
) -> np.ndarray | Problem:
    """Numbers of the deleted rows of a shard, or what is wrong with their file."""
    entry = shard.tombstones
    if entry is None:
        return np.empty(0, np.int64)
    data = files[entry.file]
    try:
        if isinstance(data, StoreError):
            raise data
        rows = parse_tombstones(root, shard, data)
    except StoreError as error:
        return _problem_of(root, entry.file, error)
    what = structure_problem(io.BytesIO(data), entry.columns)
    return Problem(entry.file, f"{what}.") if what else rows


def _repeated_ids(shards: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Problem]:
    """Ids that several shards have, from ascending ids and deleted rows of each."""
    count, first = 0, 0
    for ids in _by_range(shards):
        ids.sort()
        repeated = np.unique(ids[1:][ids[1:] == ids[:-1]])
        if len(repeated) and not count:
            first = int(repeated[0])
        count += len(repeated)
    if count == 1:
        yield Problem("shards", f"the id {first} occurs more than once.")
    elif count:
        yield Problem("shards", f"{count} ids occur more than once; the first is {first}.")


def _by_range(shards: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """All ids that are not deleted, by ranges, of which one is in memory at a time."""
    samples = [ids[::_SAMPLED] for ids, _ in shards]
    # A range has about a million ids, and of each shard at most _SAMPLED more.
    bounds = np.sort(np.concatenate([np.empty(0, np.int64), *samples]))[_SAMPLED::_SAMPLED]
    cuts = [[0, *np.searchsorted(ids, bounds, "right"), len(ids)] for ids, _ in shards]
    for i in range(len(bounds) + 1):
        found = [np.empty(0, np.int64)]
        for (ids, deleted), cut in zip(shards, cuts, strict=True):
            start, stop = cut[i], cut[i + 1]
            here = deleted[slice(*np.searchsorted(deleted, [start, stop]))] - start
            found.append(np.delete(ids[start:stop], here))
        yield np.concatenate(found)


def foreign_files(root: Path, manifest: Manifest, *, garbage: bool = False) -> list[str]:
    """Files in ``root`` that the manifest does not name and that are no reports.

    Parameters
    ----------
    root : Path
        The index directory.
    manifest : Manifest
        What the directory should hold.
    garbage : bool
        True also lists what an interrupted commit leaves; False only what no store has written.

    Returns
    -------
    list of str
        Paths in the directory; an unknown folder stands for all that it holds.
    """
    named = {MANIFEST_NAME, LOCK_NAME, HOLDER_NAME, LOST_AND_FOUND, *manifest.named_files}
    unpublished = unpublished_names(root)
    tidied = set() if unpublished is None else {UNPUBLISHED_NAME, *unpublished}
    foreign = []
    for folder in ("", *FOLDERS):
        for name in _names(root / folder):
            relative = f"{folder}/{name}" if folder else name
            is_known = relative in named or (
                not folder and (name in FOLDERS or is_report_name(name))
            )
            if not is_known and (garbage or not is_leftover(folder, name, tidied)):
                foreign.append(relative)
    return foreign


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        # A missing folder holds no file; files that should be there are found missing by name.
        return []
