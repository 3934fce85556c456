"""A process that decodes images for another one, which started it: see `decoding_processes`.

It is given the end of a socket and a file that both processes map. A request is a line of JSON with
the images to read and where their pixels belong; the answer is a line, too. Before an image is
decoded that takes much memory, the process asks and waits. It ends when the socket is closed, and
so with the other process, however that ends.
"""

from __future__ import annotations

import json
import mmap
import socket
from contextlib import suppress
from io import BufferedRWPair
from typing import Any

import numpy as np

from hyperpq.images.decoding import Decoding, Failure, ReadImage, read_image
from hyperpq.images.decoding_budget import LARGE, return_freed_memory

UNASKED = 1 << 20
"""Bytes that an image may take in each process without being counted.

To ask takes some 50 µs, a tenth of the time of a small image. The pixels of one of 512 x 512 fit.
"""


def serve(socket_number: int, file_number: int) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    socket_number, file_number : int
        Descriptors of the socket and of the file that is mapped.
    """
    # The other process may end without having read the last answer.
    with suppress(ConnectionError), socket.socket(fileno=socket_number) as connection:
        stream = connection.makefile("rwb")
        assert isinstance(stream, BufferedRWPair)
        _Server(stream, file_number).run()


class _Server:
    def __init__(self, stream: BufferedRWPair, file_number: int) -> None:
        self._stream, self._file = stream, file_number
        self._blocks: dict[tuple[int, int], mmap.mmap] = {}

    def run(self) -> None:
        self._send({"ready": True})
        while line := self._stream.readline():
            self._answer(json.loads(line))

    def _send(self, message: dict[str, Any]) -> None:
        self._stream.write(json.dumps(message).encode() + b"\n")
        self._stream.flush()

    def _answer(self, request: dict[str, Any]) -> None:
        decoding = Decoding.from_dict(request["decoding"])
        pixels = self._pixels(request)
        outcomes: list[list[Any]] = []
        for number, path in request["images"]:
            outcome = self._read(number, path.encode("latin-1"), pixels[:, number], decoding)
            outcomes.append(
                [outcome.reason, outcome.is_unavailable]
                if isinstance(outcome, Failure)
                else list(outcome)
            )
        self._send({"outcomes": outcomes})

    def _pixels(self, request: dict[str, Any]) -> np.ndarray:
        offset, size = request["block"]
        if (offset, size) not in self._blocks:
            self._blocks[offset, size] = mmap.mmap(self._file, size, offset=offset)
        shape = tuple(request["shape"])
        flat = np.frombuffer(self._blocks[offset, size], np.uint8, int(np.prod(shape)))
        return flat.reshape(shape)

    def _read(
        self, number: int, path: bytes, pixels: np.ndarray, decoding: Decoding
    ) -> ReadImage | Failure:
        taken = 0

        def reserve(size: int) -> None:
            nonlocal taken
            if size > max(taken, UNASKED):
                self._send({"reserve": size, "image": number})
                if not self._stream.readline():
                    raise SystemExit  # the other process has ended
                taken = size

        outcome = read_image(path, pixels, decoding, reserve)
        if taken >= LARGE:
            return_freed_memory()
        return outcome
