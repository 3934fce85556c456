"""Parts of a computation on several threads."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest
import torch

from hyperpq.utils import side_by_side as module
from hyperpq.utils.devices import single_thread
from hyperpq.utils.side_by_side import MOST_THREADS, side_by_side


@pytest.fixture(params=[1, 2, 9])
def cores(request, monkeypatch):
    monkeypatch.setattr(module, "default_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_every_part_is_called_once(cores, count):
    called = []
    with single_thread():
        side_by_side([partial(called.append, i) for i in range(count)])
    assert sorted(called) == list(range(count))


def test_parts_run_at_the_same_time(cores):
    """As many as there are cores, up to a limit; each waits here until the others have begun."""
    together = min(cores, MOST_THREADS)
    barrier = threading.Barrier(together)
    with single_thread():
        side_by_side([partial(barrier.wait, 60)] * together)
    assert not barrier.broken


def test_where_pytorch_has_threads_parts_run_in_this_one(cores):
    threads, before = set(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        side_by_side([lambda: threads.add(threading.get_ident())] * 20)
    finally:
        torch.set_num_threads(before)
    assert threads == {threading.get_ident()}


def test_helpers_have_pytorch_on_one_thread(cores):
    barrier, found = threading.Barrier(min(cores, MOST_THREADS)), []

    def part():
        found.append(torch.get_num_threads())
        barrier.wait(60)

    with single_thread():
        side_by_side([part] * barrier.parties)
    assert set(found) == {1}


def test_an_error_of_any_thread_is_raised_when_all_have_ended(cores):
    barrier, running = threading.Barrier(min(cores, MOST_THREADS)), []

    def part(number):
        running.append(number)
        barrier.wait(60)
        running.remove(number)
        if number == barrier.parties - 1:
            raise ValueError("the last one")

    with single_thread(), pytest.raises(ValueError, match="the last one"):
        side_by_side([partial(part, number) for number in range(barrier.parties)])
    assert not running


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_forked_child_has_threads_of_its_own(cores):
    test_parts_run_at_the_same_time(cores)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)
            test_parts_run_at_the_same_time(cores)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
