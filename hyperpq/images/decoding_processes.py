"""`DecodingProcesses`: images are decoded by processes, which no interpreter lock holds up.

Small images take so little time in the decoder that threads wait for each other in the interpreter:
on 16 cores, 16 threads read 1,990 images of 32 pixels a second, no more than 2 threads do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from hyperpq.errors import HyperPQError
from hyperpq.images.decoding import Decoding, Failure, ReadImage, read_image
from hyperpq.images.decoding_budget import DecodingBudget
from hyperpq.images.sources import Source
from hyperpq.utils.shared_blocks import Block, SharedBlocks
from hyperpq.utils.worker_process import WorkerDied, WorkerProcess


class DecodingProcesses:
    """A number of processes, each with a thread here that gives it work.

    A process is started when there is work for it. One that dies is replaced and what it had is
    done again, image by image; an image that ends two processes is a failure.

    Parameters
    ----------
    count : int
        Number of processes.
    budget : DecodingBudget
        Memory that they share with the threads of this process.
    """

    def __init__(self, count: int, budget: DecodingBudget) -> None:
        self.count = count
        self.blocks = SharedBlocks()
        self._budget = budget
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._own = threading.local()
        self._workers: set[_Worker] = set()

    def submit(
        self,
        sources: Sequence[tuple[int, Source]],
        block: Block,
        shape: tuple[int, ...],
        decoding: Decoding,
    ) -> Future[list[ReadImage | Failure]]:
        """Read some images into a block, in one process; outcomes in their order.

        Parameters
        ----------
        sources : sequence of (int, Source)
            Images with their place n in the block. Those that are no paths are read in this
            process.
        block : Block
            One of ``blocks``.
        shape : tuple of int
            That of the block, (1 + V, N, S, S, 3).
        decoding : Decoding
            What becomes of the images.
        """
        return self._threads.submit(self._read, sources, block, shape, decoding)

    def close(self) -> None:
        """End the processes, after what they are doing now."""
        self._threads.shutdown(cancel_futures=True)
        for worker in list(self._workers):
            worker.close()
        self._workers.clear()
        self.blocks.close()

    def _read(
        self,
        sources: Sequence[tuple[int, Source]],
        block: Block,
        shape: tuple[int, ...],
        decoding: Decoding,
    ) -> list[ReadImage | Failure]:
        files = [(number, source) for number, source in sources if isinstance(source, bytes)]
        read = dict(
            zip(
                (number for number, _ in files),
                self._read_files(files, block, shape, decoding),
                strict=True,
            )
        )
        for number, source in sources:
            if number not in read:
                with self._budget.claim() as reserve:
                    pixels = block.array(shape)[:, number]
                    read[number] = read_image(source, pixels, decoding, reserve)
        return [read[number] for number, _ in sources]

    def _read_files(
        self,
        files: Sequence[tuple[int, bytes]],
        block: Block,
        shape: tuple[int, ...],
        decoding: Decoding,
    ) -> list[ReadImage | Failure]:
        if not files:
            return []
        # The process has the directory of its start.
        here = os.getcwdb()
        request = {
            "block": (block.offset, block.size),
            "shape": shape,
            "decoding": decoding.to_dict(),
            "images": [(n, os.path.join(here, path).decode("latin-1")) for n, path in files],
        }
        try:
            return self._worker().read(request, self._budget)
        except WorkerDied as died:
            self._discard()
            if len(files) > 1:
                return [self._read_files([file], block, shape, decoding)[0] for file in files]
            first = died
        try:
            return self._worker().read(request, self._budget)
        except WorkerDied as died:
            self._discard()
            # It may have been the memory of the machine, and not the image.
            return [Failure(f"decoding it ended two processes ({first}, {died})", True)]

    def _worker(self) -> _Worker:
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is None:
            worker = self._own.worker = _Worker(self.blocks.file_number)
            self._workers.add(worker)
        return worker

    def _discard(self) -> None:
        worker, self._own.worker = self._own.worker, None
        self._workers.discard(worker)
        worker.close()


class _Worker:
    """One process, used by one thread."""

    def __init__(self, file_number: int) -> None:
        # It multiplies nothing.
        alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            self._process = WorkerProcess("hyperpq.images.decoding_worker", [file_number], alone)
        except OSError as error:
            raise HyperPQError(
                f"a process that decodes images cannot be started ({error.strerror}); close other "
                "programs, or decode in threads: workers='threads'."
            ) from error
        try:
            self._process.receive()
        except WorkerDied as died:
            self.close()
            raise HyperPQError(
                f"a process that decodes images did not start ({died}); see above for its error, "
                "or decode in threads: workers='threads'."
            ) from None

    def read(self, request: dict[str, Any], budget: DecodingBudget) -> list[ReadImage | Failure]:
        """Outcomes of a request, in the order of its images."""
        self._process.send(request)
        with ExitStack() as claims:
            image, reserve = None, None
            while "outcomes" not in (answer := self._process.receive()):
                if reserve is None or answer["image"] != image:
                    # What the image before it took is free.
                    claims.close()
                    image, reserve = answer["image"], claims.enter_context(budget.claim())
                reserve(answer["reserve"])
                self._process.send({})
        return [
            ReadImage(*outcome) if len(outcome) == len(ReadImage._fields) else Failure(*outcome)
            for outcome in answer["outcomes"]
        ]

    def close(self) -> None:
        """End the process."""
        self._process.close()
