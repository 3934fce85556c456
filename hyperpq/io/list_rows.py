"""`list_rows`: what an index contains, read without its codec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq.images.changes import is_below
from hyperpq.index.view import RowView
from hyperpq.store import IndexStore, Rows
from hyperpq.store.columns import as_json, values_of
from hyperpq.utils.json_text import path_text
from hyperpq.utils.locations import absolute

# Rows that are in memory at once.
_BATCH = 1 << 16


@dataclass(frozen=True, eq=False)
class ListedRow:
    """A row of an index.

    Attributes
    ----------
    id : int
    path : bytes, optional
        Path of the image, in the encoding of the file system; None in an index of vectors.
    attributes : dict of str to int, float, str or None
        Its attributes; a time is text in ISO 8601, and None is what JSON cannot say.
    """

    id: int
    path: bytes | None
    attributes: dict[str, object]

    def to_dict(self) -> dict[str, object]:
        """The row with JSON types; the path as `utils.json_text.path_text`."""
        path = {} if self.path is None else {"path": path_text(self.path)}
        return {"id": self.id, **path, **self.attributes}


def list_rows(
    index_path: str | os.PathLike[str],
    below: Sequence[str | os.PathLike[str]] = (),
    *,
    where: str | None = None,
) -> Iterator[ListedRow]:
    """The rows of an index in the order of their ids.

    Parameters
    ----------
    index_path : path-like
        Directory of the index.
    below : sequence of path-like
        Folders or images, which need not exist; only images at or below one of them are given.
        Without one, all rows are.
    where : str, optional
        Condition that the rows fulfil, see `Where`.

    Yields
    ------
    ListedRow

    Raises
    ------
    InvalidInputError
        If the condition is not valid.
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    view = RowView(0, IndexStore.open(index_path))
    chosen = None if where is None else view.select(where=where)
    roots = tuple(map(_root, below))
    for rows in view.batches(_BATCH):
        kept = np.ones(rows.n, bool) if chosen is None else np.isin(rows.ids, chosen)
        if roots:
            paths = rows.paths or [b""] * rows.n
            kept &= np.fromiter((is_below(path, roots) for path in paths), bool, rows.n)
        yield from _listed(rows, np.flatnonzero(kept), view.attribute_names)


def unlisted(
    index_path: str | os.PathLike[str], below: Sequence[str | os.PathLike[str]]
) -> list[str]:
    """Those of some folders or images at or below which an index has no image, as `list_rows`.

    Raises
    ------
    IndexNotFoundError, CorruptIndexError, FormatVersionError
        If the index cannot be opened.
    """
    left = {os.fspath(path): _root(path) for path in below}
    for rows in RowView(0, IndexStore.open(index_path)).batches(_BATCH):
        for path in rows.paths or ():
            for name in [name for name, root in left.items() if is_below(path, (root,))]:
                del left[name]
            if not left:
                return []
    return list(left)


def _root(path: str | os.PathLike[str]) -> bytes:
    """A folder or an image as `is_below` expects it."""
    return os.path.join(absolute(path), b"")


def _listed(rows: Rows, kept: NDArray[np.intp], names: Sequence[str]) -> Iterator[ListedRow]:
    paths = rows.paths
    columns = {name: values_of(rows.attribute(name)[kept]) for name in names}
    for place, row in enumerate(kept.tolist()):
        yield ListedRow(
            int(rows.ids[row]),
            None if paths is None else paths[row],
            {name: as_json(values[place]) for name, values in columns.items()},
        )
