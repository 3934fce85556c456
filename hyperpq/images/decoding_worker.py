"""A process that decodes images for another one, which started it: see `decoding_processes`.

It is given the end of a socket and a file that both processes map. A request is a line of JSON with
the images to read and where their pixels belong; the answer is a line, too. Before an image is
decoded that takes much memory, the process asks and waits. It ends when the socket is closed, and
so with the other process, however that ends.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperpq.images.decoding import Decoding, Failure, ReadImage, read_image
from hyperpq.images.decoding_budget import LARGE, return_freed_memory
from hyperpq.utils.shared_blocks import MappedBlocks
from hyperpq.utils.worker_process import Lines, serving

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
    with serving(socket_number) as lines:
        _Server(lines, MappedBlocks(file_number)).run()


class _Server:
    def __init__(self, lines: Lines, blocks: MappedBlocks) -> None:
        self._lines, self._blocks = lines, blocks

    def run(self) -> None:
        self._lines.send({"ready": True})
        while (request := self._lines.receive()) is not None:
            self._answer(request)

    def _answer(self, request: dict[str, Any]) -> None:
        decoding = Decoding.from_dict(request["decoding"])
        pixels = self._blocks.block(*request["block"]).array(tuple(request["shape"]))
        outcomes: list[list[Any]] = []
        for number, path in request["images"]:
            outcome = self._read(number, path.encode("latin-1"), pixels[:, number], decoding)
            outcomes.append(
                [outcome.reason, outcome.is_unavailable]
                if isinstance(outcome, Failure)
                else list(outcome)
            )
        self._lines.send({"outcomes": outcomes})

    def _read(
        self, number: int, path: bytes, pixels: np.ndarray, decoding: Decoding
    ) -> ReadImage | Failure:
        taken = 0

        def reserve(size: int) -> None:
            nonlocal taken
            if size > max(taken, UNASKED):
                self._lines.send({"reserve": size, "image": number})
                if self._lines.receive() is None:
                    raise SystemExit  # the other process has ended
                taken = size

        outcome = read_image(path, pixels, decoding, reserve)
        if taken >= LARGE:
            return_freed_memory()
        return outcome
