"""`skipped.csv`: the files that a build skipped, each with the reason."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from hyperpq.images.changes import is_below

if TYPE_CHECKING:
    from hyperpq.index import collection as index_collection

NAME = "skipped.csv"


def to_csv(skipped: Mapping[bytes, str]) -> bytes:
    """Paths and reasons as CSV with the header ``path,reason``, sorted by path.

    Paths keep their bytes in any encoding.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "reason"])
    for path in sorted(skipped):
        writer.writerow([path.decode("utf-8", "surrogateescape"), skipped[path]])
    return text.getvalue().encode("utf-8", "surrogateescape")


def from_csv(data: bytes | None) -> dict[bytes, str]:
    """Inverse of `to_csv`; None and an empty file give an empty dict."""
    if not data:
        return {}
    rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape")))
    next(rows, None)
    return {r[0].encode("utf-8", "surrogateescape"): r[1] for r in rows if len(r) == 2}


def update_report(
    collection: index_collection.Collection,
    skipped: Mapping[bytes, str],
    listed: Collection[bytes],
    folders: Collection[bytes],
) -> None:
    """Replace the lines of the report of an index about files that an update has examined.

    Parameters
    ----------
    collection : Collection
        The rows of the index; nothing is written for one in memory.
    skipped : mapping of bytes to str
        Paths and reasons of the files that the update skipped.
    listed, folders : collection of bytes
        Files that it has listed, and folders of which it has listed all files.
    """
    if collection.path is None:
        return
    below = tuple(os.path.join(folder, b"") for folder in folders)
    with collection.exclusive():
        old = from_csv(collection.read_report(NAME))
        kept = {
            path: reason
            for path, reason in old.items()
            if path not in listed and not is_below(path, below)
        }
        collection.write_report(NAME, to_csv({**kept, **skipped}))
