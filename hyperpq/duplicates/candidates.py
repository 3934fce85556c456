"""`Candidates`: which pairs of images are compared: near by their codes, or by their hashes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.duplicates.examine import Examined
from hyperpq.duplicates.hashes import bits_apart, nearest_hashes
from hyperpq.index.refine import Refine
from hyperpq.progress import Progress

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

HASH_RADIUS = 10
"""Bits of 64 by which hashes of candidates differ at most."""
_BATCH = 256


@dataclass(frozen=True)
class Candidates:
    """Finds candidates.

    Attributes
    ----------
    view : IndexView
        The index.
    images : Examined
        Its images.
    features_of : callable
        From ids to features (n, d).
    k : int
        Number of neighbours of each image, by codes and by hashes.
    where : str, optional
        Condition that neighbours fulfil.
    threads : int, optional
        Number of threads of the searches.
    """

    view: IndexView
    images: Examined
    features_of: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    k: int
    where: str | None = None
    threads: int | None = None

    def near(self, features: NDArray[np.float32], k: int | None = None) -> NDArray[np.int64]:
        """Rows (n, k) of the images nearest to features, by codes; -1 where there are fewer."""
        refine: Refine = "auto" if self.view.has_features else None
        k = min(self.k if k is None else k, max(self.view.ntotal, 1))
        _, ids = self.view.search(
            features, k, where=self.where, refine=refine, threads=self.threads
        )
        return self.images.rows_of(ids)

    def pairs(self, gate: float | None, progress: Progress) -> NDArray[np.int64]:
        """All candidates: pairs of rows (m, 2), ascending, each with the lower row first.

        Parameters
        ----------
        gate : float, optional
            Least cosine of the features of two images, unless their hashes are near.
        progress : Progress
            Where to report.
        """
        n = len(self.images)
        hashes = scan.prepare(self.images.hashes) if n else None
        found = [np.empty(0, np.int64)]
        with progress.phase("search", n) as phase:
            for start in range(0, n, _BATCH):
                rows = np.arange(start, min(start + _BATCH, n))
                # The image itself is among its neighbours.
                features = self.features_of(self.images.ids[rows])
                by_code = _joined(rows, self.near(features, self.k + 1), n)
                if gate is not None:
                    by_code = by_code[self._cosines(by_code) >= gate]
                found.append(by_code)
                for queries in (self.images.hashes[rows], self.images.mirrored_hashes[rows]):
                    assert hashes is not None
                    D, near = nearest_hashes(queries, hashes, self.k + 1, self.threads)
                    found.append(_joined(rows, np.where(HASH_RADIUS >= D, near, -1), n))
                phase.advance(len(rows))
        # What two images both found is compared once.
        numbers = np.unique(np.concatenate(found))
        return np.stack([numbers // max(n, 1), numbers % max(n, 1)], axis=1)

    def _cosines(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        n = len(self.images)
        a, b = (self.features_of(self.images.ids[r]) for r in (numbers // n, numbers % n))
        return cosines(a, b)


def is_near_by_hash(hash: NDArray[np.uint8], *others: NDArray[np.uint8]) -> bool:
    """Whether an image is a candidate by its hash (8,), given hashes of another and its mirror."""
    return bool(min(bits_apart(hash, other) for other in others) <= HASH_RADIUS)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (n,) of features (n, d) and others."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    out: NDArray[np.float32] = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return out


def _joined(rows: NDArray[np.int64], near: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Pairs of rows and their neighbours (len(rows), k) as numbers, low * n + high, distinct."""
    own = np.broadcast_to(rows[:, None], near.shape)
    used = (near >= 0) & (near != own)
    a, b = own[used], near[used]
    return np.unique(np.minimum(a, b) * n + np.maximum(a, b))
