"""`Sampler`: makes copies of a sample, looks for them, and learns the thresholds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.augment import view_rng
from hyperpq.duplicates.calibration import (
    Calibration,
    Rate,
    gate_of,
    same_threshold,
    similar_threshold,
)
from hyperpq.duplicates.candidates import Candidates, cosines, is_near_by_hash
from hyperpq.duplicates.compare import Comparison, compare
from hyperpq.duplicates.copies import KINDS, make_copy, make_other_shot
from hyperpq.duplicates.evidence import Evidence
from hyperpq.duplicates.examine import Examined, read_small
from hyperpq.duplicates.hashes import mirrored_hash, perceptual_hash
from hyperpq.duplicates.verify import Verifier
from hyperpq.errors import ImageError
from hyperpq.progress import Phase, Progress

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from PIL import Image

FeaturesOf = Callable[[Sequence["Image.Image"]], NDArray[np.float32]]
"""From images to features (n, d)."""

# Images whose copies are in memory at once.
_BATCH = 8
# Shots that are made of each image: by a hand, and on a tripod.
_SHOTS = (False, True)
# Neighbours after the candidates that count as near images and no copies, and images that are
# compared with each image as images that show something else.
_NEAR, _OTHERS = 20, 20


@dataclass
class _Measured:
    """What was measured of the sample."""

    copies: dict[str, list[Comparison]] = field(default_factory=lambda: {k: [] for k in KINDS})
    are_candidates: dict[str, list[bool]] = field(default_factory=lambda: {k: [] for k in KINDS})
    cosines: list[float] = field(default_factory=list)
    shots: list[Comparison] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    """A copy of some kind, or another shot (None), and what is compared of it."""

    kind: str | None
    image: Image.Image
    evidence: Evidence
    near_by_hash: bool

    @classmethod
    def of(cls, kind: str | None, image: Image.Image, hash: NDArray[np.uint8]) -> _Made:
        near = is_near_by_hash(hash, perceptual_hash(image), mirrored_hash(image))
        return cls(kind, image, Evidence.of(image), near)


@dataclass(frozen=True)
class Sampler:
    """Makes copies and other shots of a sample of the images, and measures them.

    Attributes
    ----------
    images : Examined
        The images.
    candidates : Candidates
        What finds copies.
    verifier : Verifier
        What compares images.
    encode : callable
        The network.
    pool : Executor
        Its threads make copies.
    max_megapixels : float
        Larger images are not read.
    size : int
        Number of images of the sample.
    seed : int
        Seed of the sample and of the copies.
    """

    images: Examined
    candidates: Candidates
    verifier: Verifier
    encode: FeaturesOf
    pool: Executor
    max_megapixels: float
    size: int
    seed: int

    def rows(self) -> NDArray[np.int64]:
        """The sample: rows of the images whose content comes first in an order by chance."""
        # By the hashes, so that the sample does not depend on ids and paths.
        keys = [
            hashlib.blake2b(b"%d/" % self.seed + hash.tobytes(), digest_size=8).digest()
            for hash in self.images.hashes
        ]
        order = sorted(range(len(keys)), key=lambda row: (keys[row], row))
        return np.array(sorted(order[: self.size]), np.int64)

    def calibrate(self, progress: Progress) -> Calibration:
        """Learn the thresholds, and measure what they give."""
        rows, measured = self.rows(), _Measured()
        with progress.phase("calibrate", len(rows)) as phase:
            read = self._measure(rows.tolist(), measured, phase)
        others = self._others(read)
        every = [one for kind in KINDS for one in measured.copies[kind]]
        nothing = Rate(0, 0)
        calibration = Calibration(
            same_threshold(_agreements(every), _agreements(measured.shots)),
            similar_threshold(np.array([one.inliers for one in others], np.int64)),
            self._gate(measured.cosines),
            recall={},
            candidates={},
            shots_same=nothing,
            shots_similar=nothing,
            near_same=nothing,
            near_similar=nothing,
            sample=len(read),
        )
        return self._rated(calibration, measured, read, progress)

    def _gate(self, cosines: Sequence[float]) -> float | None:
        """See `Calibration.gate`."""
        if not cosines or not self.candidates.view.has_features:
            return None
        return gate_of(np.array(cosines, np.float32))

    def _measure(self, rows: Sequence[int], measured: _Measured, phase: Phase) -> list[int]:
        """Copies and shots of the sample; returns which of its images could be read."""
        read: list[int] = []
        view = self.candidates.view
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            paths = view.paths_of(self.images.ids[batch])
            made = list(self.pool.map(self._made, batch, paths))
            good = [(row, m) for row, m in zip(batch, made, strict=True) if m is not None]
            phase.advance(len(batch))
            if not good:
                continue
            each = len(KINDS) + len(_SHOTS)
            features = self.encode([one.image for _, (_, made) in good for one in made])
            own = self.candidates.features_of(self.images.ids[[row for row, _ in good]])
            near = self.candidates.near(features)
            likeness = cosines(features, np.repeat(own, each, axis=0)).tolist()
            for place, (row, (evidence, images)) in enumerate(good):
                read.append(row)
                for number, one in enumerate(images, place * each):
                    compared = compare(evidence, one.evidence)
                    found = bool((near[number] == row).any())
                    if found:
                        measured.cosines.append(likeness[number])
                    if one.kind is None:
                        measured.shots.append(compared)
                        continue
                    measured.are_candidates[one.kind].append(found or one.near_by_hash)
                    measured.copies[one.kind].append(compared)
        return read

    def _made(self, row: int, path: bytes) -> tuple[Evidence, list[_Made]] | None:
        """The evidence of an image, its copies and other shots; None if it cannot be read."""
        try:
            image = read_small(path, self.max_megapixels)
        except ImageError:
            return None
        hash = self.images.hashes[row]
        key = hash.tobytes()
        made = []
        for number, kind in enumerate(KINDS):
            copy = make_copy(kind, image, view_rng(self.seed, key, number))
            made.append(_Made.of(kind, copy, hash))
        for number, fixed in enumerate(_SHOTS, len(KINDS)):
            shot = make_other_shot(image, view_rng(self.seed, key, number), fixed=fixed)
            made.append(_Made.of(None, shot, hash))
        return Evidence.of(image), made

    def _others(self, rows: Sequence[int]) -> list[Comparison]:
        """Images of the sample compared with others of it that are no candidates of theirs."""
        if not rows:
            return []
        features = self.candidates.features_of(self.images.ids[list(rows)])
        near = self.candidates.near(features, self.candidates.k + _NEAR)
        evidence: dict[int, Evidence | None] = {}
        pairs = []
        for place, row in enumerate(rows):
            close = set(near[place].tolist())
            ahead = [rows[(place + step) % len(rows)] for step in range(1, len(rows))]
            pairs += [(row, other) for other in ahead if other not in close][: _OTHERS // 2]
        for start in range(0, len(rows), 256):
            evidence |= self.verifier.evidence(rows[start : start + 256])

        def compared(pair: tuple[int, int]) -> Comparison:
            a, b = evidence[pair[0]], evidence[pair[1]]
            return Comparison() if a is None or b is None else compare(a, b)

        return list(self.pool.map(compared, pairs))

    def _rated(
        self,
        calibration: Calibration,
        measured: _Measured,
        rows: Sequence[int],
        progress: Progress,
    ) -> Calibration:
        """The same with what was measured."""
        recall = {
            kind: _share(
                found and calibration.level(one) == "same image"
                for found, one in zip(
                    measured.are_candidates[kind], measured.copies[kind], strict=True
                )
            )
            for kind in KINDS
        }
        shots = [calibration.level(one) for one in measured.shots]
        near = [calibration.level(one) for one in self._near(rows, calibration, progress)]
        return replace(
            calibration,
            recall=recall,
            candidates={kind: _share(measured.are_candidates[kind]) for kind in KINDS},
            shots_same=Rate(shots.count("same image"), len(shots)),
            shots_similar=Rate(len(shots) - shots.count(None), len(shots)),
            near_same=Rate(near.count("same image"), len(near)),
            near_similar=Rate(len(near) - near.count(None), len(near)),
        )

    def _near(
        self, rows: Sequence[int], calibration: Calibration, progress: Progress
    ) -> list[Comparison]:
        """The sample compared with neighbours that come after the candidates.

        An image whose last candidate is the same image is left out: it may have more copies than
        there are candidates. So copies that the collection has do not count as errors.
        """
        if not rows:
            return []
        k = self.candidates.k + 1
        features = self.candidates.features_of(self.images.ids[list(rows)])
        near = self.candidates.near(features, k + _NEAR)
        if near.shape[1] <= k:
            return []
        last = self._compared(rows, near[:, k - 1 : k], progress)
        copies = {row for (row, _), one in last.items() if calibration.level(one) == "same image"}
        kept = [place for place, row in enumerate(rows) if row not in copies]
        found = self._compared([rows[place] for place in kept], near[kept, k:], progress)
        return list(found.values())

    def _compared(
        self, rows: Sequence[int], near: NDArray[np.int64], progress: Progress
    ) -> dict[tuple[int, int], Comparison]:
        """Images compared with some neighbours each (n, k); by row and neighbour."""
        asked = [
            (row, other)
            for row, others in zip(rows, near.tolist(), strict=True)
            for other in others
            if other >= 0 and other != row
        ]
        pairs = np.sort(np.array(asked, np.int64).reshape(-1, 2), axis=1)
        return dict(zip(asked, self.verifier.compare(pairs, progress), strict=True))


def _agreements(found: Sequence[Comparison]) -> NDArray[np.float64]:
    return np.array([one.agreement for one in found])


def _share(values: Iterable[bool]) -> float:
    """Share of the values that are true, 0 without any."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
