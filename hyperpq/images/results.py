"""What an `ImageIndex` returns: answers with their results, codes, and the report of an update."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Result:
    """One image that a query found.

    Attributes
    ----------
    rank : int
        Counted from 1.
    distance : float
        Distance of the index metric; smaller is nearer.
    id : int
        Id of the image in the index.
    path : bytes
        Path of the image, in the encoding of the file system.
    """

    rank: int
    distance: float
    id: int
    path: bytes


@dataclass(frozen=True)
class Answer:
    """The answer to a query: its results, or the reason why the query image cannot be read.

    Attributes
    ----------
    query : bytes
        Path of the query image; empty for an image that does not come from a file.
    results : list of Result
        The images that were found, nearest first.
    error : str, optional
        Why the image cannot be read.
    """

    query: bytes
    results: list[Result] = field(default_factory=list)
    error: str | None = None


class SameFile:
    """Whether paths of an index name the file of a query, whatever links lead to it.

    Two paths name one file if they are equal without links, or if both exist and have the same
    device and inode, as those of a hard link and of a folder that is mounted twice have.
    """

    def __init__(self) -> None:
        self._identities: dict[bytes, tuple[int, int] | None] = {}

    def names(self, query: bytes) -> Callable[[bytes], bool]:
        """A function that says whether a path names the file ``query``, if that is not empty."""
        if not query:
            return lambda path: False
        own, identity = {os.path.abspath(query), os.path.realpath(query)}, self._identity(query)
        return lambda path: (
            path in own or (identity is not None and self._identity(path) == identity)
        )

    def _identity(self, path: bytes) -> tuple[int, int] | None:
        if path not in self._identities:
            try:
                status = os.stat(path)
                self._identities[path] = (status.st_dev, status.st_ino)
            except OSError:
                self._identities[path] = None
        return self._identities[path]


@dataclass(frozen=True)
class Hits:
    """What a search returned, D (n, k) and I (n, k), and the paths of the ids."""

    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    paths: Mapping[int, bytes]

    def results(
        self, row: int, k: int, is_excluded: Callable[[bytes], bool] | None = None
    ) -> list[Result]:
        """The first k results of a query, but for those whose paths are excluded."""
        results: list[Result] = []
        for distance, id in zip(self.D[row].tolist(), self.I[row].tolist(), strict=True):
            if len(results) == k or id < 0:
                break
            path = self.paths[id]
            if is_excluded is None or not is_excluded(path):
                results.append(Result(len(results) + 1, distance, id, path))
        return results

    def is_short(self, row: int, results: Sequence[Result], k: int) -> bool:
        """Whether more results of a query than those of this search could be found."""
        return len(results) < k and bool((self.I[row] >= 0).all())


@dataclass(frozen=True)
class Encoded:
    """Codes (n, code_size) uint8 with their paths, and the reasons why other images have none."""

    codes: NDArray[np.uint8]
    paths: list[bytes]
    skipped: dict[bytes, str]


@dataclass
class UpdateReport:
    """What an update changed.

    Attributes
    ----------
    added, removed, unchanged : int
        Numbers of images; a changed image counts as removed and added.
    kept : int
        Number of images that the index keeps as they were, although they could not be examined or
        not be read.
    skipped : dict of bytes to str
        Path and reason of each file that could not be used.
    """

    added: int = 0
    removed: int = 0
    unchanged: int = 0
    kept: int = 0
    skipped: dict[bytes, str] = field(default_factory=dict)
