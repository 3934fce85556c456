"""`plan.bin`: the images of a build, which are read one by one and are never in memory together."""

from __future__ import annotations

import os
import secrets
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.listing import ImageFile, Listing
from hyperpq.utils.files import fsync_folder, os_errors, remove_quietly, write_synced

_BLOCK, _AT_ONCE = 1 << 20, 1 << 14
# Of every such record the place is known; those between are read with it.
_STEP = 64


@dataclass(frozen=True)
class Plan:
    """What a build was begun with.

    Attributes
    ----------
    files : sequence of ImageFile
        The images, in their order.
    skipped : dict of bytes to str
        Path and reason of each file that could not be used.
    other : Counter of str
        See `Listing`.
    """

    files: Sequence[ImageFile]
    skipped: dict[bytes, str]
    other: Counter[str]


class PlannedFiles(Sequence[ImageFile]):
    """The images in a plan, which stay in the file.

    Parameters
    ----------
    path : Path
        The plan. It stays open, also if it is removed.
    marks : ndarray, shape (g + 1,), int64
        Where each 64th record of an image begins, and where the last record of an image ends.
    count : int
        Number of images.
    """

    def __init__(self, path: Path, marks: NDArray[np.int64], count: int) -> None:
        self._marks, self._count = marks, count
        # The records that were read last, as the next image is mostly among them.
        self._read: tuple[int, list[bytes]] = (-1, [])
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._handle)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> ImageFile: ...
    @overload
    def __getitem__(self, row: slice) -> list[ImageFile]: ...
    def __getitem__(self, row: int | slice) -> ImageFile | list[ImageFile]:
        if isinstance(row, slice):
            return [self[number] for number in range(len(self))[row]]
        number = range(len(self))[row]
        group, records = self._read
        if group != number // _STEP:
            group = number // _STEP
            start, stop = self._marks[group : group + 2].tolist()
            records = os.pread(self._handle, stop - start, start).split(b"\0")
            self._read = group, records
        _, size, mtime, path = records[number % _STEP].split(b" ", 3)
        return ImageFile(path, int(size), int(mtime))


def write_plan(path: Path, files: Iterable[ImageFile], found: Listing) -> None:
    """Write a plan as records that end with NUL, the only byte that a path cannot contain.

    Parameters
    ----------
    path : Path
        Where to write it; a file with that name is replaced.
    files : iterable of ImageFile
        The images; those of ``found`` do not count.
    found : Listing
        What else was found, once all images have been gone through.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # The file grows as it is written.
        write_synced(aside, _blocks(_records(files, found)), 0)
        with os_errors("write", path):
            os.replace(aside, path)
    except BaseException:
        remove_quietly(aside)
        raise
    fsync_folder(path.parent)


def _records(files: Iterable[ImageFile], found: Listing) -> Iterator[bytes]:
    for file in files:
        yield b"f %d %d %s\0" % (file.size, file.mtime_ns, file.path)
    for name in found.skipped:
        yield b"s %s\0" % name
    for reason in found.skipped.values():
        yield b"r %s\0" % reason.encode()
    for ending, count in sorted(found.other.items()):
        yield b"o %d %s\0" % (count, ending.encode())


def _blocks(records: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Records joined to blocks, with their places in the file."""
    offset = 0
    while block := b"".join(islice(records, _AT_ONCE)):
        yield offset, block
        offset += len(block)


def read_plan(path: Path) -> Plan:
    """The plan in a file: all that a build, which removes nothing, needs of a listing."""
    with os_errors("read", path), open(path, "rb") as data:
        marks, size = _marks(path)

        def is_no_image(mark: int) -> bool:
            data.seek(int(marks[mark]))
            return data.read(1) != b"f"

        # The records of images are the first ones, and the last of them is behind this mark.
        group = max(bisect_left(range(len(marks)), True, key=is_no_image) - 1, 0)
        count, end = group * _STEP, int(marks[group])
        data.seek(end)
        rest = data.read(size - end)
    for record in rest.split(b"\0", _STEP)[:_STEP]:
        if record[:1] == b"f":
            count, end = count + 1, end + len(record) + 1
    rest = rest[end - int(marks[group]) :]
    skipped, reasons, other = [], [], Counter[str]()
    for record in rest.split(b"\0")[:-1]:
        kind, said = record[:2], record[2:]
        if kind == b"s ":
            skipped.append(said)
        elif kind == b"r ":
            reasons.append(said.decode())
        else:
            number, ending = said.split(b" ", 1)
            other[ending.decode()] = int(number)
    n_groups = -(-count // _STEP)
    files = PlannedFiles(path, np.append(marks[:n_groups], end), count)
    return Plan(files, dict(zip(skipped, reasons, strict=True)), other)


def _marks(path: Path) -> tuple[NDArray[np.int64], int]:
    """Where each 64th record begins (also if there is none), and the size of the plan."""
    parts, offset, count = [np.zeros(1, np.int64)], 0, 0
    with open(path, "rb") as data:
        while block := data.read(_BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 0)
            # What ends here is record number `count` and those after it.
            parts.append(ends[(-count - 1) % _STEP :: _STEP] + (offset + 1))
            count += len(ends)
            offset += len(block)
    return np.concatenate(parts), offset
