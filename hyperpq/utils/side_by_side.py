"""Independent parts of a computation of PyTorch on several threads, with the bits of one thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hyperpq.utils.devices import default_threads

MOST_THREADS = 4
"""With more, operations of 50 microseconds wait for the interpreter lock."""


def side_by_side(parts: Sequence[Callable[[], None]]) -> None:
    """Call functions on as many threads as there are cores, at most `MOST_THREADS`.

    Nothing waits for a core that another process keeps busy, but for the part that has begun there:
    the calling thread takes parts as the others do, and none is given to a thread in advance. That
    is unlike the threads of PyTorch, which wait for each other by spinning (see `single_thread`).

    Parameters
    ----------
    parts : sequence of callable
        Independent of each other and of their order. They should run for some hundred microseconds.
        They run in this thread alone where PyTorch itself has more than one.

    Raises
    ------
    Exception
        The first that a part raises; other parts may not have run.
    """
    import torch

    threads = min(len(parts), default_threads(), MOST_THREADS)
    if threads < 2 or torch.get_num_threads() > 1:
        for part in parts:
            part()
        return
    waiting = deque(parts)

    def work() -> None:
        while waiting:
            try:
                part = waiting.popleft()
            except IndexError:
                return  # another thread took the last one
            part()

    helpers = [_pool().submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # After an error, too, nothing goes on in data that the caller may give up.
        waiting.clear()
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [error for helper in begun if (error := helper.exception()) is not None]
    if errors:
        raise errors[0]


_POOL: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    """The threads, which wait without spinning; a forked child has none of its parent."""
    global _POOL
    if _POOL is None:
        _POOL = ThreadPoolExecutor(MOST_THREADS - 1, thread_name_prefix="side")
    return _POOL


def _forget_pool() -> None:
    global _POOL
    _POOL = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
