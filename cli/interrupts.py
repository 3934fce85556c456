"""Ctrl-C that isn't lost while modules load."""

from __future__ import annotations

import signal
from types import FrameType

# Seconds until a held-back interrupt is tried again.
_AGAIN = 0.05


def hold_back_while_loading() -> None:
    """From now on Ctrl-C waits until no module is being loaded.

    Compiled modules clear whatever is raised while they load (Cython's do, in their
    registration with `collections.abc`; numpy.random is one): the interrupt would be lost, and
    the command go on. Where Ctrl-C is ignored or timers are missing, all stays as it is.
    """
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default and hasattr(signal, "setitimer"):
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        at = at.f_back
    signal.default_int_handler(number, frame)
