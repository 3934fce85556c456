"""`BackgroundWriter`: codes are made and stored while the network encodes more images."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from typing_extensions import ParamSpec

P = ParamSpec("P")


class BackgroundWriter:
    """Runs calls in one thread, in the order in which they are given.

    As a context it waits for the last call at its end. The error of a call is raised by the next
    `submit` or at the end of the context. If the context itself ends with an error, the last call
    is still finished, so that nothing that was read is lost.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._last: Future[None] | None = None

    def submit(self, call: Callable[P, object], *args: P.args, **options: P.kwargs) -> None:
        """Give a call; waits until the one before it is done, so that little can be lost."""
        self._wait()

        def run() -> None:
            call(*args, **options)

        self._last = self._pool.submit(run)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self._wait()
