"""Rows as named arrays in one npz or HDF5 file, with the names of the datasets of a shard."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.io.export_batches import BatchSource, ExportBatch, first_and_all
from hyperpq.store import Categories
from hyperpq.store.columns import GROUPS, datasets_of, datasets_of_labels, kind_of, recoded

# HDF5 never writes the file itself, as it ends the process when the disk is full.
from hyperpq.store.hdf5_layout import Layout, lay_out


class _Arrays:
    """Converts batches, one after another, to the values of named arrays."""

    def __init__(self) -> None:
        self._labels: dict[str, dict[str, int]] = {}
        self._path_end = -1  # -1 before the first batch

    def names(self, batch: ExportBatch) -> list[str]:
        """Names of the arrays that a batch has values of."""
        out = ["ids", "codes"]
        if batch.paths is not None:
            out += ["path_offsets", "path_bytes"]
        for name, column in batch.attributes.items():
            out.append(f"{GROUPS.get(kind_of(column), 'attributes')}/{name}")
        return [*out, *batch.wide]

    def values(self, name: str, batch: ExportBatch) -> NDArray[Any]:
        """The values of the array ``name`` in the next batch."""
        group, _, attribute = name.rpartition("/")
        if group:
            column = batch.attributes[attribute]
            if isinstance(column, Categories):
                return self._merged(attribute, column.used())
            return datasets_of({attribute: column})[name]
        if name == "path_bytes":
            return np.frombuffer(b"".join(batch.paths or ()), np.uint8)
        if name == "path_offsets":
            ends = np.cumsum([max(self._path_end, 0), *map(len, batch.paths or ())], dtype=np.int64)
            begun, self._path_end = self._path_end >= 0, int(ends[-1])
            return ends[1:] if begun else ends
        array: NDArray[Any] = getattr(batch, name)
        return array

    def _merged(self, name: str, column: Categories) -> NDArray[np.int32]:
        """Codes of a column in the labels of all batches so far."""
        return recoded(column, self._labels.setdefault(name, {}))

    def labels(self) -> dict[str, NDArray[Any]]:
        """The arrays of labels, complete after the last batch."""
        out: dict[str, NDArray[Any]] = {}
        for name, positions in self._labels.items():
            out |= datasets_of_labels(name, positions)
        return out


def _templates(
    batches: BatchSource, wide: bool
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Templates of the arrays, and the arrays of labels.

    A template has the dtype and the shape of its array, and takes no memory.
    """
    arrays, templates, lengths = _Arrays(), dict[str, NDArray[Any]](), dict[str, int]()
    _, every = first_and_all(batches(False))
    for batch in every:
        for name in arrays.names(batch):
            values = arrays.values(name, batch)
            templates.setdefault(name, values[:0])
            lengths[name] = lengths.get(name, 0) + len(values)
    if wide:
        first, _ = first_and_all(batches(True))
        for name, column in first.wide.items():
            templates[name], lengths[name] = column[:0], lengths["ids"]
    for name, template in templates.items():
        none = np.zeros((), template.dtype.newbyteorder("<"))
        templates[name] = np.broadcast_to(none, (lengths[name], *template.shape[1:]))
    return templates, arrays.labels()


def _bytes(values: NDArray[Any], dtype: np.dtype[Any]) -> bytes | memoryview:
    return np.ascontiguousarray(values, dtype).data.cast("B") if values.size else b""


def _changed(name: str) -> InvalidInputError:
    return InvalidInputError(
        f"the batches of a later call have more or fewer {name} than those of the first; expected "
        "the same batches at each call."
    )


def write_hdf5(batches: BatchSource, path: Path, wide: bool) -> int:
    """Write a new HDF5 file with contiguous datasets; see `export.export_rows`."""
    templates, labels = _templates(batches, wide)
    layout = Layout()
    placements = lay_out(layout, {**templates, **labels})
    with open(path, "xb") as file:

        def put(data: bytes | memoryview, offset: int) -> int:
            file.seek(offset)
            file.write(data)
            return offset + len(data)

        for offset, data in layout.blocks:
            put(data, offset)
        for name, array in labels.items():
            put(_bytes(array, array.dtype.newbyteorder("<")), placements[name].offset)
        arrays, ends = _Arrays(), {name: placements[name].offset for name in templates}
        for batch in batches(wide):
            for name, template in templates.items():
                ends[name] = put(_bytes(arrays.values(name, batch), template.dtype), ends[name])
        for name, template in templates.items():
            if ends[name] != placements[name].offset + template.nbytes:
                raise _changed(name)
        file.truncate(layout.size)
    return len(templates["ids"])


def write_npz(batches: BatchSource, path: Path, wide: bool) -> int:
    """Write a new npz file; see `export.export_rows`.

    The members of a zip file follow one another, so each array takes a pass over all batches.
    """
    templates, labels = _templates(batches, wide)
    with zipfile.ZipFile(path, "x") as file:
        for name, template in templates.items():
            parts = map(partial(_Arrays().values, name), batches(name in ("vectors", "features")))
            _write_member(file, name, template, parts)
        for name, array in labels.items():
            _write_member(file, name, array, [array])
    return len(templates["ids"])


def _write_member(
    file: zipfile.ZipFile, name: str, template: NDArray[Any], parts: Iterable[NDArray[Any]]
) -> None:
    """Write an array of the dtype and shape of ``template``, whose values come batch by batch."""
    dtype, left = template.dtype.newbyteorder("<"), template.nbytes
    header: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": template.shape}
    # A ZipInfo without a time, so that equal rows give equal files.
    with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for values in parts:
            data = _bytes(values, dtype)
            member.write(data)
            left -= len(data)
    if left:
        raise _changed(name)
