"""What an `ImageIndex` returns: answers with their results, codes, and the report of an update."""

from __future__ import annotations

import os
from collections.abc import Mapping
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


@dataclass(frozen=True)
class Hits:
    """What a search returned, D (n, k) and I (n, k), and the paths of the ids."""

    D: NDArray[np.float32]
    I: NDArray[np.int64]  # noqa: E741
    paths: Mapping[int, bytes]

    def results(self, row: int, k: int, exclude: bytes = b"") -> list[Result]:
        """The first k results of a query, but for those of the path ``exclude``, if it is given."""
        own = os.path.abspath(exclude) if exclude else None
        found = [
            (float(distance), int(id))
            for distance, id in zip(self.D[row], self.I[row], strict=True)
            if id >= 0 and self.paths[int(id)] != own
        ]
        return [
            Result(rank, distance, id, self.paths[id])
            for rank, (distance, id) in enumerate(found[:k], 1)
        ]


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
