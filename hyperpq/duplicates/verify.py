"""`Verifier`: compares pairs of images, in threads, with a bounded number of them in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.compare import Comparison, compare
from hyperpq.duplicates.evidence import Evidence
from hyperpq.duplicates.examine import Examined, read_evidence
from hyperpq.duplicates.work_file import WorkFile, pair_key
from hyperpq.progress import Progress

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

# Pairs between two commits to the work file.
_BATCH = 128
# Bytes of evidence that is kept for the next pairs: about 2,500 images.
_KEPT = 1 << 28


class Verifier:
    """Compares images of an index.

    Parameters
    ----------
    view : IndexView
        The index.
    images : Examined
        Its images.
    work : WorkFile
        What was compared before, and where the rest is kept.
    pool : Executor
        Its threads read and compare.
    max_megapixels : float
        Larger images are not read.
    """

    def __init__(
        self,
        view: IndexView,
        images: Examined,
        work: WorkFile,
        pool: Executor,
        max_megapixels: float,
    ) -> None:
        self.view, self.images, self.work, self._pool = view, images, work, pool
        self._limit = max_megapixels
        self._kept: OrderedDict[int, Evidence | None] = OrderedDict()
        self._bytes = 0

    def compare(self, pairs: NDArray[np.int64], progress: Progress) -> list[Comparison]:
        """Compare pairs of rows (m, 2), each with the lower row first."""
        return [one for _, one in self.stream(pairs, progress)]

    def stream(
        self, pairs: NDArray[np.int64], progress: Progress
    ) -> Iterator[tuple[tuple[int, int], Comparison]]:
        """`compare`, one pair after the other."""
        with progress.phase("compare", len(pairs), "pairs") as phase:
            for start in range(0, len(pairs), _BATCH):
                some = [(a, b) for a, b in pairs[start : start + _BATCH].tolist()]
                yield from zip(some, self._batch(some), strict=True)
                phase.advance(len(some))

    def evidence(self, rows: Sequence[int]) -> dict[int, Evidence | None]:
        """The evidence of some images; None where an image cannot be read any more."""
        new = [row for row in dict.fromkeys(rows) if row not in self._kept]
        paths = self.view.paths_of(self.images.ids[new])
        read = self._pool.map(lambda path: read_evidence(path, self._limit), paths)
        for row, evidence in zip(new, read, strict=True):
            self._kept[row] = evidence
            self._bytes += 0 if evidence is None else evidence.nbytes
        for row in rows:
            self._kept.move_to_end(row)
        found = {row: self._kept[row] for row in rows}
        while self._bytes > _KEPT:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= 0 if dropped is None else dropped.nbytes
        return found

    def _batch(self, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        keys = [pair_key(self.images.key(a), self.images.key(b)) for a, b in pairs]
        known = self.work.pairs(keys)
        new = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        evidence = self.evidence(sorted({row for pair in new.values() for row in pair}))

        def both(pair: tuple[int, int]) -> list[Evidence | None]:
            return [evidence[row] for row in pair]

        def compared(pair: tuple[int, int]) -> Comparison:
            a, b = both(pair)
            return Comparison() if a is None or b is None else compare(a, b)

        found = dict(zip(new, self._pool.map(compared, new.values()), strict=True))
        # A file that cannot be read now may be readable another time.
        self.work.add_pairs(
            {key: c for key, c in found.items() if all(e is not None for e in both(new[key]))}
        )
        known |= found
        return [known[key] for key in keys]
