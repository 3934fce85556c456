"""The images that a network is fine-tuned on, as squares of pixels: kept in a file, or read again.

Fine-tuning asks for each image dozens of times. So every image is decoded once, into a file that is
memory-mapped: the system keeps it in memory as long as there is room. A set of images that is too
large for the disk is decoded again each time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import DatasetError
from hyperpq.images.decoders import Decoder, Workers, make_decoder
from hyperpq.images.decoding import Decoding, Failure
from hyperpq.images.extract import ReadOptions
from hyperpq.utils.files import atomic_write, fsync_folder, os_errors

if TYPE_CHECKING:
    from hyperpq.datasets.preprocessing import Preprocessing
    from hyperpq.progress import Phase

log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 16 << 30
"""Largest file of pixels: 114,000 images of 224 x 224. It takes at most half of what is free on the
disk, too."""
# Images that are decoded and noted at once; a kill loses at most these.
_BATCH = 256
_PIXELS, _NOTE = "pixels.bin", "pixels.json"


class TrainingPixels:
    """Squares of pixels of image files, as `training.TrainingImages` asks for them.

    Parameters
    ----------
    paths : sequence of bytes
        The image files.
    preprocessing : Preprocessing
        How an image becomes a square.
    folder : Path
        Where the file of pixels may be, which `remove` deletes.
    options : ReadOptions
        How images are read.
    device : str
        Device of the network, by which threads or processes are chosen to decode.

    Attributes
    ----------
    is_cached : bool
        Whether the pixels are kept in a file; otherwise every image is decoded again each time.
    readable : ndarray, shape (n,), int64
        Positions in ``paths`` of the images that could be read, once `prepare` was called; rows of
        `pixels` are positions in it.
    """

    def __init__(
        self,
        paths: Sequence[bytes],
        preprocessing: Preprocessing,
        folder: Path,
        options: ReadOptions,
        device: str = "cpu",
    ) -> None:
        side = preprocessing.size
        self._paths, self._folder = paths, folder
        self._shape = (len(paths), side, side, 3)
        self._decoding = Decoding(preprocessing, options.max_megapixels)
        self._workers, self._device = Workers.of(options.workers), device
        self._decoder: Decoder | None = None
        self._cache: NDArray[np.uint8] | None = None
        self.readable = np.empty(0, np.int64)
        noted = self._noted()
        self.is_cached = self._fits() if noted is None else bool(noted["cached"])

    def _fits(self) -> bool:
        """Whether there is room for the pixels."""
        free = shutil.disk_usage(self._folder).free
        return int(np.prod(self._shape)) <= min(MAX_CACHE_BYTES, free // 2)

    def prepare(self, phase: Phase) -> None:
        """Decode every image once: to keep its pixels, and to find out which cannot be read.

        What an interrupted call has done is not repeated.

        Raises
        ------
        StoreError
            If the system refuses to write the file.
        """
        noted = self._noted() or {"done": 0, "failed": []}
        done, failed = noted["done"], set(noted["failed"])
        phase.advance(done)
        if not self.is_cached and done == 0:
            log.info(
                "the pixels of %d images would take more than %d bytes or half of the free disk, "
                "so the files are read again in each epoch.",
                len(self._paths),
                MAX_CACHE_BYTES,
            )
        path = self._folder / _PIXELS
        with os_errors("write", path):
            if self.is_cached:
                size = int(np.prod(self._shape))
                with open(path, "ab") as file:
                    file.truncate(size)
                    # A full disk is found out about before the work; without it, by a signal.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, size)
                self._cache = np.memmap(path, np.uint8, "r+", shape=self._shape)
            for start in range(done, len(self._paths), _BATCH):
                rows = np.arange(start, min(start + _BATCH, len(self._paths)))
                pixels, outcomes = self._decode(rows)
                if self._cache is not None:
                    self._cache[rows] = pixels
                    self._cache.flush()  # type: ignore[attr-defined]
                failed |= {start + i for i, one in enumerate(outcomes) if isinstance(one, Failure)}
                noted = {
                    "done": int(rows[-1]) + 1,
                    "failed": sorted(failed),
                    "cached": self.is_cached,
                }
                atomic_write(self._folder / _NOTE, json.dumps(noted).encode())
                phase.advance(len(rows))
        self.readable = np.setdiff1d(np.arange(len(self._paths)), sorted(failed))

    def _noted(self) -> dict[str, Any] | None:
        """How many images were decoded before, which of them cannot be read, and where they are."""
        note = self._folder / _NOTE
        noted: dict[str, Any] | None = json.loads(note.read_text()) if note.exists() else None
        return noted

    def _decode(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[object]]:
        """Squares of some images, as a copy, and what became of each."""
        if self._decoder is None:
            self._decoder = make_decoder(
                self._workers,
                self._decoding,
                batch_size=_BATCH,
                ahead=1,
                n_files=len(self._paths),
                device=self._device,
            )
        squares = np.empty((len(rows), *self._shape[1:]), np.uint8)
        outcomes: list[object] = []
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            batch = self._decoder.submit([self._paths[row] for row in some])
            pixels, found = batch.result()
            squares[start : start + len(some)] = pixels[0]
            outcomes += found
            batch.release()
        return squares, outcomes

    def __len__(self) -> int:
        """Number of images that can be read."""
        return len(self.readable)

    def pixels(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Squares (b, S, S, 3), uint8, of some of the images that can be read.

        Raises
        ------
        DatasetError
            If the file of one cannot be read any more.
        """
        positions = self.readable[rows]
        if self._cache is not None:
            return np.asarray(self._cache[positions])
        squares, outcomes = self._decode(positions)
        for position, outcome in zip(positions.tolist(), outcomes, strict=True):
            if isinstance(outcome, Failure):
                name = os.fsdecode(self._paths[position])
                raise DatasetError(
                    f"{name} cannot be read any more ({outcome.reason}); expected the images of "
                    "the training to stay; check that the disk is mounted, and continue with "
                    "--resume."
                )
        return squares

    def close(self) -> None:
        """End the threads or processes, and let go of the file."""
        self._cache = None
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def remove(self) -> None:
        """`close`, and delete the file of pixels."""
        self.close()
        for name in (_NOTE, _PIXELS):
            (self._folder / name).unlink(missing_ok=True)
            # In this order, also after a power cut: pixels that are not noted are made again.
            fsync_folder(self._folder)
