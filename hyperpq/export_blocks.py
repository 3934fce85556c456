"""Rows of an index in blocks, on their way out to other programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.store.columns import TIME, Categories, Column, kind_of

if TYPE_CHECKING:
    from hyperpq.index import HiHPQIndex

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
        Of the pictures, as the file system gave them.
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


def blocks_of(index: HiHPQIndex, vectors: bool = False) -> Iterator[Block]:
    """The rows of an index in the order in which they were added, without removed ones.

    Every block has every attribute that some row has. Where a row has none it is NaN, NaT or no
    label; whole numbers become float64 where some are missing.

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

    Raises
    ------
    InvalidInputError
        Parts of the index hold different kinds of values under one name.
    """
    empty = _empty_columns(index)
    has_paths = any(part.path_table() is not None for part in index.parts)

    def block(
        ids: NDArray[np.int64],
        codes: NDArray[np.uint8],
        paths: list[bytes],
        columns: Mapping[str, Column],
    ) -> Block:
        return Block(
            ids,
            codes,
            index.decode(codes) if vectors else None,
            paths if has_paths else None,
            {name: _fitted(columns.get(name), empty[name], len(ids)) for name in empty},
        )

    yielded = False
    for part in index.parts:
        columns = {name: part.attribute(name) for name in part.attribute_names}
        paths = part.paths or [b""] * (part.n if has_paths else 0)
        for start in range(0, part.n, _ROWS):
            stop = min(start + _ROWS, part.n)
            rows = np.arange(start, stop)
            if part.dead is not None:
                rows = rows[~part.dead[start:stop]]
            if not len(rows):
                continue
            yielded = True
            yield block(
                np.asarray(part.ids[rows]),
                part.tiled.rows(start, stop)[rows - start],
                [paths[row] for row in rows] if has_paths else [],
                {name: column[rows] for name, column in columns.items()},
            )
    if not yielded:
        yield block(np.empty(0, np.int64), np.empty((0, index.code_size), np.uint8), [], {})


def _empty_columns(index: HiHPQIndex) -> dict[str, Column]:
    """Attributes of an index as columns without rows, of the kinds that hold all parts."""
    found: dict[str, list[Column]] = {}
    for part in index.parts:
        for name in part.attribute_names:
            found.setdefault(name, []).append(part.attribute(name)[:0])
    out: dict[str, Column] = {}
    for name, columns in sorted(found.items()):
        kinds = {kind_of(column) for column in columns}
        if kinds == {"category"}:
            out[name] = Categories(np.empty(0, np.int32), ())
        elif kinds == {"time"}:
            out[name] = np.empty(0, TIME)
        elif kinds & {"category", "time"}:
            raise InvalidInputError(
                f"attribute {name} is {' and '.join(sorted(kinds))} in parts of the index; "
                "such columns can't be written as one."
            )
        else:
            dtype = np.result_type(*sorted(kinds))
            if dtype.kind == "i" and len(columns) < len(index.parts):
                dtype = np.dtype(np.float64)
            out[name] = np.empty(0, dtype)
    return out


def _fitted(column: Column | None, empty: Column, n: int) -> Column:
    """Values of the kind of ``empty``; missing ones without a column."""
    if isinstance(empty, Categories):
        return Categories(np.full(n, -1, np.int32), ()) if column is None else column
    if column is None:
        missing = np.datetime64("NaT", "ns") if empty.dtype == TIME else np.nan
        return np.full(n, missing, empty.dtype) if n else empty
    assert not isinstance(column, Categories)
    return column.astype(empty.dtype, copy=False)


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
