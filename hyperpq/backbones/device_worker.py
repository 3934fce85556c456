"""A process that runs a network on one device for another process: see `device_processes`.

It is given the end of a socket and two files that both processes map: one with the weights that
fine-tuning has changed, which it reads once, and one with pixels and features. A request is a line
of JSON that names a block with the pixels of a batch; the features are written to the same block,
and the answer is a line, too. It ends when the socket is closed, and so with the other process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

import numpy as np

from hyperpq.backbones.base import Backbone
from hyperpq.backbones.device_processes import NetworkFacts, describe_error
from hyperpq.backbones.registry import load_backbone
from hyperpq.backbones.tuned import TunedWeights
from hyperpq.errors import HyperPQError
from hyperpq.utils.shared_blocks import MappedBlocks
from hyperpq.utils.worker_process import Lines, serving

_Begun = tuple[dict[str, Any], Callable[[], np.ndarray]]


def serve(socket_number: int, blocks_number: int, weights_number: int) -> None:
    """Load the network of the first request, and answer the others until there are no more.

    Parameters
    ----------
    socket_number, blocks_number, weights_number : int
        Descriptors of the socket and of the files that are mapped.
    """
    with serving(socket_number) as lines:
        request = lines.receive()
        if request is None:
            return
        try:
            network = _load(request, weights_number)
        except HyperPQError as error:
            lines.send({"error": describe_error(error)})
            return
        lines.send(asdict(NetworkFacts.of(network)))
        _Server(lines, network, MappedBlocks(blocks_number)).run()


def _load(request: dict[str, Any], weights_number: int) -> Backbone:
    tuned = None
    if request["tuned"] is not None:
        offset, size, length = request["tuned"]
        block = MappedBlocks(weights_number).block(offset, size)
        tuned = TunedWeights.from_bytes(block.array((length,)).tobytes())
    # Its memory is free once all processes have read it.
    os.close(weights_number)
    return load_backbone(
        request["name"],
        device=request["device"],
        threads=request["threads"],
        tuned=tuned,
        precision=request["precision"],
    )


class _Server:
    """Begins batches on one thread and waits for features on another, as a GPU does both."""

    def __init__(self, lines: Lines, network: Backbone, blocks: MappedBlocks) -> None:
        self._lines, self._network, self._blocks = lines, network, blocks
        self._begun: SimpleQueue[_Begun | None] = SimpleQueue()

    def run(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(self._answer_all)
            try:
                while (request := self._lines.receive()) is not None:
                    self._begun.put((request, self._begin(request)))
            finally:
                self._begun.put(None)
            answered.result()

    def _begin(self, request: dict[str, Any]) -> Callable[[], np.ndarray]:
        shape = tuple(request["pixels"])
        start = 4 * int(np.prod(request["features"]))
        pixels = self._bytes(request, start + int(np.prod(shape)))[start:].reshape(shape)
        try:
            return self._network.begin(pixels).features
        except HyperPQError as error:
            failed = error

            def fail() -> np.ndarray:
                raise failed

            return fail

    def _answer_all(self) -> None:
        try:
            while (begun := self._begun.get()) is not None:
                self._lines.send(self._answer(*begun))
        finally:
            # Where this has failed, the other thread would wait for requests forever.
            self._lines.end()

    def _answer(
        self, request: dict[str, Any], features: Callable[[], np.ndarray]
    ) -> dict[str, Any]:
        answer = {"number": request["number"], "features": request["features"]}
        try:
            values = features()
        except HyperPQError as error:
            return {"number": request["number"], "error": describe_error(error)}
        place = self._bytes(request, values.nbytes).view(np.float32).reshape(values.shape)
        place[...] = values
        return answer

    def _bytes(self, request: dict[str, Any], count: int) -> np.ndarray:
        return self._blocks.block(*request["block"]).array((count,))
