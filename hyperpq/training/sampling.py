"""What a training step looks at: pairs of views, and which of them belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.training.graph import NeighbourGraph
from hyperpq.training.losses import partner_targets
from hyperpq.training.recipe import Recipe


class Batches:
    """Draws views and targets.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features.
    views : ndarray, shape (V, v, d)
        Features of views of some of them.
    view_rows : ndarray, shape (v,), int64
        Which. The others are the views of themselves.
    kept : ndarray, shape (m,), int64
        Rows to draw from; everything below counts in these.
    graph : NeighbourGraph or None
        None pairs two views of one image.
    recipe : Recipe
        Of the training.
    """

    def __init__(
        self,
        x: NDArray[np.float32],
        views: NDArray[Any],
        view_rows: NDArray[np.int64],
        kept: NDArray[np.int64],
        graph: NeighbourGraph | None,
        recipe: Recipe,
    ) -> None:
        self._x, self._views, self._kept = x, views, kept
        self._graph, self._recipe = graph, recipe
        self._view_of = np.full(len(x), -1)
        self._view_of[view_rows] = np.arange(len(view_rows))
        # On the graph an image is a view of itself; without it, only where it has just one.
        self._with_plain = graph is not None or len(views) == 1

    def _take(self, which: Tensor, rows: Tensor) -> NDArray[np.float32]:
        """Feature of view ``which`` of each row; with plain features, view 0 is the feature."""
        index, number = self._kept[rows.numpy()], which.numpy() - int(self._with_plain)
        out = self._x[index]
        column = self._view_of[index]
        made = (number >= 0) & (column >= 0)
        out[made] = self._views[number[made], column[made]]
        return out

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch.

        Parameters
        ----------
        rows : Tensor, shape (B,), int64
            Positions in ``kept``.
        generator : Generator
            Of every choice.

        Returns
        -------
        views : Tensor, shape (2 B, d), float32
            A view of each, then a view of each one's partner.
        whose : Tensor, shape (2 B,), int64
            The positions they are of.
        targets : Tensor, shape (2 B, 2 B)
            For `losses.contrastive_loss`.
        """
        count = len(self._views) + int(self._with_plain)
        first = torch.randint(count, rows.shape, generator=generator)
        if self._graph is None:
            second = (first + torch.randint(1, count, rows.shape, generator=generator)) % count
            partners = rows
        else:
            second = torch.randint(count, rows.shape, generator=generator)
            partners = self._graph.walk(rows, self._recipe.graph.walk_steps, generator)
        views = np.concatenate([self._take(first, rows), self._take(second, partners)])
        whose = torch.cat([rows, partners])
        return torch.from_numpy(views), whose, self._targets(whose)

    def _targets(self, whose: Tensor) -> Tensor:
        partner = partner_targets(len(whose))
        if self._graph is None or not self._recipe.graph.graph_steps:
            return partner
        shared = self._graph.affinities(whose) * (1 - self._recipe.contrast.positive_weight)
        # What the affinities leave (all, where they are 0) is on the partner.
        return shared + partner * (1 - shared.sum(1, keepdim=True))
