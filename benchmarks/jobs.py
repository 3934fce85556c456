"""Measurements side by side, each in a process of its own."""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Task, Facts = TypeVar("Task"), TypeVar("Facts")


def measured(
    measure: Callable[[Task], Facts], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Facts]]:
    """Each task with what ``measure`` says of it, as soon as it is known.

    Parameters
    ----------
    measure : callable
        Of a module, or a `functools.partial` of one: other processes have to find it.
    tasks : sequence
        With one job they are done in this order.
    jobs : int
        Processes at a time, which share the cores; with 1 all is done in this one.
    """
    if jobs == 1:
        for task in tasks:
            yield task, measure(task)
        return
    # Read by the numeric libraries of a new process while they load.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context) as pool:
            asked = {pool.submit(measure, task): task for task in tasks}
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
