"""What a training is given: its task, and how it is followed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperpq.geometry.registry import Metric
from hyperpq.progress import Progress, SilentProgress
from hyperpq.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingTask:
    """What a training starts from and what it is to give.

    Attributes
    ----------
    x : ndarray, shape (n, d), float32
        Features of the training images, without augmentation; n >= 1.
    recipe : Recipe
        All settings; the number of epochs is settled.
    M : int
        Codes of one image: subspaces, or codebooks that add up.
    nbits : {4, 8}
        Bits of each.
    metric : {"l1", "geodesic", "chord"}
        How the distances of the subspaces add up. Without effect on the objective ``fidelity``.
    seed : int
        Of every random choice.
    device : str
        Torch device.
    """

    x: NDArray[np.float32]
    recipe: Recipe
    M: int
    nbits: int
    metric: Metric
    seed: int
    device: str

    @property
    def epochs(self) -> int:
        """Passes over the training set."""
        return self.recipe.optimiser.settled_epochs


@dataclass(frozen=True)
class TrainingRun:
    """How a training is followed and resumed; nothing here changes what is learned.

    Attributes
    ----------
    trace_path : Path, optional
        JSON-lines file for losses and curvatures of each epoch, and for use and entropy of the
        codewords if they are learned with the head.
    checkpoint : Path, optional
        File that is replaced after each epoch.
    resume : bool
        Whether to go on from ``checkpoint`` if it exists.
    progress : Progress
        Told about each epoch.
    """

    trace_path: Path | None = None
    checkpoint: Path | None = None
    resume: bool = False
    progress: Progress = field(default_factory=SilentProgress)
