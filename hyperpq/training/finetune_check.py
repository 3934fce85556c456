"""The held-out acceptance check of fine-tuning: which round is kept, or none.

The criterion needs no labels. Images that no round has learned from are searched for twice, each
time by another view of them and among other views of the rest. The *agreement* is the share of the
nearest images that both searches have in common: what a network finds because of the image, and
not because of the view.

A network that learns mistakes of its graph becomes sure of them on the images that it learns from;
among images that it has not seen, what it finds becomes arbitrary. docs/method/finetune.md compares
the criterion with labels and with others that were tried.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.datasets.augment import MILD
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.progress import Phase
from hyperpq.training.finetune_features import network_features, rooted
from hyperpq.training.finetune_images import TrainingImages

# Share that the first round that is kept must gain of the agreement that is lacking before.
MIN_GAIN = 0.02
# Most images that are searched. A list of results has one image in so many, and at most so many.
MAX_SEARCHED, _RESULTS_ONE_OF, _MAX_RESULTS = 2500, 20, 50
# Added to the seed of the views, so that they are none of the training.
_SEED = 7_919


class FinetuneCheck:
    """Scores a network by what it finds for images that it has not learned from.

    Parameters
    ----------
    images : TrainingImages
        All training images.
    held_out : ndarray, shape (h,), int64
        Rows that no round learns from.
    size : int
        Side of the views: that of the network.
    seed : int
        Of the views.
    """

    def __init__(
        self, images: TrainingImages, held_out: NDArray[np.int64], size: int, seed: int
    ) -> None:
        others = np.setdiff1d(np.arange(len(images)), held_out)
        # Evenly, as images are often sorted.
        step = max(1, -(-len(others) // (MAX_SEARCHED - len(held_out))))
        self._images, self._held_out = images, held_out
        self._rows = np.concatenate([held_out, others[::step]])
        self._k = int(np.clip(len(self._rows) // _RESULTS_ONE_OF, 1, _MAX_RESULTS))
        self._views = DeviceViews(MILD, size, seed + _SEED)

    @property
    def views(self) -> int:
        """Views that a score takes features of."""
        return 2 * (len(self._held_out) + len(self._rows))

    def score(self, network: TrainableNetwork, phase: Phase) -> float:
        """The agreement, 0 to 1, of a network in evaluation mode."""
        one, other = (self._found(network, first, phase) for first in (0, 2))
        both = (one[:, :, None] == other[:, None, :]).sum()
        return float(both / one.size)

    def _found(self, network: TrainableNetwork, first: int, phase: Phase) -> NDArray[np.int64]:
        """The nearest others (h, k) of the held-out images, by two views from a number on."""
        asked = self._features(network, self._held_out, first, phase)
        searched = self._features(network, self._rows, first + 1, phase)
        similarity = rooted(asked, searched) @ rooted(searched, searched).T
        np.fill_diagonal(similarity, -np.inf)
        return np.argpartition(-similarity, self._k, axis=1)[:, : self._k]

    def _features(
        self, network: TrainableNetwork, rows: NDArray[np.int64], number: int, phase: Phase
    ) -> NDArray[np.float32]:
        def make(pixels: Tensor, of: NDArray[np.int64]) -> Tensor:
            return self._views(pixels, of, number)

        return network_features(network, self._images, rows, phase, make)
