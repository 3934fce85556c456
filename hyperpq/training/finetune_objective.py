"""What fine-tuning minimizes: the contrast of cosines behind a linear head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hyperpq.training.finetune_settings import FinetuneSettings
from hyperpq.training.losses import contrastive_loss

# The root of features is softened near 0, where its slope is infinite: by this share of their mean
# size.
_SOFTENED = 0.01


class Objective(Protocol):
    """A loss of the features of a batch, with parameters of its own."""

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Optimisers of these parameters; ``lr`` of a group is the highest rate."""

    def after_step(self) -> None:
        """Bring parameters back into their range."""

    def begin_epoch(self, epoch: int, features: Callable[[], NDArray[np.float32]]) -> None:
        """Prepare an epoch; ``features`` computes those of the images that are learned from."""

    def loss(self, features: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """The loss of features (2 B, d), given the images they are of and target affinities."""


class CosineObjective(nn.Module):
    """Cross-entropy of target affinities and cosines of a linear map of the features.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Features of the images that are learned from, by the network at the start of the round. The
        map starts as their principal axes.
    settings : FinetuneSettings
        Width, temperature and rates.
    device : torch.device
        Where the loss is computed.
    """

    mean: Tensor

    def __init__(
        self, x: NDArray[np.float32], settings: FinetuneSettings, device: torch.device
    ) -> None:
        super().__init__()
        self._settings = settings
        self._soft = max(_SOFTENED * float(np.abs(x).mean()), 1e-12)
        rooted = self._root(torch.from_numpy(x))
        self.register_buffer("mean", rooted.mean(0))
        z = nn.functional.normalize(rooted - self.mean, dim=1).double()
        centre = z.mean(0)
        _, axes = torch.linalg.eigh((z - centre).T @ (z - centre))
        axes = axes.flip(1)[:, : settings.width]
        # The signs of eigenvectors are free: the largest entry of each is made positive.
        largest = axes.abs().argmax(0)
        axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
        self.weight = nn.Parameter(axes.float())
        self.bias = nn.Parameter(-(centre @ axes).float())
        self.to(device)

    def _root(self, x: Tensor) -> Tensor:
        return x.sign() * ((x.abs() + self._soft).sqrt() - self._soft**0.5)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """That of the linear map, and of its bias without decay."""
        decay = self._settings.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [self.weight], "weight_decay": decay},
            {"params": [self.bias], "weight_decay": 0.0},
        ]
        return [torch.optim.AdamW(groups, lr=self._settings.head_learning_rate, fused=True)]

    def after_step(self) -> None:
        """Nothing has a range."""

    def begin_epoch(self, epoch: int, features: Callable[[], NDArray[np.float32]]) -> None:
        """Nothing changes from epoch to epoch."""

    def loss(self, features: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.loss`."""
        z = nn.functional.normalize(self._root(features) - self.mean, dim=1)
        h = nn.functional.normalize(z @ self.weight + self.bias, dim=1)
        # An image that is twice in a batch has no affinity to itself. Its other view is no negative
        # either: in small sets that would push views of the same image apart.
        there = sources.to(targets.device, non_blocking=True)
        same = (there[:, None] == there[None, :]) & (targets == 0)
        distances = (1 - h @ h.T).masked_fill(same, torch.inf)
        return contrastive_loss(distances, targets, self._settings.temperature)
