"""Copies of codes to a device while another piece is searched there: two buffers in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Copies(Protocol):
    """Two buffers on a device, 0 and 1, that are filled and used in turn."""

    def start(self, buffer: int, data: NDArray[np.uint8]) -> None:
        """Begin to copy bytes (n,) to a buffer that was released or never used."""

    def finish(self, buffer: int) -> Tensor:
        """The copied bytes (n,), for work that is queued from now on."""

    def release(self, buffer: int) -> None:
        """Let the buffer be filled again after the work that is queued by now."""


def copies_to(device: str, size: int) -> Copies:
    """Buffers of some bytes each on a device, ``cpu`` or ``cuda:N``."""
    return HostCopies(size) if device == "cpu" else CudaCopies(device, size)


class HostCopies:
    """Buffers in the memory of the host, filled at once."""

    def __init__(self, size: int) -> None:
        import torch

        self._buffers = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]
        self._n = [0, 0]

    def start(self, buffer: int, data: NDArray[np.uint8]) -> None:
        """See `Copies.start`."""
        self._n[buffer] = len(data)
        self._buffers[buffer].numpy()[: len(data)] = data

    def finish(self, buffer: int) -> Tensor:
        """See `Copies.finish`."""
        return self._buffers[buffer][: self._n[buffer]]

    def release(self, buffer: int) -> None:
        """See `Copies.release`."""


class CudaCopies:
    """Buffers on a GPU, filled from page-locked memory on a stream of their own.

    A piece is first copied to page-locked memory, which the processor does while the GPU copies or
    searches another one. PyTorch keeps both kinds of memory for the next search.
    """

    def __init__(self, device: str, size: int) -> None:
        import torch

        self._device = device
        self._locked = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._stream = torch.cuda.Stream(device)
        # Memory that PyTorch used before is free for the stream once the work of then is done.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        for tensor in self._buffers:
            tensor.record_stream(self._stream)
        self._copied = [torch.cuda.Event() for _ in range(2)]
        self._released = [torch.cuda.Event() for _ in range(2)]
        self._n = [0, 0]

    def start(self, buffer: int, data: NDArray[np.uint8]) -> None:
        """See `Copies.start`."""
        import torch

        n = self._n[buffer] = len(data)
        self._copied[buffer].synchronize()
        self._locked[buffer].numpy()[:n] = data
        self._stream.wait_event(self._released[buffer])
        with torch.cuda.stream(self._stream):
            self._buffers[buffer][:n].copy_(self._locked[buffer][:n], non_blocking=True)
            self._copied[buffer].record(self._stream)

    def finish(self, buffer: int) -> Tensor:
        """See `Copies.finish`."""
        import torch

        torch.cuda.current_stream(self._device).wait_event(self._copied[buffer])
        return self._buffers[buffer][: self._n[buffer]]

    def release(self, buffer: int) -> None:
        """See `Copies.release`."""
        import torch

        self._released[buffer].record(torch.cuda.current_stream(self._device))
