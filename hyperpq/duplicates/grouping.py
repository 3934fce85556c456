"""`Grouping`: from comparisons of pairs to groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.calibration import Calibration, Level
from hyperpq.duplicates.compare import Comparison
from hyperpq.duplicates.examine import Examined
from hyperpq.duplicates.groups import Group, Member, group, is_below, preference
from hyperpq.duplicates.settings import Settings
from hyperpq.duplicates.taken import are_other_times
from hyperpq.duplicates.verify import Verifier
from hyperpq.progress import Progress

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView


class Grouping:
    """Groups of one run.

    Parameters
    ----------
    verifier : Verifier
        What compares images.
    settings : Settings
        What is kept.
    calibration : Calibration
        The thresholds.
    progress : Progress
        Where to report.
    """

    def __init__(
        self,
        verifier: Verifier,
        settings: Settings,
        calibration: Calibration,
        progress: Progress,
    ) -> None:
        self._verifier, self._settings = verifier, settings
        self._calibration, self._progress = calibration, progress
        self._members: dict[int, Member] = {}
        self._found: dict[tuple[int, int], Comparison] = {}

    def groups(self, found: Iterable[tuple[tuple[int, int], Comparison]]) -> list[Group]:
        """Groups of the same image, and of similar shots among the images that these leave."""
        # Most candidates are nothing to each other whatever their files say.
        likely = {
            pair: one
            for pair, one in found
            if self._calibration.level(one) or self._has_equal_hash(pair)
        }
        self._found = likely
        self._read_members({row for pair in likely for row in pair})
        levels = {pair: self._level(pair) for pair in likely}
        same = {pair: likely[pair] for pair, level in levels.items() if level == "same image"}
        similar = {pair: likely[pair] for pair, level in levels.items() if level is not None}
        out = [self._group("same image", rows) for rows in self._divided(same, complete=True)]
        gone = {member.id for one in out for member in one.members[1:]}
        left = {
            (a, b): one
            for (a, b), one in similar.items()
            if not {self._members[a].id, self._members[b].id} & gone
        }
        shots = self._divided(left, complete=False)
        return out + [self._group("similar shot", rows) for rows in shots]

    def _divided(
        self, edges: dict[tuple[int, int], Comparison], *, complete: bool
    ) -> list[list[int]]:
        keep = self._settings.keep
        rows = sorted(
            {row for pair in edges for row in pair},
            key=lambda row: preference(self._members[row], keep),
        )
        return group(rows, edges, self._complete if complete else None)

    def _complete(self, row: int, others: Sequence[int]) -> dict[int, Comparison]:
        """Which of some images are the same as one that they were not compared with."""
        pairs = np.sort(np.array([(row, other) for other in others], np.int64), axis=1)
        if self._settings.ignore_within_folder:
            pairs = pairs[in_two_folders(self._verifier.view, self._verifier.images, pairs)]
        new = np.array([p for p in pairs.tolist() if tuple(p) not in self._found], np.int64)
        new = new.reshape(-1, 2)
        compared = self._verifier.compare(new, self._progress) if len(new) else []
        out = {}
        for (a, b), one in zip(new.tolist(), compared, strict=True):
            self._found[a, b] = one
            if self._level((a, b)) == "same image":
                out[b if a == row else a] = one
        return out

    def _has_equal_hash(self, pair: tuple[int, int]) -> bool:
        hashes = self._verifier.images.hashes
        return bool((hashes[pair[0]] == hashes[pair[1]]).all())

    def _identical(self, a: int, b: int) -> bool:
        one, other = self._members[a].facts, self._members[b].facts
        return (one.content, one.size) == (other.content, other.size) and one.content != 0

    def _level(self, pair: tuple[int, int]) -> Level | None:
        a, b = (self._members[row].facts.taken for row in pair)
        return self._calibration.level(
            self._found[pair],
            identical=self._identical(*pair),
            other_time=are_other_times(a, b),
        )

    def _read_members(self, rows: set[int]) -> None:
        """What is known of some images, by their rows."""
        folders = self._settings.reference_folders
        wanted = sorted(rows)
        keys = [self._verifier.images.key(row) for row in wanted]
        facts = self._verifier.work.images(keys)
        ids = self._verifier.images.ids[wanted]
        for row, key, id, path in zip(
            wanted, keys, ids.tolist(), self._verifier.view.paths_of(ids), strict=True
        ):
            reference = is_below(os.path.abspath(path), folders)
            self._members[row] = Member(id, path, facts[key], reference)

    def _group(self, level: Level, rows: Sequence[int]) -> Group:
        first = rows[0]
        others = [
            replace(
                self._members[row],
                comparison=self._found[min(first, row), max(first, row)],
                identical=self._identical(first, row),
            )
            for row in rows[1:]
        ]
        return Group(level, [self._members[first], *others])


def in_two_folders(
    view: IndexView, images: Examined, pairs: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which pairs (m, 2) lie in two folders."""
    rows = np.unique(pairs)
    paths = view.paths_of(images.ids[rows])
    folders = {row: os.path.dirname(p) for row, p in zip(rows.tolist(), paths, strict=True)}
    return np.array([folders[a] != folders[b] for a, b in pairs.tolist()], bool)
