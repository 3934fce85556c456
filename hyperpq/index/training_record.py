"""`TrainingRecord`: what the codec of an index was learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperpq.errors import CorruptIndexError

if TYPE_CHECKING:
    from hyperpq.training.fit import FitStatistics

OBJECTIVES = ("semantic", "fidelity", "balanced", "plain")
"""What codes keep, see `Recipe.objective`; ``plain`` for plain codebooks."""
_FIELDS = {"vectors", "objective", "learned", "fit"}


@dataclass(frozen=True)
class TrainingRecord:
    """What a codec was learned from, which an index that keeps features stores with it.

    Attributes
    ----------
    n : int
        Number of vectors it was learned from.
    objective : {"semantic", "fidelity", "balanced", "plain"}
        What its codes keep; ``plain`` for plain codebooks.
    learned : bool
        Whether the map was learned. Otherwise it is PCA and k-means: there were too few vectors, or
        the acceptance check has found that learning did not help.
    fit : FitStatistics
        How well it fits the vectors that it was learned from.
    """

    n: int
    objective: str
    learned: bool
    fit: FitStatistics

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "vectors": self.n,
            "objective": self.objective,
            "learned": self.learned,
            "fit": self.fit.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any, place: object) -> TrainingRecord:
        """Read what `to_json` made.

        Raises
        ------
        CorruptIndexError
            If it is something else; the message begins with ``place``.
        """
        from hyperpq.training.fit import FitStatistics

        try:
            if value.keys() != _FIELDS or value["objective"] not in OBJECTIVES:
                raise ValueError
            n, learned = value["vectors"], value["learned"]
            if type(n) is not int or not 1 <= n < 1 << 63 or not isinstance(learned, bool):
                raise ValueError
            return cls(n, value["objective"], learned, FitStatistics.from_json(value["fit"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptIndexError(
                f"{place}: training in manifest.json is not the record of a training; expected "
                f"{', '.join(sorted(_FIELDS))}."
            ) from None
