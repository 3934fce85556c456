"""`ExportBatch`: some rows of an index, as they are exported to other programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store import Column, Rows
from hyperpq.store.columns import kind_of

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex
    from hyperpq.index.view import RowView

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

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def check_like(self, first: ExportBatch) -> None:
        """Raise `InvalidInputError` unless this batch has the columns of ``first``."""
        if self._layout() != first._layout():
            raise InvalidInputError(
                f"a batch has the columns {self._layout()}; expected those of the first batch, "
                f"{first._layout()}."
            )

    def _layout(self) -> dict[str, str]:
        out = {"codes": f"{self.codes.shape[1]} bytes"}
        if self.vectors is not None:
            out["vectors"] = f"width {self.vectors.shape[1]}"
        if self.paths is not None:
            out["paths"] = "bytes"
        return out | {name: kind_of(column) for name, column in self.attributes.items()}


BatchSource: TypeAlias = Callable[[bool], Iterator[ExportBatch]]
"""Gives an iterator over all batches at each call; with True they have decoded vectors."""


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
    index: HiHPQIndex, vectors: bool = False, view: RowView | None = None
) -> Iterator[ExportBatch]:
    """The rows of an index, without deleted ones.

    Parameters
    ----------
    index : HiHPQIndex
        A trained index.
    vectors : bool
        Whether to decode the codes.
    view : RowView, optional
        A view of its rows; the rows as they are now by default.

    Yields
    ------
    ExportBatch
        At least one batch, which may be empty.
    """
    view = view or index.collection.view()
    columns = view.attribute_names
    rows: Rows | None = None
    for rows in view.batches(_BATCH_SIZE):
        yield ExportBatch(
            rows.ids,
            rows.codes,
            index.decode(rows.codes) if vectors else None,
            rows.paths,
            {name: rows.attribute(name) for name in columns},
        )
    if rows is None:
        codes = np.empty((0, index.code_size), np.uint8)
        yield ExportBatch(np.empty(0, np.int64), codes, index.decode(codes) if vectors else None)


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
