"""Files of an index directory that no snapshot needs: what interrupted work has left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hyperpq.errors import StoreError
from hyperpq.store.manifest import FOLDERS, Manifest
from hyperpq.store.manifest_parser import is_file_name
from hyperpq.utils.files import atomic_write, fsync_folder, read_regular, remove_quietly

UNPUBLISHED_NAME = ".unpublished-hyperpq"
"""File with the names at the top of an index of which an interrupted publication, or an interrupted
commit with other files, leaves some without a snapshot; see `publish` and `transaction`."""
_MAX_BYTES = 1 << 16


def remove_leftovers(root: Path, manifest: Manifest, *, sync: bool = True) -> None:
    """Remove files of earlier snapshots and of interrupted commits that ``manifest`` does not name.

    The writer lock must be held, and ``manifest`` must be durable. It does not matter if something
    cannot be removed.
    """
    named = manifest.named_files
    unpublished = unpublished_names(root)
    for folder in ("", *FOLDERS):
        with suppress(OSError):
            for name in os.listdir(root / folder):
                path = f"{folder}/{name}" if folder else name
                if path not in named and is_leftover(folder, name, unpublished or ()):
                    remove_quietly(root / path)
    if unpublished is not None:
        with suppress(StoreError):
            # A power cut must not bring the files back without the note of them.
            fsync_folder(root, sync=sync)
            remove_quietly(root / UNPUBLISHED_NAME)


def is_leftover(folder: str, name: str, unpublished: Iterable[str] = ()) -> bool:
    """Whether a file that no manifest names looks like one that the store has written.

    Parameters
    ----------
    folder : str
        One of `manifest.FOLDERS`, or ``""`` for the top of the index.
    name : str
        Name of the file.
    unpublished : iterable of str
        The `unpublished_names` of the index.
    """
    if name.startswith(".") and name.endswith(".tmp"):
        return True
    return name.endswith(".h5") if folder else name in unpublished


def write_unpublished(root: Path, names: Iterable[str], *, sync: bool = True) -> None:
    """Note, durably, which files at the top belong to one of two snapshots, perhaps not to both."""
    data = json.dumps(sorted(names)).encode()
    atomic_write(root / UNPUBLISHED_NAME, data, alone=True, sync=sync)


def unpublished_names(root: Path) -> set[str] | None:
    """What `write_unpublished` noted; None if nothing has been interrupted."""
    if not os.path.lexists(root / UNPUBLISHED_NAME):
        return None
    try:
        names = json.loads(read_regular(root / UNPUBLISHED_NAME, limit=_MAX_BYTES))
    except (StoreError, ValueError, RecursionError):
        # It is only a help for tidying, and may be a stranger's.
        return set()
    return {name for name in names if is_file_name(name)} if isinstance(names, list) else set()
