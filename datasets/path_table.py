"""`PathTable`: many paths in little memory, and their order; `SortedNames`: those of one folder."""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, merge
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Tag = TypeVar("Tag")

# Of every such row the place of its name is known; those between are found from there.
_STEP = 64
_AT_ONCE, _BLOCK = 1 << 16, 1 << 10
_END = b"\0"  # of a name, which cannot contain it


class PathTable(Generic[Tag]):
    """Paths, of which each name is in memory, and a folder once for names that follow each other.

    Rows that follow each other, are in one folder and have one tag are a run, as long as their
    names ascend. Their paths are sorted then.
    """

    def __init__(self) -> None:
        self._names, self._marks = bytearray(), array("q")
        self._count = 0
        self._last = b""
        # Of each run.
        self._starts, self._folders = array("q"), list[bytes]()
        self._tags: list[Tag] = []

    def __len__(self) -> int:
        return self._count

    def append(self, folder: bytes, name: bytes, tag: Tag) -> None:
        """Add a path, with something that is said of it."""
        is_next = self._folders and self._folders[-1] == folder and self._last < name
        is_as_before = self._tags and self._tags[-1] == tag
        if not (is_next and is_as_before):
            self._starts.append(self._count)
            self._folders.append(folder)
            self._tags.append(self._tags[-1] if is_as_before else tag)
        if self._count % _STEP == 0:
            self._marks.append(len(self._names))
        self._names += name
        self._names += _END
        self._last = name
        self._count += 1

    def path(self, row: int) -> bytes:
        """The path in a row."""
        return with_slash(self._folders[self.run(row)]) + next(self._names_of(row, row + 1))

    def paths(self, start: int, stop: int) -> Iterator[bytes]:
        """The paths in rows of one run."""
        if start < stop:
            folder = with_slash(self._folders[self.run(start)])
            for name in self._names_of(start, stop):
                yield folder + name

    def run(self, row: int) -> int:
        """The number of the run of a row."""
        return bisect_right(self._starts, row) - 1

    def tag(self, row: int) -> Tag:
        """What is said of the path in a row."""
        return self._tags[self.run(row)]

    def numbers(self, values: Iterable[int]) -> NDArray[np.int64]:
        """For each row one of the numbers that are given for the runs; shape (n,), int64."""
        bounds = np.array([*self._starts, self._count], np.int64)
        lengths = bounds[1:] - bounds[:-1]
        return np.repeat(np.fromiter(values, np.int64, len(lengths)), lengths)

    @property
    def tags(self) -> list[Tag]:
        """Those of the runs."""
        return self._tags

    def in_order(self, dropped: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The rows as parts of runs in the order of their paths.

        Parameters
        ----------
        dropped : ndarray, shape (k,), int64, optional
            Rows that are left out, sorted.

        Returns
        -------
        ndarray, shape (n, 2), int64
            The first row of each part, and the one behind its last.
        """
        parts = array("q")
        stops = [*self._starts[1:], self._count][: len(self._starts)]
        # What is not yet begun, the first one last; and what is begun and goes on later.
        coming = sorted(range(len(stops)), key=lambda run: self.path(self._starts[run]))[::-1]
        begun: list[tuple[bytes, int, int]] = []
        while coming or begun:
            first = self.path(self._starts[coming[-1]]) if coming else b""
            if begun and (not coming or begun[0][0] <= first):
                _, start, stop = heappop(begun)
            else:
                run = coming.pop()
                start, stop = self._starts[run], stops[run]
                first = self.path(self._starts[coming[-1]]) if coming else b""
            limits = [first] * bool(coming) + [part[0] for part in begun[:1]]
            end = stop
            if limits and self.path(stop - 1) >= (limit := min(limits)):
                end = max(bisect_left(range(stop), limit, start, key=self.path), start + 1)
            parts.extend((start, end))
            if end < stop:
                heappush(begun, (self.path(end), end, stop))
        whole = np.array(parts, np.int64).reshape(-1, 2)
        return whole if dropped is None or not len(dropped) else _without(whole, dropped)

    def _names_of(self, start: int, stop: int) -> Iterator[bytes]:
        for group in range(start // _STEP, -(-stop // _STEP)):
            end = self._marks[group + 1] if group + 1 < len(self._marks) else len(self._names)
            names = bytes(self._names[self._marks[group] : end - 1]).split(_END)
            first = group * _STEP
            yield from names[max(start - first, 0) : stop - first]


def _without(parts: NDArray[np.int64], dropped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Parts of rows, without some of the rows."""
    out = array("q")
    for start, stop in parts.tolist():
        low, high = np.searchsorted(dropped, (start, stop))
        for row in dropped[low:high].tolist():
            out.extend((start, row))
            start = row + 1
        out.extend((start, stop))
    left = np.array(out, np.int64).reshape(-1, 2)
    return left[left[:, 0] < left[:, 1]]


class SortedNames:
    """Names of the entries of a folder, sorted; those of a large folder are compressed meanwhile.

    Parameters
    ----------
    folder : bytes
        The folder.
    sought : bytes
        A name that is looked for.

    Attributes
    ----------
    has_sought : bool
        Whether the folder has an entry of that name.

    Raises
    ------
    OSError
        If it cannot be read.
    """

    def __init__(self, folder: bytes, sought: bytes) -> None:
        self.has_sought = False
        self._parts: list[list[bytes]] = []
        self._last: list[bytes] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                self.has_sought |= entry.name == sought
                self._last.append(entry.name)
                if len(self._last) == _AT_ONCE:
                    self._parts.append(_packed(sorted(self._last)))
                    self._last = []
        self._last.sort()

    def __iter__(self) -> Iterator[bytes]:
        return merge(*map(_unpacked, self._parts), self._last) if self._parts else iter(self._last)


def _packed(names: list[bytes]) -> list[bytes]:
    return [
        zlib.compress(_END.join(names[start : start + _BLOCK]), 1)
        for start in range(0, len(names), _BLOCK)
    ]


def _unpacked(blocks: list[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield from zlib.decompress(block).split(_END)


def with_slash(folder: bytes) -> bytes:
    """A folder with a slash at its end, as paths in it begin."""
    return folder if folder.endswith(b"/") else folder + b"/"
