"""The device and the number of threads that a computation runs on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator

from hyperpq.errors import InvalidInputError
from hyperpq.utils.cgroups import cpu_quota
from hyperpq.utils.imports import need

# Quotas of control groups are read once: they seldom change while a process runs.
_cpu_quota = functools.cache(cpu_quota)


def usable_cores() -> int:
    """Number of cores that this process may use, at least 1.

    These are the cores that the system schedules it on (affinity), and no more than the CPU time
    that its control groups allow (the limit of a container), rounded up. In Python 3.13 and newer
    ``PYTHON_CPU_COUNT`` and ``-X cpu_count`` replace the affinity.
    """
    quota = _cpu_quota()
    return _scheduled_cores() if quota is None else min(_scheduled_cores(), quota)


def default_threads() -> int:
    """Number of threads that a computation has unless the user gives one.

    It is `usable_cores`, up to the first number of ``OMP_NUM_THREADS`` where that variable is set.
    Other values of the variable are ignored.
    """
    asked = _asked_threads(os.environ.get("OMP_NUM_THREADS", ""))
    return usable_cores() if asked is None else min(asked, usable_cores())


@functools.cache
def _asked_threads(text: str) -> int | None:
    first = text.partition(",")[0].strip()
    return int(first) if re.fullmatch(r"0*[1-9][0-9]{0,8}", first, re.ASCII) else None


def limit_torch_threads() -> None:
    """Lower the number of threads of PyTorch to `usable_cores` if it is greater.

    PyTorch does not know the quota of a container, and more threads than that wait for each other.
    """
    import torch

    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def resolve_device(device: str) -> str:
    """Return an available device for what a user wrote.

    Parameters
    ----------
    device : str
        ``auto`` (the first GPU if there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    str
        ``cpu`` or ``cuda:N``. PyTorch is only imported when a GPU may be there.

    Raises
    ------
    InvalidInputError
        If the name is another one, or there is no such GPU.
    MissingDependencyError
        If a GPU is asked for and PyTorch is not installed.
    """
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if found is None:
        raise InvalidInputError(
            f"device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'."
        )
    if device == "cpu" or (device == "auto" and not _cuda_possible()):
        return "cpu"
    need("torch", "gpu", "computations on a GPU")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda:0" if count else "cpu"
    number = int(found[1] or 0)
    if number < count:
        return f"cuda:{number}"
    if count:
        raise InvalidInputError(
            f"device is {device!r}, but there are only {count} GPU(s); expected 'cuda:0' to "
            f"'cuda:{count - 1}' or 'cpu'."
        )
    why = "finds no usable GPU" if torch.version.cuda or torch.version.hip else "has no GPU support"
    raise InvalidInputError(
        f"device is {device!r}, but PyTorch {torch.__version__} {why}; give 'cpu', or install a "
        "CUDA build of PyTorch and its driver."
    )


def resolve_devices(device: str) -> tuple[str, ...]:
    """Return the available devices for what a user wrote, at least one.

    Parameters
    ----------
    device : str
        As for `resolve_device`; several of them with commas between, such as ``cuda:0,cuda:1``; or
        ``cuda:all`` for every GPU.

    Raises
    ------
    InvalidInputError, MissingDependencyError
        As `resolve_device` does.
    """
    if device == "cuda:all":
        resolve_device("cuda")
        import torch

        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    names = device.split(",") if isinstance(device, str) else [device]
    return tuple(resolve_device(name) for name in names)


def first_device(device: str) -> str:
    """The first of several devices, for what runs on one; a single one as it was written."""
    return device if is_one_device(device) else resolve_devices(device)[0]


def is_one_device(device: str) -> bool:
    """Whether a user wrote one device and not several."""
    return not isinstance(device, str) or (device != "cuda:all" and "," not in device)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Run PyTorch on one thread, as a context or a decorator.

    This is for many small operations. Several threads gain little on them, and they wait for each
    other by spinning where another process keeps a core busy: on two cores, one of them busy,
    training took four times as long with two threads as with one. Results also become independent
    of the number of cores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _scheduled_cores() -> int:
    """Number of cores that the system may run this process on."""
    counted: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
    if counted is not None:
        return counted() or 1
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _cuda_possible() -> bool:
    """Whether asking PyTorch is worth its import, over a second on a machine without a GPU."""
    if "torch" in sys.modules:
        return True
    try:
        build = importlib.metadata.version("torch").partition("+")[2]
    except importlib.metadata.PackageNotFoundError:
        return False
    if build == "cpu" or sys.platform == "darwin":
        return False
    if build.startswith("rocm"):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
