"""`DeviceProcesses`: a network on several devices, each with a process of its own.

The processes run `device_worker`. A batch is written to memory that they share with this process,
and its features come back in the same memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from hyperpq import errors
from hyperpq.backbones.base import Precision
from hyperpq.errors import BackboneError, HyperPQError
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.shared_blocks import Block, SharedBlocks
from hyperpq.utils.worker_process import WorkerDied, WorkerProcess

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.backbones.tuned import TunedWeights


@dataclass(frozen=True)
class NetworkSettings:
    """Which network is loaded: arguments of `load_backbone` but the device."""

    name: str
    threads: int | None
    precision: Precision
    tuned: TunedWeights | None


@dataclass(frozen=True)
class NetworkFacts:
    """What a process tells of its network.

    Attributes
    ----------
    identity, base_hash, batch_size, batches_in_flight
        See `Backbone`.
    trainable_prefix : str or None
        The same; None if the network cannot be fine-tuned.
    """

    identity: dict[str, Any]
    base_hash: str
    batch_size: int
    batches_in_flight: int
    trainable_prefix: str | None

    @classmethod
    def of(cls, network: Backbone) -> NetworkFacts:
        """The facts of a network."""
        return cls(
            network.identity(),
            network.base_hash,
            network.batch_size,
            network.batches_in_flight,
            None if network.open_network is None else network.trainable_prefix,
        )


def describe_error(error: HyperPQError) -> list[str]:
    """An error as JSON, for `_error_of`."""
    return [type(error).__name__, str(error)]


def _error_of(described: Sequence[str]) -> HyperPQError:
    kind, message = described
    return cast(HyperPQError, getattr(errors, kind, BackboneError)(message))


class DeviceProcesses:
    """The processes of a network, which take batches in turn.

    The first device loads the network before the others, which then find in the caches of this
    machine what it has downloaded or made. What is wrong with the network is said once.

    Parameters
    ----------
    settings : NetworkSettings
        The network.
    devices : sequence of str
        ``cpu`` or ``cuda:N``, one for each process.

    Attributes
    ----------
    facts : list of NetworkFacts
        Of each device.
    close : callable
        Ends the processes, as happens when this object is dropped.

    Raises
    ------
    HyperPQError
        That of `load_backbone` in a process, or a `BackboneError` if the system refuses to start
        the process or has ended it.
    """

    def __init__(self, settings: NetworkSettings, devices: Sequence[str]) -> None:
        self.facts: list[NetworkFacts] = []
        self._processes: list[_DeviceProcess] = []
        self._turn = count()
        try:
            with closing(SharedBlocks()) as weights:
                self._blocks = SharedBlocks()
                self.close = weakref.finalize(self, _close, self._processes, self._blocks)
                try:
                    self._start(settings, devices, weights)
                except BaseException:
                    self.close()
                    raise
        except HyperPQError:  # some are errors of the system, too
            raise
        except OSError as error:
            raise BackboneError(
                f"backbone {settings.name!r} cannot be loaded on {','.join(devices)}, each with a "
                f"process of its own ({error.strerror}); close other programs, or give one device."
            ) from error

    def _start(
        self, settings: NetworkSettings, devices: Sequence[str], weights: SharedBlocks
    ) -> None:
        place = _shared(settings.tuned, weights)
        for group in (slice(1), slice(1, None)):
            for device in devices[group]:
                process = _DeviceProcess(settings, device, self._blocks, weights, place)
                self._processes.append(process)
            self.facts += [process.ready() for process in self._processes[group]]

    @property
    def batches_in_flight(self) -> int:
        """Batches that all processes together take before features of the first are taken."""
        return sum(process.most for process in self._processes) - 1

    def begin(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Give a batch to the next device; the result waits for its features."""
        begun = self._processes[next(self._turn) % len(self._processes)].begin(pixels)

        def features() -> NDArray[np.float32]:
            # Until then the processes must live, whoever else has dropped them.
            _ = self
            return begun()

        return features


def _close(processes: Sequence[_DeviceProcess], blocks: SharedBlocks) -> None:
    for process in processes:
        process.disconnect()
    for process in processes:
        process.close()
    blocks.close()


