"""Measurements side by side, each in a process of its own."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

Task, Facts = TypeVar("Task"), TypeVar("Facts")
_opened: Any = None


def measured(
    measure: Callable[[Any, Task], Facts],
    tasks: Sequence[Task],
    open_data: Callable[[], Any],
    jobs: int,
) -> Iterator[tuple[Task, Facts]]:
    """Each task with what ``measure(open_data(), task)`` says of it, as soon as it is known.

    Parameters
    ----------
    measure, open_data : callable
        Of a module, or a `functools.partial` of one: other processes have to find them.
    tasks : sequence
        With one job they are done in this order.
    jobs : int
        Processes at a time, which share the cores; with 1 all is done in this one. Data are opened
        once a process.
    """
    if jobs == 1:
        opened = open_data()
        for task in tasks:
            yield task, measure(opened, task)
        return
    # Read by the numeric libraries of a new process while they load.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context, _open, (open_data,)) as pool:
            asked = {pool.submit(_measure, measure, task): task for task in tasks}
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def count(text: str) -> int:
    """Parser of an option that is a number of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} isn't a whole number, 1 or more")
    return int(text)


def _open(open_data: Callable[[], Any]) -> None:
    global _opened
    _opened = open_data()


def _measure(measure: Callable[[Any, Task], Facts], task: Task) -> Facts:
    return measure(_opened, task)
