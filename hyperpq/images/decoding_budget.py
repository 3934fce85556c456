"""How much memory all threads and processes that decode images may take together."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType

from hyperpq.utils.devices import usable_cores

# 1 GiB is an image of 256 megapixels, and 64 MiB one of 16 megapixels in each thread.
_LEAST, _PER_CORE = 1 << 30, 64 << 20
LARGE = 128 << 20
"""Bytes of an image after which freed memory is returned to the system, which takes time."""


class DecodingBudget:
    """A number of bytes that threads share: each waits, in order, until its image fits.

    An image that needs more than there is waits until it is alone, and is then decoded.

    Parameters
    ----------
    capacity : int, optional
        Number of bytes. By default 1 GiB, or 64 MiB for each usable core if that is more.

    Attributes
    ----------
    used : int
        Number of bytes that are taken now.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = max(_LEAST, _PER_CORE * usable_cores()) if capacity is None else capacity
        self._renew()
        if hasattr(os, "register_at_fork"):
            # The threads that hold a part of it do not exist in a forked child.
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self.used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def claim(self) -> Claim:
        """A part of the budget for one image, as a context; nothing is taken yet."""
        return Claim(self)

    def _take(self, size: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: (
                        self._waiting[0] is ticket
                        and (self.used == 0 or self.used + size <= self.capacity)
                    )
                )
                self.used += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _give_back(self, size: int) -> None:
        with self._changed:
            self.used -= size
            self._changed.notify_all()


class Claim:
    """What one image takes of a `DecodingBudget`; given back at the end of the context."""

    def __init__(self, budget: DecodingBudget) -> None:
        self._budget, self._size = budget, 0

    def __call__(self, size: int) -> None:
        """Take this many bytes, once they are free. Of several calls, the largest counts."""
        if size > self._size:
            # Two threads that keep a part and wait for more would wait for each other.
            self._release()
            self._budget._take(size)
            self._size = size

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        size, self._size = self._size, 0
        if size >= LARGE:
            return_freed_memory()
        if size:
            self._budget._give_back(size)


def return_freed_memory() -> None:
    """Return memory that was freed to the system.

    glibc keeps it for the thread that had it: three threads that decoded an image of 756 MB one
    after another had 2.2 GB.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