def _shared(tuned: TunedWeights | None, blocks: SharedBlocks) -> list[int] | None:
    """Place and length of changed weights, written into a block."""
    if tuned is None:
        return None
    data = np.frombuffer(tuned.to_bytes(), np.uint8)
    block = blocks.take(len(data))
    block.array(data.shape)[:] = data
    return [block.offset, block.size, len(data)]


class _Pending:
    """Features that a process computes, once they are there, or its error as JSON.

    An error would refer to what has raised it, and so keep the process.
    """

    outcome: NDArray[np.float32] | list[str] | None = None


class _DeviceProcess:
    """One process. Any thread may use it."""

    def __init__(
        self,
        settings: NetworkSettings,
        device: str,
        blocks: SharedBlocks,
        weights: SharedBlocks,
        place: list[int] | None,
    ) -> None:
        self._name, self._device, self._blocks = settings.name, device, blocks
        self.most, self._d = 1, 0
        # Batches that it has, by their numbers; nobody may want their features any more.
        self._begun: dict[int, tuple[Block, weakref.ref[_Pending]]] = {}
        self._numbers = count()
        self._sending, self._receiving = ForkSafeLock(), ForkSafeLock()
        self._process = WorkerProcess(
            "hyperpq.backbones.device_worker", [blocks.file_number, weights.file_number]
        )
        self._send(
            {
                "name": settings.name,
                "device": device,
                "threads": settings.threads,
                "precision": settings.precision,
                "tuned": place,
            }
        )

    def ready(self) -> NetworkFacts:
        """Wait until the network is loaded."""
        answer = self._receive()
        if "error" in answer:
            raise _error_of(answer["error"])
        facts = NetworkFacts(**answer)
        self._d = int(facts.identity["d"])
        # While it computes a batch it has the next.
        self.most = max(1, facts.batches_in_flight) + 1
        return facts

    def begin(self, pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Give it a batch, once it has not too many; the result waits for the features."""
        # More messages than a socket holds would make both sides wait.
        self._receive_until(lambda: len(self._begun) < self.most)
        shape = len(pixels), self._d
        start = 4 * shape[0] * shape[1]
        try:
            block = self._blocks.take(start + pixels.nbytes)
        except OSError as error:
            raise BackboneError(
                f"backbone {self._name!r} needs {start + pixels.nbytes:,} bytes of memory that it "
                f"shares with the process of {self._device}, and there are none "
                f"({error.strerror}); give it fewer images at once, or free memory."
            ) from error
        block.array((start + pixels.nbytes,))[start:] = pixels.reshape(-1)
        pending = _Pending()
        with self._sending:
            number = next(self._numbers)
            self._begun[number] = block, weakref.ref(pending)
            try:
                self._send(
                    {
                        "number": number,
                        "block": [block.offset, block.size],
                        "features": shape,
                        "pixels": pixels.shape,
                    }
                )
            except BaseException:
                del self._begun[number]
                raise

        def features() -> NDArray[np.float32]:
            self._receive_until(lambda: pending.outcome is not None)
            if isinstance(pending.outcome, list):
                raise _error_of(pending.outcome)
            assert pending.outcome is not None
            return pending.outcome

        return features

    def disconnect(self) -> None:
        """Tell it to end."""
        self._process.disconnect()

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _receive_until(self, done: Callable[[], bool]) -> None:
        while not done():
            with self._receiving:
                # Another thread may have received it meanwhile.
                if not done():
                    self._receive_one()

    def _receive_one(self) -> None:
        """Receive features of a batch, whoever waits for them."""
        answer = self._receive()
        if answer["number"] not in self._begun:
            return  # an interrupt came when it was sent
        block, waiting = self._begun.pop(answer["number"])
        pending = waiting()
        if pending is not None and "error" in answer:
            pending.outcome = answer["error"]
        elif pending is not None:
            n, d = answer["features"]
            pending.outcome = block.array((4 * n * d,)).view(np.float32).reshape(n, d).copy()
        self._blocks.give_back(block)

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._process.send(message)
        except WorkerDied as died:
            raise self._ended(died) from None

    def _receive(self) -> dict[str, Any]:
        try:
            return self._process.receive()
        except WorkerDied as died:
            raise self._ended(died) from None

    def _ended(self, died: WorkerDied) -> BackboneError:
        return BackboneError(
            f"the process of backbone {self._name!r} on device {self._device!r} has ended "
            f"({died}); look above for its error, or free memory if the system has ended it, and "
            "load the backbone again."
        )
