"""`TrainingTrace`: what the training of an index has written down, epoch by epoch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A trace of 1,000 epochs and 128 subspaces has 3 MB.
_MAX_BYTES = 1 << 26
NAME = "training.jsonl"
"""File of the trace in the directory of an index of images."""

Series = dict[str, list[float]]


@dataclass(frozen=True)
class TrainingTrace:
    """Values of each epoch.

    Attributes
    ----------
    epochs : list of int
        Numbers of the epochs, from 0.
    losses : dict of str to list of float
        Mean of each loss.
    curvatures : list of list of float
        Absolute curvature of each subspace.
    radius : list of float
        Median length of the tangent vectors of a subspace.
    entropy : list of float
        Mean entropy of the codes of a subspace in bits; empty if the codebooks were learned
        afterwards.
    """

    epochs: list[int]
    losses: Series
    curvatures: list[list[float]]
    radius: list[float]
    entropy: list[float]

    @classmethod
    def read(cls, directory: Path) -> TrainingTrace | None:
        """The trace in the directory of an index; None if there is none that can be read."""
        path = directory / NAME
        try:
            if path.stat().st_size > _MAX_BYTES:
                return None
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            return cls._of(lines) if lines else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @classmethod
    def _of(cls, lines: list[dict[str, Any]]) -> TrainingTrace:
        names = list(lines[0]["losses"])
        entropy = [line["entropy"] for line in lines if "entropy" in line]
        return cls(
            [int(line["epoch"]) for line in lines],
            {name: [_number(line["losses"].get(name, 0)) for line in lines] for name in names},
            [[_number(value) for value in line["curvature"]] for line in lines],
            [_number(line["radius"]) for line in lines],
            [sum(map(_number, own)) / len(own) for own in entropy] if entropy else [],
        )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return float(value)
