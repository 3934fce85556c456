"""`ExportBatch`: some rows of an index, as they are exported to other programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.index.searcher import trained
from hyperpq.store import Column, Rows
from hyperpq.store.columns import kind_of

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Rows of a batch: with 256 coordinates, its decoded vectors take 32 MiB.
_BATCH_SIZE = 1 << 15


@dataclass(frozen=True, eq=False)
class ExportBatch:
    """Some rows with their ids, codes, paths and attributes.

    Attributes
    ----------
    ids : ndarray, shape (n,), int64
    codes : ndarray, shape (n, code_size), uint8
    vectors : ndarray, shape (n, D), float32, or None
        Decoded tangent vectors, see `HiHPQIndex.decode`.
    features : ndarray, shape (n, d), float32, or None
        Features as the index keeps them.
    paths : list of bytes, or None
        Paths of the images, in the encoding of the file system.
    attributes : mapping of str to Column
        Columns of n values.
    """

    ids: NDArray[np.int64]
    codes: NDArray[np.uint8]
    vectors: NDArray[np.float32] | None = None
    paths: list[bytes] | None = None
    attributes: Mapping[str, Column] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def wide(self) -> dict[str, NDArray[np.float32]]:
        """Columns of vectors, each (n, width)."""
        columns = {"vectors": self.vectors, "features": self.features}
        return {name: column for name, column in columns.items() if column is not None}

    def check_like(self, first: ExportBatch) -> None:
        """Raise `InvalidInputError` unless this batch has the columns of ``first``."""
        if self._layout() != first._layout():
            raise InvalidInputError(
                f"a batch has the columns {self._layout()}; expected those of the first batch, "
                f"{first._layout()}."
            )

    def _layout(self) -> dict[str, str]:
        out = {"codes": f"{self.codes.shape[1]} bytes"}
        out |= {name: f"width {column.shape[1]}" for name, column in self.wide.items()}
        if self.paths is not None:
            out["paths"] = "bytes"
        return out | {name: kind_of(column) for name, column in self.attributes.items()}


BatchSource: TypeAlias = Callable[[bool], Iterator[ExportBatch]]
"""Gives an iterator over all batches at each call; with True they have their columns of vectors."""


def first_and_all(batches: Iterator[ExportBatch]) -> tuple[ExportBatch, Iterator[ExportBatch]]:
    """The first batch, and an iterator over all, checked to have equal columns.

    Raises
    ------
    InvalidInputError
        If there is no batch; the iterator raises it if columns differ.
    """
    first = next(batches, None)
    if first is None:
        raise InvalidInputError("there are no batches; expected at least one, which may be empty.")

    def checked() -> Iterator[ExportBatch]:
        yield first
        for batch in batches:
            batch.check_like(first)
            yield batch

    return first, checked()


def batches_of(
    index: IndexView, vectors: bool = False, features: bool = False
) -> Iterator[ExportBatch]:
    """The rows of an index, without deleted ones.

    Parameters
    ----------
    index : IndexView
        A trained index at one moment, see `HiHPQIndex.view`.
    vectors : bool
        Whether to decode the codes.
    features : bool
        Whether to read the kept features.

    Yields
    ------
    ExportBatch
        At least one batch, which may be empty.
    """
    view = index.rows
    codec, columns = trained(view.held), view.attribute_names
    read_by = view.kept_by() if features else None

    def batch(rows: Rows) -> ExportBatch:
        kept = rows.features
        if read_by is not None and kept is None:
            kept = np.empty((0, read_by.size), np.uint8)
        return ExportBatch(
            rows.ids,
            rows.codes,
            codec.decode(rows.codes) if vectors else None,
            rows.paths,
            {name: rows.attribute(name) for name in columns},
            None if read_by is None or kept is None else read_by.decode(kept),
        )

    rows: Rows | None = None
    for rows in view.batches(_BATCH_SIZE, features=features):
        yield batch(rows)
    if rows is None:
        yield batch(Rows(np.empty((0, codec.code_size), np.uint8), np.empty(0, np.int64)))


def path_text(path: bytes) -> str:
    r"""A path as valid Unicode, from which `path_bytes` restores the path.

    The path is decoded as UTF-8; a byte that is not UTF-8 becomes ``\xNN``, a backslash ``\\``.
    """
    return path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def path_bytes(text: str) -> bytes:
    """Inverse of `path_text`."""
    return re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)]),
        text.encode(),
    )
