"""`FileTable`: the files of a listing, each once, sorted by path, with few bytes for each."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.listing import ImageFile
from hyperpq.datasets.path_table import PathTable

_FIRST, _LAST = -(2**63), 2**63 - 1


class FileTable(Sequence[ImageFile]):
    """Files, in the order of their paths once `finish` has been called.

    A file takes 16 bytes and its name, and 16 more until `finish` has ended.
    """

    def __init__(self) -> None:
        # Root and device are those of a run of paths.
        self._paths: PathTable[tuple[bytes, int]] = PathTable()
        self._sizes, self._times = array("q"), array("q")
        # Times before 1677 and after 2262, in nanoseconds.
        self._far: dict[int, int] = {}
        self._inodes = array("Q")
        self._parts: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._ends: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def n_found(self) -> int:
        """Number of names that have been added, of which some may be those of one file."""
        return len(self._paths)

    def append(self, root: bytes, folder: bytes, name: bytes, status: os.stat_result) -> None:
        """Add a file that was found in a folder, below a root."""
        self._paths.append(folder, name, (root, status.st_dev))
        self._add(status.st_size, status.st_mtime_ns, status.st_ino)

    def append_file(self, root: bytes, file: ImageFile, device: int, inode: int) -> None:
        """Add a file that no folder of the system has, by numbers that no other file has."""
        # A part of a URL may be empty, so that its folder ends with a slash.
        name = file.path.rfind(b"/") + 1
        self._paths.append(file.path[:name], file.path[name:], (root, device))
        self._add(file.size, file.mtime_ns, inode)

    def _add(self, size: int, time: int, inode: int) -> None:
        if not _FIRST <= time <= _LAST:
            self._far[len(self._paths) - 1] = time
            time = 0
        self._sizes.append(size)
        self._times.append(time)
        self._inodes.append(inode)

    def finish(self) -> set[bytes]:
        """Keep the first name of each file, and sort them by path.

        Returns
        -------
        set of bytes
            Roots with a file that has a name which was added before.
        """
        repeated = self._repeated()
        roots = {self._paths.tag(row)[0] for row in _one_of_each_run(self._paths, repeated)}
        self._inodes = array("Q")
        self._parts = self._paths.in_order(repeated)
        self._ends = np.cumsum(self._parts[:, 1] - self._parts[:, 0])
        return roots

    def _repeated(self) -> NDArray[np.int64]:
        """Rows of files that have been added before, sorted."""
        inodes = np.frombuffer(self._inodes, np.uint64)
        ordered = np.sort(inodes)
        if not (ordered[1:] == ordered[:-1]).any():
            return np.empty(0, np.int64)
        del ordered
        numbers: dict[int, int] = {}
        devices = self._paths.numbers(
            numbers.setdefault(device, len(numbers)) for _, device in self._paths.tags
        )
        # Stable, so that the first row of a file remains the first.
        order = np.lexsort((inodes, devices))
        is_same = np.diff(inodes[order]) == 0
        is_same &= np.diff(devices[order]) == 0
        return np.sort(order[1:][is_same])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, number: int) -> ImageFile: ...
    @overload
    def __getitem__(self, number: slice) -> list[ImageFile]: ...
    def __getitem__(self, number: int | slice) -> ImageFile | list[ImageFile]:
        if isinstance(number, slice):
            return [self[at] for at in range(len(self))[number]]
        at = range(len(self))[number]
        part = int(np.searchsorted(self._ends, at, "right"))
        row = int(self._parts[part, 1] - self._ends[part]) + at
        return self._file(row, self._paths.path(row))

    def __iter__(self) -> Iterator[ImageFile]:
        return chain.from_iterable(map(self._files, *self._parts.T))

    def _files(self, start: np.int64, stop: np.int64) -> Iterator[ImageFile]:
        paths = self._paths.paths(int(start), int(stop))
        return map(self._file, range(start, stop), paths)

    def _file(self, row: int, path: bytes) -> ImageFile:
        time = self._far.get(row, self._times[row]) if self._far else self._times[row]
        return ImageFile(path, self._sizes[row], time)


def _one_of_each_run(paths: PathTable[tuple[bytes, int]], rows: NDArray[np.int64]) -> list[int]:
    """Of some rows, which are sorted, the first in each run."""
    if not len(rows):
        return []
    runs = paths.numbers(range(len(paths.tags)))[rows]
    firsts: list[int] = rows[np.diff(runs, prepend=-1) != 0].tolist()
    return firsts
