"""The thread that writes while the network encodes."""

from __future__ import annotations

import threading

import pytest

from hyperpq.images.build.writer import BackgroundWriter


def test_calls_run_in_order_in_one_other_thread():
    calls = []
    with BackgroundWriter() as writer:
        for i in range(20):
            writer.submit(lambda n, by: calls.append((n, by, threading.get_ident())), i, by=-i)
    assert [call[:2] for call in calls] == [(i, -i) for i in range(20)]
    (thread,) = {call[2] for call in calls}
    assert thread != threading.get_ident()


def test_one_call_is_in_work_while_the_caller_goes_on():
    begun, go_on, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go_on.wait()
        done.append(1)

    with BackgroundWriter() as writer:
        writer.submit(first)
        begun.wait()
        assert not done
        go_on.set()
        writer.submit(done.append, 2)
        assert done[0] == 1
    assert done == [1, 2]


def fail():
    raise OSError("the disk is full")


def test_an_error_is_that_of_the_next_call():
    later = []
    with pytest.raises(OSError, match="full"), BackgroundWriter() as writer:
        writer.submit(fail)
        writer.submit(later.append, 1)
    assert later == []


def test_an_error_is_that_of_the_context():
    with pytest.raises(OSError, match="full"), BackgroundWriter() as writer:
        writer.submit(fail)


def test_what_was_given_is_done_after_an_error_of_the_caller():
    done, go_on = [], threading.Event()

    def slow():
        go_on.wait()
        done.append(1)

    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as writer:
        writer.submit(slow)
        go_on.set()
        raise KeyboardInterrupt
    assert done == [1]
