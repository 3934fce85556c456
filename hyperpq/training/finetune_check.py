"""The held-out acceptance check of fine-tuning: whether a round helped images that it did not see.

The criterion needs no labels. What belongs to a held-out image is what a walk of several steps
reaches on the neighbour graph of the features before the first round, which has the held-out images
in it. The *agreement* of a round is the share of that affinity on the nearest images by the
round's features, of the most that as many images can have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.progress import Phase
from hyperpq.training.finetune_features import network_features, rooted
from hyperpq.training.finetune_images import TrainingImages
from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.graph import build_graph, graph_features, image_weight, walk_support

# Share that a round must gain of the agreement that the network before the first round lacks.
MIN_GAIN = 0.05
# Most images that are searched, and the graph, as in `holdout_check`.
_MAX_SEARCHED, _RESULTS_ONE_OF, _MAX_RESULTS = 2500, 20, 50
_GRAPH_NEIGHBOURS, _GRAPH_STEPS, _SUPPORT_ONE_OF = 20, 8, 12
# Views of each image that is searched.
_VIEWS = 2
# Added to the seed of the views, so that they are none of the training.
_SEED = 7_919


class _Silent:
    def advance(self, n: int = 1, **facts: object) -> None:
        pass


class FinetuneCheck:
    """Compares rounds by what their features find for held-out images.

    Parameters
    ----------
    network : TrainableNetwork
        Before the first round.
    images : TrainingImages
        All training images.
    features : ndarray, shape (n, d), float32
        Their features by that network.
    held_out : ndarray, shape (h,), int64
        Rows that no round learns from.
    settings : FinetuneSettings
        Strength of the views, and the seed.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        images: TrainingImages,
        features: NDArray[np.float32],
        held_out: NDArray[np.int64],
        settings: FinetuneSettings,
    ) -> None:
        h = len(held_out)
        others = np.setdiff1d(np.arange(len(features)), held_out)[: _MAX_SEARCHED - h]
        self._images, self._held_out = images, held_out
        self._rows = np.concatenate([held_out, others])
        self._views = DeviceViews(settings.views, network.size, settings.seed + _SEED)
        of = features[self._rows]
        own = rooted(of, of)
        views = [
            rooted(self._view_features(network, self._rows, number), of) for number in range(_VIEWS)
        ]
        z = graph_features(own, views, weight=image_weight(own, views))
        support = walk_support(len(z), _SUPPORT_ONE_OF)
        factor = build_graph(z, _GRAPH_NEIGHBOURS, _GRAPH_STEPS, support=support).factor
        self._affinity = (factor[:h] @ factor.T).toarray()
        np.fill_diagonal(self._affinity, 0)
        self._k = int(np.clip(len(of) // _RESULTS_ONE_OF, 1, _MAX_RESULTS))
        best = np.partition(self._affinity, -self._k, axis=1)[:, -self._k :].sum(1)
        self._best = np.maximum(best, 1e-30)

    def score(self, network: TrainableNetwork, features: NDArray[np.float32]) -> float:
        """The agreement of a network, given its features of all training images."""
        of = features[self._rows]
        searched = rooted(of, of)
        queries = rooted(self._view_features(network, self._held_out, 0), of)
        shares = []
        for asked in (searched[: len(queries)], queries):
            similarity = asked @ searched.T
            np.fill_diagonal(similarity, -np.inf)
            found = np.argpartition(-similarity, self._k, axis=1)[:, : self._k]
            shares.append(np.take_along_axis(self._affinity, found, 1).sum(1) / self._best)
        return float(np.mean(shares))

    def _view_features(
        self, network: TrainableNetwork, rows: NDArray[np.int64], number: int
    ) -> NDArray[np.float32]:
        def make(pixels: Tensor, of: NDArray[np.int64]) -> Tensor:
            return self._views(pixels, of, number)

        phase: Phase = _Silent()
        return network_features(network, self._images, rows, phase, make)
