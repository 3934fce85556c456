"""Threads, processes or a device that decode batches of images, and which of them a call gets."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images.decoding import Decoding, Failure, ReadImage, read_image
from hyperpq.images.decoding_budget import DecodingBudget
from hyperpq.images.decoding_processes import DecodingProcesses
from hyperpq.images.device_decoding import DeviceDecoding, need_nvimagecodec
from hyperpq.images.reading_ahead import ReadingAhead
from hyperpq.images.sources import Source
from hyperpq.utils.devices import default_threads
from hyperpq.utils.shared_blocks import Block
from hyperpq.utils.worker_process import processes_possible

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.images.extract import Features, ReadOptions
    from hyperpq.progress import Phase


@runtime_checkable
class RemoteWorkers(Protocol):
    """Workers on other machines, which decode images and encode them, too."""

    def stream_groups(
        self,
        groups: Iterable[Sequence[Source]],
        backbone: Backbone,
        options: ReadOptions,
        phase: Phase | None = None,
    ) -> Generator[Features, None, None]:
        """See `hyperpq.images.extract.stream_groups`."""
        ...


WorkersLike: TypeAlias = int | str | RemoteWorkers
"""Number of workers that decode images, 0 for one per core; or ``"threads"``, ``"processes"``,
``"device"``, ``"threads:N"``, ``"processes:N"`` or ``"device:N"``. A number alone leaves the kind
open: processes read many files for a network on a GPU, threads everything else. ``"device"`` is
nvImageCodec on the device of the network, with N threads that read the files. Or
`hyperpq.distributed.RayWorkers`: what a build reads here all the same, such as pixels for
fine-tuning, it reads as with 0 then."""

Kind = Literal["auto", "threads", "processes", "device"]

# Of all decoding threads of this process. Made here, as threads that need it first at the same
# time would make several.
BUDGET = DecodingBudget()
"""Memory of all images that this process and its decoding processes have in work."""

# Processes start in half a second, in which threads read this many small images.
_MIN_FOR_PROCESSES = 1000
# Most images that a process reads for one request. Requests of single images would take the
# interpreter lock of this process as often as threads do.
_MOST_AT_ONCE = 16
# Requests for each process in the batches that are in work: with fewer, processes would wait for
# the slowest of them.
_REQUESTS_EACH = 4


@dataclass(frozen=True)
class Workers:
    """How images are decoded.

    Attributes
    ----------
    kind : {"auto", "threads", "processes", "device"}
        See `WorkersLike`.
    count : int
        Their number.
    """

    kind: Kind
    count: int

    @classmethod
    def of(cls, workers: WorkersLike) -> Workers:
        """What a user asks for.

        Raises
        ------
        InvalidInputError
            If it is something else, or processes cannot be started here.
        MissingDependencyError
            If nvImageCodec is needed and not installed.
        """
        kind, number = "auto", 0 if isinstance(workers, RemoteWorkers) else workers
        if isinstance(workers, str):
            found = re.fullmatch(
                r"(auto|threads|processes|device)(?::([0-9]{1,6}))?|([0-9]{1,6})", workers
            )
            if found is not None:
                kind, number = found[1] or "auto", int(found[2] or found[3] or 0)
        if type(number) is not int or number < 0:
            raise InvalidInputError(
                f"workers is {workers!r}; expected a number, 0 for one per core, or 'threads', "
                "'processes', 'device', 'threads:N', 'processes:N' or 'device:N'."
            )
        if kind == "processes" and not processes_possible():
            raise InvalidInputError(
                f"workers is {workers!r}, but this system or interpreter cannot start decoding "
                "processes; give 'threads'."
            )
        if kind == "device":
            need_nvimagecodec()
        return cls(cast(Kind, kind), number or default_threads())

    def uses_processes(self, n_files: int, device: str) -> bool:
        """Whether processes decode this many files for a network on a device."""
        if self.kind in ("threads", "processes"):
            return self.kind == "processes"
        return device != "cpu" and n_files >= _MIN_FOR_PROCESSES and processes_possible()


class DecodedBatch(Protocol):
    """A batch that is being decoded."""

    def result(self) -> tuple[NDArray[np.uint8], list[ReadImage | Failure]]:
        """Pixels (1 + V, n, S, S, 3) and what became of each image; waits for them."""
        ...

    def release(self) -> None:
        """Say that the pixels are not needed any more."""
        ...


class Decoder(Protocol):
    """Decodes batches of images."""

    def submit(self, sources: Sequence[Source]) -> DecodedBatch:
        """Begin to decode a batch."""
        ...

    def close(self) -> None:
        """End the threads or processes; batches that have not begun are dropped."""
        ...


def make_decoder(
    workers: Workers,
    decoding: Decoding,
    *,
    batch_size: int,
    ahead: int,
    n_files: int,
    device: str,
) -> Decoder:
    """What decodes for a network on a device.

    Parameters
    ----------
    workers : Workers
        What the user asked for.
    decoding : Decoding
        What becomes of the images. Views that are made of the decoded files need threads or
        processes, also where a device is asked for.
    batch_size : int
        Images in a batch at most.
    ahead : int
        Batches that are decoded at a time.
    n_files : int
        About how many images there are in all.
    device : str
        ``cpu`` or ``cuda:N``.
    """
    makes_views = decoding.augmentation is not None and not decoding.views_later
    if workers.kind == "device" and not makes_views:
        return ReadingAhead(DeviceDecoding(device, workers.count, decoding, BUDGET))
    if workers.uses_processes(n_files, device):
        return ReadingAhead(_Processes(workers.count, decoding, batch_size, ahead))
    return ReadingAhead(_Threads(workers.count, decoding))


def _shape(decoding: Decoding, n: int) -> tuple[int, ...]:
    side = decoding.preprocessing.size
    return decoding.passes, n, side, side, 3


class _Threads:
    def __init__(self, count: int, decoding: Decoding) -> None:
        self._decoding = decoding
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def submit(self, sources: Sequence[Source]) -> DecodedBatch:
        pixels = np.empty(_shape(self._decoding, len(sources)), np.uint8)
        return _ThreadBatch(
            pixels,
            [
                self._pool.submit(self._read, source, pixels[:, i])
                for i, source in enumerate(sources)
            ],
        )

    def _read(self, source: Source, pixels: NDArray[np.uint8]) -> ReadImage | Failure:
        with BUDGET.claim() as reserve:
            return read_image(source, pixels, self._decoding, reserve)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _ThreadBatch:
    pixels: NDArray[np.uint8]
    outcomes: list[Future[ReadImage | Failure]]

    def result(self) -> tuple[NDArray[np.uint8], list[ReadImage | Failure]]:
        return self.pixels, [future.result() for future in self.outcomes]

    def release(self) -> None:
        pass


class _Processes:
    def __init__(self, count: int, decoding: Decoding, batch_size: int, ahead: int) -> None:
        self._decoding, self._batch_size = decoding, batch_size
        each = ahead * batch_size // (count * _REQUESTS_EACH)
        self._at_once = min(_MOST_AT_ONCE, max(1, each))
        self._processes = DecodingProcesses(count, BUDGET)

    def submit(self, sources: Sequence[Source]) -> DecodedBatch:
        # A block of the whole size, so that the last batch of a group takes one that is there.
        size = int(np.prod(_shape(self._decoding, self._batch_size)))
        block = self._processes.blocks.take(size)
        shape = _shape(self._decoding, len(sources))
        numbered = list(enumerate(sources))
        futures = [
            self._processes.submit(numbered[i : i + self._at_once], block, shape, self._decoding)
            for i in range(0, len(sources), self._at_once)
        ]
        return _ProcessBatch(self._processes, block, shape, futures)

    def close(self) -> None:
        self._processes.close()


@dataclass(frozen=True)
class _ProcessBatch:
    processes: DecodingProcesses
    block: Block
    shape: tuple[int, ...]
    outcomes: list[Future[list[ReadImage | Failure]]]

    def result(self) -> tuple[NDArray[np.uint8], list[ReadImage | Failure]]:
        outcomes = [outcome for future in self.outcomes for outcome in future.result()]
        return self.block.array(self.shape), outcomes

    def release(self) -> None:
        self.processes.blocks.give_back(self.block)
