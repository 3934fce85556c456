"""Batches of a training: pairs of views, and how much they belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.training.graph import NeighbourGraph
from hyperpq.training.losses import positive_targets
from hyperpq.training.recipe import Recipe
from hyperpq.training.split import TrainingSplit


@dataclass(frozen=True)
class Batch:
    """The views of one step.

    Attributes
    ----------
    views : Tensor, shape (2 B, d), float32
        A view of each of B images, then a view of the positive of each.
    sources : Tensor, shape (2 B,), int64
        Source index of each view: position in ``learning_rows`` of the image that it is of.
    targets : Tensor, shape (2 B, 2 B), float32
        Target affinities, see `losses.contrastive_loss`.
    """

    views: Tensor
    sources: Tensor
    targets: Tensor

    def pinned(self) -> Batch:
        """The batch in pinned memory, from which a copy to a GPU waits for no work there."""
        return Batch(self.views.pin_memory(), self.sources, self.targets.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The batch on another device; the source index stays on the CPU."""
        views = self.views.to(device, non_blocking=True)
        return Batch(views, self.sources, self.targets.to(device, non_blocking=True))


class BatchSampler:
    """Draws batches.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        All training features.
    views : ndarray, shape (V, v, d)
        Features of V views of the rows ``split.view_rows``. The other images are the only views of
        themselves.
    split : TrainingSplit
        Says which rows are learned from.
    graph : NeighbourGraph or None
        Of the rows that are learned from. Without it, the positive of a view is another view of the
        same image.
    recipe : Recipe
        Of the training.
    """

    def __init__(
        self,
        x: NDArray[np.float32],
        views: NDArray[np.floating],
        split: TrainingSplit,
        graph: NeighbourGraph | None,
        recipe: Recipe,
    ) -> None:
        self._x, self._views, self._rows = x, views, split.learning_rows
        self._graph, self._walk_steps = graph, recipe.graph.walk_steps
        self._has_affinities = graph is not None and recipe.graph.graph_steps > 0
        self._positive_weight = recipe.contrast.positive_weight
        # Of each row of x its column in the views, -1 without any.
        self._view_column = np.full(len(x), -1)
        self._view_column[split.view_rows] = np.arange(len(split.view_rows))
        # With a graph, an image is a view of itself, too; without it, only beside a single view.
        self._image_is_view = graph is not None or len(views) == 1

    def draw(self, positions: Tensor, generator: torch.Generator) -> Batch:
        """Draw a batch.

        Parameters
        ----------
        positions : Tensor, shape (B,), int64
            Images, as positions in ``learning_rows``.
        generator : Generator
            Of every choice.

        Returns
        -------
        Batch
            On the CPU.
        """
        count = len(self._views) + int(self._image_is_view)
        first = torch.randint(count, positions.shape, generator=generator)
        if self._graph is None:
            shift = torch.randint(1, count, positions.shape, generator=generator)
            second = (first + shift) % count
            positives = positions
        else:
            second = torch.randint(count, positions.shape, generator=generator)
            positives = self._graph.walk(positions, self._walk_steps, generator)
        views = np.concatenate([self._take(first, positions), self._take(second, positives)])
        sources = torch.cat([positions, positives])
        return Batch(torch.from_numpy(views), sources, self._targets(sources))

    def _take(self, which: Tensor, positions: Tensor) -> NDArray[np.float32]:
        """View number ``which`` of each image; number 0 is the image, if it is a view of itself."""
        rows, number = self._rows[positions.numpy()], which.numpy() - int(self._image_is_view)
        out = self._x[rows]
        column = self._view_column[rows]
        augmented = (number >= 0) & (column >= 0)
        out[augmented] = self._views[number[augmented], column[augmented]]
        return out

    def _targets(self, sources: Tensor) -> Tensor:
        if self._graph is None or not self._has_affinities:
            return positive_targets(len(sources))
        return soft_targets(self._graph.affinities(sources), self._positive_weight)


def soft_targets(affinities: Tensor, positive_weight: float) -> Tensor:
    """Targets (2 B, 2 B) of affinities whose rows sum to 1 or are 0, and of the positives.

    The positive has what the affinities leave: all, where they are 0.
    """
    shared = affinities * (1 - positive_weight)
    return shared + positive_targets(len(shared)) * (1 - shared.sum(1, keepdim=True))
