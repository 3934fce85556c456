"""Rows of an index in blocks, on their way out to other programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store import Column, Rows, live_batches
from hyperpq.store.columns import kind_of

if TYPE_CHECKING:
    from hyperpq.index.hihpq_index import HiHPQIndex

# Rows of a block: 32 MiB of decoded vectors at 256 coordinates.
_ROWS = 1 << 15


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows with all that is known of them.

    Attributes
    ----------
    ids : ndarray, shape (n,), int64
    codes : ndarray, shape (n, code_size), uint8
    vectors : ndarray, shape (n, D), float32, or None
        Decoded tangent vectors, see `HiHPQIndex.decode`.
    paths : list of bytes, or None
        Of the images, as the file system gave them.
    attributes : mapping of str to Column, each of n values
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

    def check_like(self, first: Block) -> None:
        """Raise `InvalidInputError` unless this block has the columns of ``first``."""
        if self._layout() != first._layout():
            raise InvalidInputError(
                f"a block has the columns {self._layout()}, the first one {first._layout()}; "
                "all blocks must have the same."
            )

    def _layout(self) -> dict[str, str]:
        out = {"codes": f"{self.codes.shape[1]} bytes"}
        if self.vectors is not None:
            out["vectors"] = f"width {self.vectors.shape[1]}"
        if self.paths is not None:
            out["paths"] = "bytes"
        return out | {name: kind_of(column) for name, column in self.attributes.items()}


Source: TypeAlias = Callable[[bool], Iterator[Block]]
"""Gives the blocks anew at each call; True asks for decoded vectors."""


def first_and_all(blocks: Iterator[Block]) -> tuple[Block, Iterator[Block]]:
    """The first block, and all of them again, checked to have the same columns.

    Raises
    ------
    InvalidInputError
        There is none, or (from the iterator) they differ.
    """
    first = next(blocks, None)
    if first is None:
        raise InvalidInputError("there are no blocks; expected at least one, which may be empty.")

    def checked() -> Iterator[Block]:
        yield first
        for block in blocks:
            block.check_like(first)
            yield block

    return first, checked()


def blocks_of(index: HiHPQIndex, vectors: bool = False) -> Iterator[Block]:
    """The rows of an index, without removed ones.

    Parameters
    ----------
    index : HiHPQIndex
        Trained.
    vectors : bool
        Whether to decode the codes.

    Yields
    ------
    Block
        At least one, which may be empty.
    """
    columns = index.parts[0].attribute_names if index.parts else []
    rows: Rows | None = None
    for rows in live_batches(index.parts, _ROWS):
        yield Block(
            rows.ids,
            rows.codes,
            index.decode(rows.codes) if vectors else None,
            rows.paths,
            {name: rows.attribute(name) for name in columns},
        )
    if rows is None:
        codes = np.empty((0, index.code_size), np.uint8)
        yield Block(np.empty(0, np.int64), codes, index.decode(codes) if vectors else None)


def path_text(path: bytes) -> str:
    r"""A path as valid Unicode, from which `path_bytes` makes the path again.

    It is read as UTF-8. A byte that isn't becomes ``\xNN``, and a backslash ``\\``.
    """
    return path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def path_bytes(text: str) -> bytes:
    """Inverse of `path_text`."""
    return re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1][1:], 16)]),
        text.encode(),
    )
