"""Rows as named arrays in one file: npz and HDF5, with the names of a shard's datasets."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.export_batches import Block, Source, first_and_all
from hyperpq.store import Categories
from hyperpq.store.columns import GROUPS, datasets_of, datasets_of_labels, kind_of, recoded

# HDF5 never writes the file itself: where the disk is full, it brings down the process.
from hyperpq.store.hdf5_layout import Layout, lay_out


class _Arrays:
    """Makes pieces of arrays from blocks, one after another."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, int]] = {}
        self._path_end = -1  # before the first

    def names(self, block: Block) -> list[str]:
        """Names of the arrays that a block has a piece of."""
        out = ["ids", "codes"]
        if block.paths is not None:
            out += ["path_offsets", "path_bytes"]
        for name, column in block.attributes.items():
            out.append(f"{GROUPS.get(kind_of(column), 'attributes')}/{name}")
        return out if block.vectors is None else [*out, "vectors"]

    def piece(self, name: str, block: Block) -> NDArray[Any]:
        """The piece of an array that comes from the next block."""
        group, _, attribute = name.rpartition("/")
        if group:
            column = block.attributes[attribute]
            if isinstance(column, Categories):
                return self._merged(attribute, column.used())
            return datasets_of({attribute: column})[name]
        if name == "path_bytes":
            return np.frombuffer(b"".join(block.paths or ()), np.uint8)
        if name == "path_offsets":
            ends = np.cumsum([max(self._path_end, 0), *map(len, block.paths or ())], dtype=np.int64)
            begun, self._path_end = self._path_end >= 0, int(ends[-1])
            return ends[1:] if begun else ends
        array: NDArray[Any] = getattr(block, name)
        return array

    def _merged(self, name: str, column: Categories) -> NDArray[np.int32]:
        """Codes of a column in the labels of all blocks so far."""
        return recoded(column, self._labels.setdefault(name, {}))

    def labels(self) -> dict[str, NDArray[Any]]:
        """The arrays of labels, complete after the last block."""
        out: dict[str, NDArray[Any]] = {}
        for name, places in self._labels.items():
            out |= datasets_of_labels(name, places)
        return out


def _measured(
    blocks: Source, vectors: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """What the arrays will be, and those of labels as they are.

    The first are empty shells: of the right dtype and shape, without memory.
    """
    arrays, shells, lengths = _Arrays(), dict[str, NDArray[Any]](), dict[str, int]()
    _, every = first_and_all(blocks(False))
    for block in every:
        for name in arrays.names(block):
            piece = arrays.piece(name, block)
            shells.setdefault(name, piece[:0])
            lengths[name] = lengths.get(name, 0) + len(piece)
    if vectors:
        first, _ = first_and_all(blocks(True))
        shells["vectors"], lengths["vectors"] = (
            _Arrays().piece("vectors", first)[:0],
            lengths["ids"],
        )
    for name, shell in shells.items():
        none = np.zeros((), shell.dtype.newbyteorder("<"))
        shells[name] = np.broadcast_to(none, (lengths[name], *shell.shape[1:]))
    return shells, arrays.labels()


def _bytes(piece: NDArray[Any], dtype: np.dtype[Any]) -> bytes | memoryview:
    return np.ascontiguousarray(piece, dtype).data.cast("B") if piece.size else b""


def _changed(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"the blocks came again with more or less {name} than at first; each call must give the "
        "same blocks."
    )


def write_hdf5(blocks: Source, path: Path, vectors: bool) -> int:
    """Write a new HDF5 file with contiguous datasets; see `export.export_rows`."""
    shells, labels = _measured(blocks, vectors)
    layout = Layout()
    places = lay_out(layout, {**shells, **labels})
    with open(path, "xb") as file:

        def put(data: bytes | memoryview, offset: int) -> int:
            file.seek(offset)
            file.write(data)
            return offset + len(data)

        for offset, data in layout.blocks:
            put(data, offset)
        for name, array in labels.items():
            put(_bytes(array, array.dtype.newbyteorder("<")), places[name].offset)
        arrays, ends = _Arrays(), {name: places[name].offset for name in shells}
        for block in blocks(vectors):
            for name, shell in shells.items():
                ends[name] = put(_bytes(arrays.piece(name, block), shell.dtype), ends[name])
        for name, shell in shells.items():
            if ends[name] != places[name].offset + shell.nbytes:
                raise _changed(name)
        file.truncate(layout.size)
    return len(shells["ids"])


def write_npz(blocks: Source, path: Path, vectors: bool) -> int:
    """Write a new npz file; see `export.export_rows`.

    A zip file has its members one after another, so each array takes a pass over the blocks.
    """
    shells, labels = _measured(blocks, vectors)
    with zipfile.ZipFile(path, "x") as file:
        for name, shell in shells.items():
            pieces = map(partial(_Arrays().piece, name), blocks(name == "vectors"))
            _write_member(file, name, shell, pieces)
        for name, array in labels.items():
            _write_member(file, name, array, [array])
    return len(shells["ids"])


def _write_member(
    file: zipfile.ZipFile, name: str, shell: NDArray[Any], pieces: Iterable[NDArray[Any]]
) -> None:
    """Write an array of the dtype and shape of ``shell``, piece by piece."""
    dtype, left = shell.dtype.newbyteorder("<"), shell.nbytes
    header: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": shell.shape}
    # A ZipInfo of its own has no time in it.
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for piece in pieces:
            data = _bytes(piece, dtype)
            member.write(data)
            left -= len(data)
    if left:
        raise _changed(name)
