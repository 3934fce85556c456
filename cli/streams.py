"""Standard streams that may be closed, full, broken pipes or terminals that are gone.

A command is started with any of the three descriptors closed, or with an output that refuses to
take more. What it was asked to print is then an error that names the stream, and what it says
beside that (progress, warnings) is lost without an error.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from hyperpq.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_missing: set[int] = set()


def prepare() -> None:
    """Make the standard streams usable; called once, before anything else opens a file.

    A descriptor that is closed is opened on ``/dev/null``, as git does. Otherwise the next file
    that is opened would get its number: a shard could be descriptor 1, and a library that prints
    would write into it. Both outputs are UTF-8 whatever the locale is.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, as those below it are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            _missing.add(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        raw = _Stdout(1, "w", closefd=False)
        sys.stdout = _text(raw, "surrogateescape", line_buffering=raw.isatty())
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Stderr(2, "w", closefd=False), "backslashreplace", line_buffering=True)


def stdout_is_missing() -> bool:
    """Whether the program was started without stdout."""
    return 1 in _missing


def stdout_is_terminal() -> bool:
    """Whether people read stdout, so that names are written without control characters."""
    return sys.stdout.isatty()


def check_stdin() -> None:
    """Raise `InvalidInputError` if the program was started without stdin."""
    if 0 in _missing:
        raise InvalidInputError("stdin is closed; expected names of images on it.")


def is_end_of_pipe(error: OSError) -> bool:
    """Whether the reader of stdout has stopped, which is no error: ``hyperpq query ... | head``."""
    return error.errno == errno.EPIPE and error.filename == _Stdout.label


class _Output(io.FileIO):
    """A descriptor; a pipe that does not block is waited for."""

    def write(self, data: Buffer, /) -> int:
        while (written := super().write(data)) is None:
            select.select([], [self.fileno()], [])
        return written


class _Stdout(_Output):
    """Standard output, whose errors name it."""

    label = "stdout"

    def write(self, data: Buffer, /) -> int:
        try:
            if 1 in _missing:
                raise OSError(errno.EBADF, "it is closed")
            return super().write(data)
        except OSError as error:
            # What is left in the buffers is flushed when the program ends, and would fail again.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            _missing.discard(1)
            raise OSError(error.errno, error.strerror, self.label) from None


class _Stderr(_Output):
    """Standard error: where nothing can be said, the work goes on."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _text(raw: io.RawIOBase, errors: str, *, line_buffering: bool) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=line_buffering
    )
