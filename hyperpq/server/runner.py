"""`serve`: runs the server until a signal ends it."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator

import uvicorn

from hyperpq.errors import StoreError
from hyperpq.server.app import create_app
from hyperpq.server.protocol import BoundedProtocol
from hyperpq.server.served_index import ServedIndex
from hyperpq.server.settings import ServerSettings

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEEP_ALIVE_SECONDS = 15


def serve(served: ServedIndex, settings: ServerSettings, on_started: Callable[[str], None]) -> None:
    """Answer requests until SIGINT, SIGTERM or SIGHUP; running requests are still answered.

    Parameters
    ----------
    served : ServedIndex
        The index.
    settings : ServerSettings
        Where to listen, for whom, and how much to take on.
    on_started : callable
        Called with the address of the server when it listens.

    Raises
    ------
    StoreError
        If the system does not let it listen there.
    BackboneError
        If the network of the index cannot be loaded.
    """
    served.current.load()
    limits = settings.limits

    class Protocol(BoundedProtocol):
        head_seconds = limits.head_seconds
        write_seconds = limits.write_seconds

    # What clients send is counted by the metrics, and cannot fill a log.
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config = uvicorn.Config(
        create_app(served, settings),
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(limits.stop_seconds)),
    )
    with _listening(settings) as listener:
        url = settings.url(listener.getsockname()[1])
        server = _Server(config, lambda: on_started(url))
        try:
            server.run([listener])
        finally:
            gc.unfreeze()
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """A server that says when it listens, and for which a signal is no error."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started
        self.failure: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Modules, routes and the index stay: the collector need not look at them again.
        gc.collect()
        gc.freeze()
        try:
            self._on_started()
        except Exception as error:
            # Raised here, it would end the event loop before the server has stopped.
            self.failure, self.should_exit = error, True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """While it runs, a signal stops it; a second SIGINT does so at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _listening(settings: ServerSettings) -> Generator[socket.socket, None, None]:
    family, address = settings.addresses()[0]
    try:
        listener = socket.create_server((address, settings.port), family=family, backlog=512)
    except OSError as error:
        raise StoreError(
            f"{settings.url(settings.port)} cannot be listened on: {error.strerror}; choose "
            "another --port, or 0 for a free one."
        ) from None
    with listener:
        yield listener
