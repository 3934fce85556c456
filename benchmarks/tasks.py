"""Run independent measurements one after another, or side by side in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from hyperpq.utils.devices import usable_cores

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")


def run_tasks(
    measure: Callable[[Task], Outcome], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Outcome]]:
    """Measure every task and yield it with its outcome as soon as that is known.

    Parameters
    ----------
    measure : callable
        A function of a module or a `functools.partial` of one, which other processes can import.
    tasks : sequence
        With one job they run in this order.
    jobs : int
        Number of processes that run at a time and share the cores. With 1, everything runs in
        this process.
    """
    if jobs == 1:
        for task in tasks:
            yield task, measure(task)
        return
    # The numeric libraries of a new process read this variable when they are loaded.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cores() // jobs))
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context) as pool:
            pending = {pool.submit(measure, task): task for task in tasks}
            try:
                for done in as_completed(pending):
                    yield pending[done], done.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
