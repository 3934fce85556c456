"""Publishing an index inside another one's directory, by one replacement of the manifest."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hyperpq.errors import SnapshotChangedError
from hyperpq.store.leftovers import remove_leftovers, unpublished_names, write_unpublished
from hyperpq.store.lock import writer_lock
from hyperpq.store.manifest import (
    FOLDERS,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    ShardEntry,
    renamed_file,
    tombstone_path,
)
from hyperpq.store.manifest_parser import read_manifest
from hyperpq.store.place import Place
from hyperpq.store.transaction import make_folders, write_manifest
from hyperpq.store.verify import is_report_name
from hyperpq.utils.files import (
    CHECKSUM_BLOCK,
    fsync_folder,
    open_regular,
    os_errors,
    remove_quietly,
    rename_over,
    temporary_path,
    torn_file,
    write_synced,
)

# What file systems without links, or with few of them, answer.
_NOT_LINKED = frozenset((errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP))


def publish_inside(
    new: Path, place: Place, *, overwrite: bool, expected: Manifest | None = None
) -> None:
    """Make the content of the index ``new`` that of another directory.

    The files of ``new`` are linked into the other one under names that are free there, then the
    manifest is replaced, then the former files are removed. Where the file system has no links,
    files are copied. ``new`` stays as it is, so that all of this can be done again after a crash.

    Parameters
    ----------
    new : Path
        A complete index directory.
    place : Place
        An index directory, or a folder that is to become one.
    overwrite : bool
        False refuses to replace an index.
    expected : Manifest, optional
        Refuse to replace an index unless it has this manifest.

    Raises
    ------
    IndexLockedError
        If another process is writing to the place.
    SnapshotChangedError
        If the index has not the manifest that is expected. Nothing was changed.
    StoreError
        If there is an index and ``overwrite`` is False, or the system refuses. The place is then as
        before, but for files that its next commit removes; or it has the new index, if the system
        refuses after the manifest was replaced.
    """
    old = place.path
    with writer_lock(old):
        if not overwrite:
            place.check_free()
        source = read_manifest(new)
        former = read_manifest(old) if os.path.lexists(old / MANIFEST_NAME) else None
        if expected is not None and former != expected:
            raise SnapshotChangedError(
                f"{old}: the index was changed by another writer meanwhile; try again."
            )
        target = source if former is None else _behind(source, former)
        # An earlier attempt may have failed after its manifest was renamed and put back. Its names
        # are used again, so what is in the folder now must be there for good.
        fsync_folder(old)
        names = {target.stored_name(name) for name in target.files}
        names |= unpublished_names(old) or set()
        if former is not None:
            remove_leftovers(old, former)
            names |= {former.stored_name(name) for name in former.files}
        write_unpublished(old, names)
        make_folders(old)
        for (path, entry), (name, _) in zip(
            source.named_files.items(), target.named_files.items(), strict=True
        ):
            link_file(new / path, old / name, entry)
        for folder in ("", *FOLDERS):
            fsync_folder(old / folder)
        write_manifest(old, target)
        _replace_reports(new, old, source, target)
        remove_leftovers(old, target)


def _behind(source: Manifest, former: Manifest) -> Manifest:
    """The manifest ``source`` as the next snapshot of an index that has ``former``."""
    snapshot_number = former.snapshot_number + 1
    taken = {former.stored_name(name) for name in former.files}
    names = {
        name: renamed_file(name, snapshot_number) if name in taken else name
        for name in source.files
    }
    return replace(
        source,
        snapshot_number=snapshot_number,
        next_shard=former.next_shard + source.next_shard,
        shards=tuple(
            _renumbered(shard, former.next_shard, snapshot_number) for shard in source.shards
        ),
        stored_names={name: stored for name, stored in names.items() if stored != name},
    )


def _renumbered(shard: ShardEntry, first: int, snapshot_number: int) -> ShardEntry:
    number, tombstones = first + shard.number, shard.tombstones
    if tombstones is not None:
        tombstones = replace(tombstones, file=tombstone_path(number, snapshot_number))
    return replace(shard, number=number, tombstones=tombstones)


def link_file(source: Path, target: Path, entry: FileEntry | None = None) -> None:
    """Give a file a second name, or copy it where that is not possible.

    Raises
    ------
    CorruptIndexError
        If a copy has not the content of ``entry``.
    StoreError
        If the system refuses.
    """
    remove_quietly(target)
    with os_errors("make a link", target):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_LINKED:
                raise
            with open_regular(source) as handle:
                size = os.fstat(handle).st_size
                found = write_synced(target, _blocks(handle, size), size)
            if entry is not None and (size, found) != (entry.size, entry.checksums):
                raise torn_file(source, "the content is not that of the manifest") from None


def _blocks(handle: int, size: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, size, CHECKSUM_BLOCK):
        yield offset, os.pread(handle, CHECKSUM_BLOCK, offset)


def _replace_reports(new: Path, old: Path, source: Manifest, target: Manifest) -> None:
    """Take over the files for people, and remove those of the former index."""
    reports = _reports(new, source)
    for name in reports:
        aside = temporary_path(old / name)
        link_file(new / name, aside)
        rename_over(aside, old / name)
    for name in _reports(old, target) - reports:
        remove_quietly(old / name)
    fsync_folder(old)


def _reports(root: Path, manifest: Manifest) -> set[str]:
    with os_errors("list", root):
        names = set(os.listdir(root))
    return {name for name in names - manifest.named_files.keys() if is_report_name(name)}
