"""`BoundedProtocol`: connections of uvicorn that neither a slow nor an endless client can hold."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Largest head of a request; uvicorn has no limit where httptools parses."""
# How long a closed connection may take to send what is left, which is little.
_LINGER_SECONDS = 5.0


class BoundedProtocol(HttpToolsProtocol):
    """A connection with limits on the head of a request, and on how long an answer is not read.

    uvicorn limits neither: a client that sends a byte now and then holds a connection, and one that
    reads nothing holds the answer.
    """

    head_seconds = 10.0
    write_seconds = 30.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes, self._is_in_head = 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first request is expected."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: of a head, or of the body after it."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        is_head = self._head_timer is not None
        super().data_received(data)
        if is_head and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """The first byte of a head has come."""
        self._is_in_head = True
        super().on_message_begin()

    def on_response_complete(self) -> None:
        """A request is answered; a part of the next head may be here already."""
        super().on_response_complete()
        if self._is_in_head and self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client reads less than there is to send."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read on."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing has come for too long."""
        super().timeout_keep_alive_handler()
        self._write_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_seconds, self.timeout_keep_alive_handler)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None
