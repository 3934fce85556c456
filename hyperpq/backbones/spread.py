"""`SpreadBackbone`: one network on several devices, which take batches in turn.

Each device has a thread. A batch is hundreds of kernels, which a thread starts in some milliseconds
and the device works on for ten times as long without the interpreter, so that a process for each
device would gain little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from hyperpq.backbones.base import Backbone


class SpreadBackbone(Backbone):
    """The same network on several devices.

    A batch is computed by one device as a whole. So features are those of the network on one of
    them, in the same order, if the devices are alike.

    Parameters
    ----------
    parts : sequence of Backbone
        The network on each of the devices.
    """

    def __init__(self, parts: Sequence[Backbone]) -> None:
        first = parts[0]
        super().__init__(
            first.name,
            first.d,
            first.preprocessing,
            first.base_hash,
            first.device,
            mean=first.mean,
            std=first.std,
        )
        self.take_tuned(first.tuned)
        self.precision = first.precision
        self.open_network = first.open_network
        self.trainable_prefix = first.trainable_prefix
        self.batch_size = min(part.batch_size for part in parts)
        # While a device computes a batch it may have the next.
        self.batches_in_flight = sum(part.batches_in_flight + 1 for part in parts) - 1
        self._parts = tuple(parts)
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix="device") for _ in parts]
        self._turn = count()

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices, in the order in which they take turns."""
        return tuple(part.device for part in self._parts)

    def identity(self) -> dict[str, Any]:
        """See `Backbone.identity`; that of the network on one device."""
        return self._parts[0].identity()

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        return self._begin(pixels)()

    def _begin(self, pixels: np.ndarray) -> Callable[[], np.ndarray]:
        number = next(self._turn) % len(self._parts)
        part = self._parts[number]
        # The caller may change its pixels before the thread takes them.
        begun = self._threads[number].submit(part.begin, pixels.copy())
        return lambda: begun.result().features()
