"""`Calibration`: from which agreement on two images count as the same, and how often that errs.

It is learned on the user's own images: copies of a sample are made and looked for, and other shots
of them are made, which must not pass for copies. How often two images are taken for the same is
counted among pairs that are near by their codes and yet no copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.compare import Comparison

Level = Literal["same image", "similar shot"]
"""What two images are to each other."""
LEVELS: tuple[Level, ...] = ("same image", "similar shot")

# The least share of the smaller image that both show.
_SAME_OVERLAP, _SIMILAR_OVERLAP = 0.5, 0.3
# Least agreement of pages of text: forms that were filled in otherwise agree by up to 0.97.
_PAGE_AGREEMENT = 0.98
# Two shots have at least this many key points in common.
_LEAST_INLIERS = 12
# Where a threshold may lie: of frames of a video 0.4 s apart, 5 % agree by 0.86 or more.
_RANGE = (0.85, 0.97)
# Copies and shots of the sample that the gate of the candidates lets through, at least, and what it
# leaves to others that are less like their image.
_GATE_SHARE, _GATE_MARGIN = 0.995, 0.05


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes
    ----------
    count, of : int
        How often, and of how many cases.
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """The share of the cases, NaN without one."""
        return self.count / self.of if self.of else float("nan")

    @property
    def upper(self) -> float:
        """Upper limit of the share with a confidence of 95 % (Clopper and Pearson)."""
        if self.count >= self.of:
            return 1.0
        from scipy.stats import beta

        return float(beta.ppf(0.95, self.count + 1, self.of - self.count))

    def __str__(self) -> str:
        """In words, such as ``0 of 2,000 (0.15 % at most)``."""
        return f"{self.count:,} of {self.of:,} ({100 * self.upper:.2g} % at most)"


@dataclass(frozen=True)
class Calibration:
    """Thresholds, and what was measured with them on copies, other shots and near neighbours.

    Attributes
    ----------
    same_agreement : float
        Least share of the windows that agree in the same image.
    similar_inliers : int
        Least number of key points that match in similar shots.
    gate : float or None
        Least cosine of the features of candidates; None if the index keeps no features.
    recall : dict of str to float
        Share of the copies of each kind that are found and called the same image.
    candidates : dict of str to float
        Share that are candidates.
    shots_same, shots_similar : Rate
        Made shots that are called the same image, and at least similar.
    near_same, near_similar : Rate
        Neighbours by code after the candidates that are called the same image, and at least
        similar: the false-positive rate among near images.
    sample : int
        Number of images that copies were made of.
    """

    same_agreement: float
    similar_inliers: int
    gate: float | None
    recall: dict[str, float]
    candidates: dict[str, float]
    shots_same: Rate
    shots_similar: Rate
    near_same: Rate
    near_similar: Rate
    sample: int

    def level(
        self, found: Comparison, *, identical: bool = False, other_time: bool = False
    ) -> Level | None:
        """What two images are to each other; None if they are neither.

        Parameters
        ----------
        found : Comparison
            How they compare.
        identical : bool
            Whether their files have the same content.
        other_time : bool
            Whether they were taken at different times.
        """
        least = max(self.same_agreement, _PAGE_AGREEMENT if found.page else 0.0)
        agrees = found.agreement >= least and found.overlap >= _SAME_OVERLAP
        if identical or (agrees and not other_time):
            return "same image"
        matches = found.inliers >= self.similar_inliers and found.overlap >= _SIMILAR_OVERLAP
        return "similar shot" if agrees or (matches and not found.mirrored) else None

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_dict`."""
        rates = {field.name for field in fields(cls) if field.type == "Rate"}
        read: dict[str, Any] = {k: Rate(**v) if k in rates else v for k, v in values.items()}
        return cls(**read)


def same_threshold(copies: NDArray[np.float64], shots: NDArray[np.float64]) -> float:
    """The agreement that separates copies from other shots best.

    It minimizes the share of the copies below it plus the share of the shots from it on; of several
    such values it is the middle.
    """
    low, high = _RANGE
    tried = np.round(np.arange(low, high + 0.0025, 0.005), 3)
    missed = np.searchsorted(np.sort(copies), tried, side="left") / max(len(copies), 1)
    wrong = 1 - np.searchsorted(np.sort(shots), tried, side="left") / max(len(shots), 1)
    loss = missed + wrong * (len(shots) > 0)
    best = np.flatnonzero(loss <= loss.min() + 1e-12)
    return float(tried[best[len(best) // 2]])


def similar_threshold(others: NDArray[np.int64]) -> int:
    """More key points than images that show other things have in common."""
    return max(_LEAST_INLIERS, int(others.max(initial=0)) + 1)


def gate_of(cosines: NDArray[np.float32]) -> float:
    """A cosine that nearly all copies and other shots exceed."""
    return round(float(np.quantile(cosines, 1 - _GATE_SHARE)) - _GATE_MARGIN, 3)
