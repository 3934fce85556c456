"""Ctrl-C, SIGTERM and SIGHUP: one line and an exit code, not lost while modules are loaded."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# Seconds until a delayed interrupt is tried again.
_DELAY = 0.05
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)

_received = signal.SIGINT
_is_done = False


def handle_signals() -> None:
    """From now on a signal that asks to stop raises `KeyboardInterrupt`.

    It is delayed while a module is being loaded. Compiled modules discard exceptions that are
    raised meanwhile (those of Cython do, when they register with `collections.abc`; numpy.random is
    one): the interrupt would be lost, and the command would continue. Python itself discards those
    that are raised in the callback of a weak reference and in ``__del__``; they are raised again a
    moment later. A signal that is ignored, as SIGHUP is below nohup, stays ignored.
    """
    handled = [number for number in _SIGNALS if signal.getsignal(number) in _UNTOUCHED]
    for number in (*handled, signal.SIGALRM):
        signal.signal(number, _interrupt)
    sys.unraisablehook = _raise_again


def release_signals() -> None:
    """From now on a signal ends the program at once: its work is done."""
    global _is_done
    # One that came before, or was delayed, has no effect any more.
    _is_done = True
    for number in _SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def exit_code() -> int:
    """Exit code after an interrupt, as a shell gives it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _received


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _received
    if _is_done:
        return
    if number != signal.SIGALRM:
        _received = signal.Signals(number)
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            _delay()
            return
        at = at.f_back
    raise KeyboardInterrupt


def _delay() -> None:
    signal.setitimer(signal.ITIMER_REAL, _DELAY)


def _raise_again(discarded: UnraisableHookArgs) -> None:
    """Called by Python with an exception that it discards, which it would print otherwise."""
    if issubclass(discarded.exc_type, KeyboardInterrupt):
        _delay()
    else:
        sys.__unraisablehook__(discarded)
