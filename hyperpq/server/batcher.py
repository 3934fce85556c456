"""`Batcher`: what is asked for while a worker is busy is done together when it is free."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class BusyError(Exception):
    """There is no room for a request now; the same request may be answered a moment later."""


class Batcher(Generic[Q, A]):
    """Runs queries in batches, one batch at a time, in a thread.

    A query that finds the worker free starts at once and alone. Those that come while it is busy
    are the next batch, so none waits for others to come.

    Parameters
    ----------
    run : callable
        Takes queries, and returns for each an answer or an exception.
    size : int
        Largest number of queries in a batch.
    limit : int
        Number of queries that wait for their turn.
    """

    def __init__(
        self, run: Callable[[Sequence[Q]], Sequence[A | Exception]], *, size: int, limit: int
    ) -> None:
        self._run, self._size, self._limit = run, size, limit
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")

    @property
    def waiting(self) -> int:
        """Number of queries that wait for their turn."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raise `BusyError` if no further query can wait."""
        if len(self._waiting) >= self._limit:
            raise BusyError(f"{self._limit} queries are waiting already")

    async def submit(self, query: Q, seconds: float = math.inf) -> A:
        """The answer to a query.

        A query whose caller is cancelled before its turn, or has waited too long, is left out.

        Raises
        ------
        BusyError
            If too many queries are waiting, or there was no answer within ``seconds``.
        Exception
            What ``run`` gave for the query.
        """
        self.check_room()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
        self._waiting.append((query, answer))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        if math.isinf(seconds):
            return await answer
        # `asyncio.wait_for` would make a task of each query.
        timer = loop.call_later(seconds, _give_up, answer, seconds)
        try:
            return await answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Wait for the batch that runs; those that still wait are cancelled."""
        while self._waiting:
            self._waiting.popleft()[1].cancel()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next():
                queries = [query for query, _ in batch]
                found = await loop.run_in_executor(self._thread, self._outcomes, queries)
                for (_, answer), outcome in zip(batch, found, strict=True):
                    if answer.done():
                        continue
                    if isinstance(outcome, Exception):
                        answer.set_exception(outcome)
                    else:
                        answer.set_result(outcome)
        finally:
            self._worker = None

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._size:
            query, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((query, answer))
        return batch

    def _outcomes(self, queries: list[Q]) -> Sequence[A | Exception]:
        try:
            return self._run(queries)
        except Exception as error:
            if len(queries) == 1:
                return [error]
        # One of them fails, and the others have nothing to do with it.
        return [self._outcomes([query])[0] for query in queries]


def _give_up(answer: asyncio.Future[A], seconds: float) -> None:
    if not answer.done():
        answer.set_exception(BusyError(f"there was no answer within {seconds:g} seconds"))


class BoundedPool:
    """Threads that do one thing after another, with a limit on what waits for them.

    Parameters
    ----------
    threads : int
        Number of threads.
    limit : int
        How much may wait or run at once.
    """

    def __init__(self, threads: int, limit: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="files")
        self._limit, self._running = limit, 0

    async def run(self, work: Callable[[], A]) -> A:
        """What ``work`` returns, called in a thread.

        Raises
        ------
        BusyError
            If there is too much to do already.
        """
        if self._running >= self._limit:
            raise BusyError(f"{self._limit} files are being read already")
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._running -= 1

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
