"""What a forked child can use although another thread of its parent held it: locks and caches."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class ForkSafeLock:
    """A reentrant lock that is free in a forked child, whoever held it in the parent.

    The thread that holds a lock does not exist in the child, which would wait for it forever.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _renew(self) -> None:
        if self._lock.acquire(blocking=False):
            # It was free, or this thread has it and will release it.
            self._lock.release()
        else:
            self._lock = threading.RLock()


_LOCKS: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_LOCKS):
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class BlasGate:
    """Around matrix products of NumPy: a fork waits until no thread is inside.

    OpenBLAS ends its threads before a fork, and waits forever for one of them if another thread
    uses them at that moment. Threads that want to enter wait while the process forks. The thread
    that forks may itself be inside, as where a signal has interrupted it.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._changed = threading.Condition(threading.Lock())
        # Entries of all threads that have not been left.
        self._inside = 0

    def __enter__(self) -> None:
        # In this order an interrupt between the two leaves no fork waiting.
        self._own.inside = self._depth() + 1
        with self._changed:
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
        self._own.inside = self._depth() - 1

    def _depth(self) -> int:
        return getattr(self._own, "inside", 0)

    def close(self) -> None:
        """Wait until no other thread is inside, and let none in."""
        self._changed.acquire()
        while self._inside > self._depth():
            self._changed.wait()

    def open(self) -> None:
        """Let threads in again."""
        self._changed.release()

    def renew(self) -> None:
        """The same in a forked child, which has this thread alone."""
        self._changed, self._inside = threading.Condition(threading.Lock()), self._depth()


blas = BlasGate()
"""The gate of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=blas.close, after_in_parent=blas.open, after_in_child=blas.renew)


class cached(Generic[T]):  # noqa: N801
    """A property that is computed once for each object, as by `functools.cached_property`.

    Up to Python 3.11 that one holds a lock of its own while it computes. Two threads may compute
    the same value here.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> cached[T] | T:
        if instance is None:
            return self
        value = self._function(instance)
        instance.__dict__[self._name] = value
        return value
