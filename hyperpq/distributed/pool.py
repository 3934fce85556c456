"""`Pool`: processes of a cluster that do calls in order, and are replaced when they end."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hyperpq._version import __version__
from hyperpq.distributed.cluster import Cluster, Share, first_line
from hyperpq.errors import ClusterError, HyperPQError

T = TypeVar("T")

START_SECONDS = 120.0
"""How long processes may take to start."""
MAX_TRIES = 4
"""How often a call is begun. One that ends every process that does it, such as an image that
crashes a decoder, would otherwise be repeated forever."""
# Calls that a process has at once, so that one is there when another is done.
_CALLS_EACH = 2
# Results for each process that may wait for an earlier one.
_WAITING_EACH = 4


@dataclass
class _Call(Generic[T]):
    """A call: what it is given, how often it was begun, and its result."""

    given: T
    tries: int = 0
    is_done: bool = False
    result: Any = None


class Pool:
    """Processes that each have an object of one class.

    A call whose process or machine has ended is begun again by another process, so calls must not
    change anything. A new process is asked of the cluster, which has one when it has room; the
    others go on meanwhile.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    role : type
        Class of the objects.
    args : tuple
        What it is called with.
    count : int
        Number of processes.
    share : Share
        What each takes.

    Raises
    ------
    ClusterError
        If the processes do not start, or have another version of hyperpq.
    """

    def __init__(
        self, cluster: Cluster, role: type, args: tuple[object, ...], count: int, share: Share
    ) -> None:
        self._cluster, self._ray, self._share = cluster, cluster.ray, share
        self._errors = importlib.import_module("ray.exceptions")
        self._make = self._ray.remote(_Host).options(num_cpus=share.cpus, num_gpus=share.gpus)
        self._args = role, args
        # Processes by their numbers, and those that have not answered yet by the call that they
        # will answer.
        self._running: dict[int, Any] = {}
        self._starting: dict[Any, tuple[int, Any]] = {}
        for number in range(count):
            self._start(number)
        self._ray.wait([*self._starting], num_returns=count, timeout=START_SECONDS)
        try:
            self._join()
            if self._starting:
                raise ClusterError(
                    f"{len(self._running)} of {count} workers have started after "
                    f"{START_SECONDS:.0f} s, each on {share.cpus} cores and {share.gpus} GPUs, so "
                    "the cluster is busy; ask for fewer."
                )
        except BaseException:
            self.close()
            raise

    def in_order(
        self,
        name: str,
        calls: Iterable[tuple[T, tuple[object, ...]]],
        *,
        home: Callable[[T], int] | None = None,
    ) -> Iterator[tuple[T, Any]]:
        """Do calls, and give their results in order.

        Parameters
        ----------
        name : str
            The method that is called.
        calls : iterable of (T, tuple)
            Anything, which is given back, and the arguments. A call is asked for when a process can
            take it, and no more than four for each process wait for one before them.
        home : callable, optional
            Number of the process that a call is for, while that is there; by default the process
            with the fewest calls.

        Yields
        ------
        (T, result)

        Raises
        ------
        HyperPQError
            That of a call.
        ClusterError
            If a call has ended `MAX_TRIES` processes, or no process is left and none starts.
        """
        source = iter(calls)
        waiting: deque[_Call[tuple[T, tuple[object, ...]]]] = deque()
        again: deque[_Call[tuple[T, tuple[object, ...]]]] = deque()
        begun: dict[Any, tuple[_Call[tuple[T, tuple[object, ...]]], int, Any]] = {}
        while True:
            self._join()
            while self._running and len(begun) < _CALLS_EACH * len(self._running):
                if again:
                    call = again.popleft()
                elif len(waiting) >= _WAITING_EACH * len(self._running):
                    break
                else:
                    given = next(source, None)
                    if given is None:
                        break
                    call = _Call(given)
                    waiting.append(call)
                busy = [number for _, number, _ in begun.values()]
                number = -1 if home is None else home(call.given[0])
                if number not in self._running:
                    number = min(self._running, key=busy.count)
                call.tries += 1
                actor = self._running[number]
                begun[actor.call.remote(name, *call.given[1])] = call, number, actor
            if not waiting:
                return
            if waiting[0].is_done:
                done = waiting.popleft()
                yield done.given[0], done.result
                continue
            limit = None if begun else START_SECONDS
            references = [*begun, *self._starting]
            ready = self._ray.wait(references, num_returns=1, timeout=limit)[0]
            if not ready:
                raise ClusterError(
                    f"all workers have ended, and none has started for {START_SECONDS:.0f} s; "
                    "expected a cluster with room for one."
                )
            if ready[0] not in begun:
                continue
            call, number, actor = begun.pop(ready[0])
            try:
                call.result = self._ray.get(ready[0])
                call.is_done = True
            except self._errors.RayTaskError as error:
                raise error.cause if isinstance(error.cause, HyperPQError) else error from None
            except self._errors.RayError as error:
                self._replace(number, actor)
                if call.tries == MAX_TRIES:
                    raise ClusterError(
                        f"a call has ended {MAX_TRIES} workers, or their machines are gone "
                        f"({first_line(error)})."
                    ) from error
                again.append(call)

    def _start(self, number: int) -> None:
        actor = self._make.remote(*self._args)
        self._starting[actor.version.remote()] = number, actor

    def _join(self) -> None:
        """Use the processes that have started; those that could not are started again."""
        if not self._starting:
            return
        references = [*self._starting]
        for reference in self._ray.wait(references, num_returns=len(references), timeout=0)[0]:
            number, actor = self._starting.pop(reference)
            try:
                version = self._ray.get(reference)
            except self._errors.RayActorError as error:
                raise ClusterError(f"a worker cannot start: {first_line(error)}") from error
            if version != __version__:
                self._ray.kill(actor)
                raise ClusterError(
                    f"a machine of the cluster has hyperpq {version}; expected {__version__}, as "
                    "this one has."
                )
            self._running[number] = actor

    def _replace(self, number: int, actor: Any) -> None:
        """Go on without a process that has ended, and start another in its place, once."""
        if self._running.get(number) is actor:
            del self._running[number]
            self._ray.kill(actor)
            self._start(number)

    def close(self) -> None:
        """End the processes."""
        for actor in [*self._running.values(), *(actor for _, actor in self._starting.values())]:
            self._ray.kill(actor)
        self._running, self._starting = {}, {}


class _Host:
    """A process: an object of a class, and calls of its methods."""

    def __init__(self, role: type, args: tuple[object, ...]) -> None:
        self._role, self._args = role, args
        self._made: object | None = None

    def version(self) -> str:
        """Version of hyperpq where the process runs."""
        return __version__

    def call(self, name: str, *args: object) -> object:
        """Call a method of the object, which is made first, so that its error is the call's."""
        if self._made is None:
            self._made = self._role(*self._args)
        return getattr(self._made, name)(*args)
