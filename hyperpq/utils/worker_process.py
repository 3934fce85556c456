"""`WorkerProcess`: a new interpreter that works for this process and ends with it.

It imports one module of hyperpq and nothing of the caller, so it neither copies the state of CUDA
or of threads nor runs the script of the caller again. Both sides send lines of JSON over a socket,
and share what is larger as memory (`shared_blocks`). Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

# The directory of `sys.path` from which this process imports may be missing in a new interpreter,
# which would import from the working directory in its place. So that is first, before any import.
_PROGRAM = """\
import sys
_, module, numbers, *sys.path = sys.argv
import importlib
importlib.import_module(module).serve(*map(int, numbers.split(",")))
"""
# Seconds that a process has to end by itself.
_PATIENCE = 5.0
_PIECE = 1 << 16


def processes_possible() -> bool:
    """Whether this system and this interpreter can start such processes."""
    return os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)


class Lines:
    """Messages over a socket, each a line of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._read = connection, b""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other side has ended.
        """
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message, for which this waits; None if the other side has ended."""
        while b"\n" not in self._read:
            try:
                piece = self._socket.recv(_PIECE)
            except OSError:
                return None
            if not piece:
                return None
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def end(self) -> None:
        """Let both sides know that no more messages come."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(socket_number: int) -> Iterator[Lines]:
    """The messages from and to the process that has started this one, in its ``serve``."""
    # The other process may end without having read the last answer.
    with socket.socket(fileno=socket_number) as connection, suppress(ConnectionError):
        # A process that this one starts would keep the connection open.
        connection.set_inheritable(False)
        yield Lines(connection)


class WorkerDied(Exception):  # noqa: N818
    """A process has ended; the text says how."""


class WorkerProcess:
    """A process that runs ``serve`` of a module until its connection is closed.

    The connection is closed when this process ends, however that happens. A forked child of this
    process has no part in it.

    Parameters
    ----------
    module : str
        Its function ``serve`` is called with the descriptor of the socket (see `serving`) and the
        files.
    files : sequence of int, optional
        Descriptors that the process is given.
    environment : mapping of str to str, optional
        Variables of the process that differ from those of this one.

    Raises
    ------
    OSError
        If the system refuses to start it.
    """

    def __init__(
        self,
        module: str,
        files: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        here, there = socket.socketpair()
        with there, ExitStack() as unless_started:
            unless_started.callback(here.close)
            numbers = (there.fileno(), *files)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _PROGRAM, module, ",".join(map(str, numbers))),
                    # The import system passes over anything else.
                    *(path for path in sys.path if isinstance(path, str)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=numbers,
                # Ctrl-C is for this process, which then ends the others.
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
            unless_started.pop_all()
        self._owner, self._socket, self._lines = os.getpid(), here, Lines(here)
        _PROCESSES.add(self)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message.

        Raises
        ------
        WorkerDied
            If the process has ended.
        """
        try:
            self._lines.send(message)
        except OSError:
            raise self._death() from None

    def receive(self) -> dict[str, Any]:
        """The next message, for which this waits.

        Raises
        ------
        WorkerDied
            If the process has ended.
        """
        message = self._lines.receive()
        if message is None:
            raise self._death()
        return message

    def disconnect(self) -> None:
        """Tell the process to end after what it is doing now; `close` waits for that."""
        if self._owner == os.getpid():
            self._lines.end()

    def close(self) -> None:
        """End the process: some seconds after it was told, if it does not end by itself."""
        self.disconnect()
        self._socket.close()
        if self._owner != os.getpid():
            return
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _death(self) -> WorkerDied:
        if self._owner != os.getpid():
            return WorkerDied("it belongs to the process from which this one was forked")
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return WorkerDied("it closed its connection")
        return WorkerDied(f"signal {-code}" if code < 0 else f"exit code {code}")

    def _abandon(self) -> None:
        """Close the copy of the socket that a forked child has, which would keep it open."""
        number = self._socket.detach()
        if number >= 0:
            os.close(number)


_PROCESSES: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


def _abandon_all() -> None:
    for process in list(_PROCESSES):
        process._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
