"""HDF5 files as the store writes them: contiguous datasets whose offsets are known beforehand.

HDF5 lays out a file in memory, and plain system calls then write the data. A full disk is thus an
ordinary error, and the HDF5 library never holds a half-written file open.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hyperpq.store.manifest import Extent, FileEntry
from hyperpq.utils.files import open_regular, os_errors, read_checked, write_synced

_ALIGNMENT = 64  # a cache line, and a multiple of every item size
# A map holds a file descriptor for as long as it lives, and a process has about a thousand. A store
# that grew by many small appends has small files: they are read, and checked, instead.
_MIN_MAPPED_BYTES = 1 << 18


class Layout(io.RawIOBase):
    """A file in memory that holds only what was written to it, however long it claims to be.

    Attributes
    ----------
    blocks : list of (int, bytes)
        Offset and content of each write.
    size : int
        Length of the file in bytes.
    """

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bytes]] = []
        self.size = 0
        self._position = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:  # noqa: D102
        return self._position

    def write(self, data: bytes) -> int:  # type: ignore[override]  # noqa: D102
        self.blocks.append((self._position, bytes(data)))
        self._position += len(data)
        self.size = max(self.size, self._position)
        return len(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # noqa: D102
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._position))
        start = self._position
        view[:count] = bytes(count)
        for offset, data in self.blocks:
            low, high = max(offset, start), min(offset + len(data), start + count)
            if low < high:
                view[low - start : high - start] = data[low - offset : high - offset]
        self._position += count
        return count

    def truncate(self, size: int | None = None) -> int:  # noqa: D102
        self.size = self._position if size is None else size
        return self.size


def write_columns(
    path: Path, columns: Mapping[str, np.ndarray], *, sync: bool = True
) -> tuple[FileEntry, dict[str, Extent]]:
    """Write an HDF5 file with one contiguous dataset per column, and fsync it.

    Equal columns give bit-identical files: no times, a fixed format version, little-endian.

    Parameters
    ----------
    path : Path
        The file, usually a temporary name.
    columns : mapping of str to ndarray
        Dataset name, such as ``attributes/width``, to its content.
    sync : bool
        See `utils.files.write_synced`.

    Returns
    -------
    FileEntry, dict of str to Extent
        Length and checksums of the file, and where each dataset lies in it.

    Raises
    ------
    StoreError
        If the system refuses to write.
    """
    layout = Layout()
    extents = lay_out(layout, columns)
    blocks: list[tuple[int, bytes | np.ndarray]] = list(layout.blocks)
    for name, values in columns.items():
        little = values.dtype.newbyteorder("<")
        blocks.append((extents[name].offset, values.astype(little, copy=False)))
    digests = write_synced(path, blocks, layout.size, sync=sync)
    return FileEntry(layout.size, digests), extents


def lay_out(layout: Layout, columns: Mapping[str, np.ndarray]) -> dict[str, Extent]:
    """Let HDF5 write its headers and allocate the datasets, without data.

    Parameters
    ----------
    layout : Layout
        Gets the headers.
    columns : mapping of str to ndarray
        Dataset name to an array of its dtype and shape.

    Returns
    -------
    dict of str to Extent
        Where each dataset lies.
    """
    from h5py import h5d, h5f, h5fd, h5g, h5p, h5s, h5t

    def without_times(kind: int) -> Any:
        creation = h5p.create(kind)
        creation.set_obj_track_times(False)
        return creation

    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    access.set_alignment(1, _ALIGNMENT)
    access.set_fileobj_driver(h5fd.fileobj_driver, layout)
    creation = without_times(h5p.DATASET_CREATE)
    creation.set_layout(h5d.CONTIGUOUS)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    file = h5f.create(b"layout", h5f.ACC_TRUNC, without_times(h5p.FILE_CREATE), access)
    extents = {}
    for group in sorted({name.rpartition("/")[0] for name in columns} - {""}):
        h5g.create(file, group.encode(), gcpl=without_times(h5p.GROUP_CREATE))
    for name in sorted(columns):
        values = columns[name]
        dtype = h5t.py_create(values.dtype.newbyteorder("<"))
        space = h5s.create_simple(values.shape)
        dataset = h5d.create(file, name.encode(), dtype, space, creation)
        extents[name] = Extent(values.dtype.name, values.shape, dataset.get_offset() or 0)
        dataset.close()
    file.close()
    return extents


def map_file(path: Path, entry: FileEntry) -> NDArray[np.uint8]:
    """Bytes of a file: mapped, or read and checked if the file is below 256 KiB.

    Raises
    ------
    CorruptIndexError
        The file is missing, has another length, or is small and altered.
    StoreError
        The system refuses to read it.
    """
    if entry.size < _MIN_MAPPED_BYTES:
        return np.frombuffer(read_checked(path, entry.size, entry.checksums), np.uint8)
    with (
        open_regular(path, entry.size) as handle,
        os_errors("read", path),
        open(handle, "rb", closefd=False) as file,
    ):
        return np.memmap(file, np.uint8, "r", shape=(entry.size,))


def view_column(data: NDArray[np.uint8], extent: Extent) -> NDArray[Any]:
    """The dataset at an extent of a file's bytes, as an array of its dtype and shape."""
    if not extent.nbytes:
        return np.empty(extent.shape, extent.dtype)
    column = data[extent.offset : extent.end]
    return column.view(np.dtype(extent.dtype).newbyteorder("<")).reshape(extent.shape)


def structure_problem(file: Path | BinaryIO, columns: Mapping[str, Extent]) -> str | None:
    """What differs between an HDF5 file and the columns that it should have.

    Parameters
    ----------
    file : Path or binary file
        A file whose checksum is right: HDF5 parses no other.
    columns : mapping of str to Extent
        What the manifest says.

    Returns
    -------
    str or None
        One sentence without its full stop, for `verify`; None if nothing differs.
    """
    import h5py

    try:
        # HDF5's own locks fail on some network file systems; other objects take none.
        options = {"locking": False} if isinstance(file, Path) else {}
        with h5py.File(file, "r", **options) as opened:
            found: dict[str, Extent] = {}
            opened.visititems(lambda name, item: _note_dataset(found, name, item))
    # What h5py raises depends on where in the file the damage is, and is not documented.
    except Exception as error:
        return f"the file is no readable HDF5 file: {error}"
    if found == dict(columns):
        return None
    for name in sorted(set(found) | set(columns)):
        if found.get(name) != columns.get(name):
            return f"dataset /{name} is {found.get(name)}; the manifest says {columns.get(name)}"
    return None


def _note_dataset(found: dict[str, Extent], name: str, item: object) -> None:
    import h5py
    from h5py import h5d

    if not isinstance(item, h5py.Dataset):
        return
    offset = item.id.get_offset()
    if item.id.get_create_plist().get_layout() != h5d.CONTIGUOUS or item.external:
        offset = -1
    # A big-endian dataset is no column of the store: its name keeps the byte order.
    dtype = item.dtype
    little = dtype == dtype.newbyteorder("<")
    found[name] = Extent(dtype.name if little else dtype.str, item.shape, offset or 0)
