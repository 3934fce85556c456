"""Locks and cached values in a forked child, whatever threads of the parent were doing."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hyperpq.utils.forks import ForkSafeLock, blas, cached

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")


def status_of_child(work) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def take(lock):
    with lock, lock:
        pass


def test_a_lock_of_another_thread_is_free_in_the_child():
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    assert status_of_child(lambda: take(lock)) == 0
    # In the parent it is still held.
    assert not lock._lock.acquire(blocking=False)
    done.set()
    thread.join(60)
    take(lock)


def test_a_lock_of_the_thread_that_forks_is_released_there():
    lock = ForkSafeLock()

    def in_another_thread():
        thread = threading.Thread(target=take, args=(lock,))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    def leave():
        lock.__exit__(None, None, None)
        in_another_thread()

    with lock:
        assert status_of_child(leave) == 0
    in_another_thread()


def test_a_lock_keeps_other_threads_out():
    lock, counts = ForkSafeLock(), [0]

    def count():
        for _ in range(2000):
            with lock:
                value = counts[0]
                counts[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [8000]


class Slow:
    def __init__(self, gate):
        self.gate, self.calls = gate, 0

    @cached
    def value(self):
        """A value."""
        self.calls += 1
        self.gate.wait(60)
        return 5


def test_a_value_is_computed_once_and_waits_for_no_thread():
    gate = threading.Event()
    gate.set()
    one = Slow(gate)
    assert (one.value, one.value, one.calls) == (5, 5, 1)
    assert (Slow.value.__doc__, vars(one)["value"]) == ("A value.", 5)
    busy = Slow(threading.Event())
    thread = threading.Thread(target=lambda: busy.value)
    thread.start()
    while not busy.calls:
        pass
    # `functools.cached_property` of Python 3.11 waits for the thread, which the child has not.
    assert status_of_child(lambda: Slow(gate).value) == 0
    busy.gate.set()
    thread.join(60)


def test_a_fork_waits_until_no_other_thread_is_inside_the_gate():
    entered, done, left = threading.Event(), threading.Event(), []

    def work():
        with blas, blas:
            entered.set()
            done.wait(60)
            left.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(60)
    threading.Timer(0.2, done.set).start()

    def child():
        assert left == [True]
        take(blas)

    # This thread itself may be inside.
    with blas:
        assert status_of_child(child) == 0
    thread.join(60)
    assert status_of_child(lambda: take(blas)) == 0
    take(blas)


def test_threads_enter_the_gate_after_a_fork():
    forked, entered = threading.Event(), threading.Event()

    def enter():
        forked.wait(60)
        with blas:
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    blas.close()
    forked.set()
    assert not entered.wait(0.2)
    blas.open()
    assert entered.wait(60)
    thread.join(60)
