"""Ctrl-C that is not lost while modules are loaded."""

from __future__ import annotations

import signal
from types import FrameType

# Seconds until a delayed interrupt is tried again.
_DELAY = 0.05


def delay_interrupts_while_loading() -> None:
    """Delay Ctrl-C, from now on, until no module is being loaded.

    Compiled modules discard exceptions that are raised while they load (those of Cython do, when
    they register with `collections.abc`; numpy.random is one): the interrupt would be lost, and the
    command would continue. If Ctrl-C is ignored or there are no timers, nothing changes.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default and hasattr(signal, "setitimer"):
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, _DELAY)
            return
        at = at.f_back
    signal.default_int_handler(number, frame)
