"""`CombinedBackbone`: several networks whose features stand side by side.

Networks that were trained apart make different mistakes, so that their features together say more
than those of any of them. An image is decoded and resized once, for the network with the largest
input; the others see the same pixels made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels

if TYPE_CHECKING:
    from torch import nn


class CombinedBackbone(Backbone):
    """Networks that encode the same pixels, one after the other.

    Parameters
    ----------
    name : str
        As given to `load_backbone`.
    parts : sequence of Backbone
        The networks, in the order of their features. They are on one device, see the whole of an
        image (``resize="squash"``) and have the same normalization; only their sizes may differ.
    tuned : TunedWeights, optional
        The changes that the parts have; see `part_of`.
    """

    def __init__(
        self, name: str, parts: Sequence[Backbone], tuned: TunedWeights | None = None
    ) -> None:
        self._parts = tuple(parts)
        largest = max(parts, key=lambda part: part.preprocessing.size)
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(f"{part.name} {part.base_hash}\n".encode())
        super().__init__(
            name,
            sum(part.d for part in parts),
            largest.preprocessing,
            digest.hexdigest(),
            largest.device,
            mean=largest.mean,
            std=largest.std,
        )
        self.precision = largest.precision
        self.batch_size = min(part.batch_size for part in parts)
        self.batches_in_flight = min(part.batches_in_flight for part in parts)
        if all(part.open_network is not None for part in parts):
            self.open_network = self._open_network
        self.take_tuned(tuned)

    def _open_network(self) -> nn.Module:
        from hyperpq.backbones.trainable import CombinedModule

        parts = []
        for part in self._parts:
            assert part.open_network is not None
            parts.append((part.name, part.open_network(), part.preprocessing.size))
        return CombinedModule(parts)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        return self._begin(pixels)()

    def _begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        begun = [part.begin(_resized(pixels, part.preprocessing)) for part in self._parts]
        return lambda: np.concatenate([pending.features() for pending in begun], axis=1)


def _resized(pixels: np.ndarray, prep: Preprocessing) -> np.ndarray:
    """Squares (n, S, S, 3) as a network with another size sees them."""
    if pixels.shape[1] == prep.size:
        return pixels
    return np.stack([to_pixels(Image.fromarray(square), prep) for square in pixels])
