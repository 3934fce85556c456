"""`examine`: every image of an index is read once: its hashes, its size, and when it was taken."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.content_hash import content_hash
from hyperpq.datasets.decode import full_size, open_image
from hyperpq.datasets.decode_errors import reason
from hyperpq.datasets.file_source import file_status
from hyperpq.duplicates.evidence import Evidence, sharpness
from hyperpq.duplicates.hashes import HASH_BYTES, mirrored_hash, perceptual_hash
from hyperpq.duplicates.taken import time_taken
from hyperpq.duplicates.work_file import ImageFacts, WorkFile, image_key
from hyperpq.errors import ImageError, ImageUnavailableError
from hyperpq.images.decoders import BUDGET
from hyperpq.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

    from hyperpq.index.reader import IndexView

READ_SIDE = 512
"""An image is decoded no smaller than this, where its format can be decoded smaller."""
# Images between two commits to the work file.
_BATCH = 256


@dataclass(frozen=True)
class Examined:
    """The images that can be read, in the order of their ids.

    Attributes
    ----------
    ids : ndarray, shape (n,), int64
        Ascending.
    keys : ndarray, shape (n, 16), uint8
        Their keys in the work file.
    hashes, mirrored_hashes : ndarray, shape (n, 8), uint8
        Perceptual hashes.
    skipped : dict of bytes to str
        Path and reason of each image that cannot be read.
    """

    ids: NDArray[np.int64]
    keys: NDArray[np.uint8]
    hashes: NDArray[np.uint8]
    mirrored_hashes: NDArray[np.uint8]
    skipped: dict[bytes, str]

    def __len__(self) -> int:
        return len(self.ids)

    def key(self, row: int) -> bytes:
        """The key of an image."""
        return self.keys[row].tobytes()

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ids, in their shape; -1 for an id that is not among the images."""
        if not len(self.ids):
            return np.full(ids.shape, -1)
        rows = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)


def read_small(path: bytes, max_megapixels: float) -> Image.Image:
    """An upright RGB image of a file, which may be decoded smaller than it is.

    Raises
    ------
    ImageError
        If it cannot be read; the message is the reason, without the path.
    """
    with BUDGET.claim() as reserve:
        return open_image(path, max_megapixels=max_megapixels, shrink_to=READ_SIDE, reserve=reserve)


def read_evidence(path: bytes, max_megapixels: float) -> Evidence | None:
    """The evidence of a file; None if it cannot be read any more."""
    try:
        return Evidence.of(read_small(path, max_megapixels))
    except ImageError:
        return None


def examine(
    view: IndexView,
    ids: NDArray[np.int64],
    work: WorkFile,
    pool: Executor,
    max_megapixels: float,
    progress: Progress,
) -> Examined:
    """Read the images of an index that the work file does not know as they are now.

    Parameters
    ----------
    view : IndexView
        The index.
    ids : ndarray, shape (n,), int64
        Ascending ids of images.
    work : WorkFile
        What is known already, and where the rest is kept.
    pool : Executor
        Its threads read images.
    max_megapixels : float
        Larger images are skipped.
    progress : Progress
        Where to report.
    """
    n = len(ids)
    keys, is_read = np.zeros((n, 16), np.uint8), np.zeros(n, bool)
    hashes, mirrored = (np.zeros((n, HASH_BYTES), np.uint8) for _ in range(2))
    skipped: dict[bytes, str] = {}
    with progress.phase("read", n) as phase:
        for start in range(0, n, _BATCH):
            paths = view.paths_of(ids[start : start + _BATCH])
            states = [_state(path) for path in paths]
            found = _facts(paths, states, work, pool, max_megapixels)
            for place, (path, state) in enumerate(zip(paths, states, strict=True)):
                fact = found[place]
                if isinstance(state, str) or fact.error is not None:
                    skipped[path] = state if isinstance(state, str) else str(fact.error)
                    continue
                row = start + place
                is_read[row] = True
                keys[row] = np.frombuffer(image_key(path, *state), np.uint8)
                hashes[row] = np.frombuffer(fact.hash, np.uint8)
                mirrored[row] = np.frombuffer(fact.mirrored_hash, np.uint8)
            phase.advance(len(paths))
    return Examined(ids[is_read], keys[is_read], hashes[is_read], mirrored[is_read], skipped)


def _state(path: bytes) -> tuple[int, int] | str:
    """Size and time of a file, or why it has none."""
    try:
        file = file_status(path)
    except OSError as error:
        return reason(error)
    return file.size, file.mtime_ns


def _facts(
    paths: Sequence[bytes],
    states: Sequence[tuple[int, int] | str],
    work: WorkFile,
    pool: Executor,
    max_megapixels: float,
) -> list[ImageFacts]:
    """Facts of some files, from the work file or read now."""
    keys = [
        b"" if isinstance(state, str) else image_key(path, *state)
        for path, state in zip(paths, states, strict=True)
    ]
    known = work.images([key for key in keys if key])
    new = {
        key: (path, state)
        for key, path, state in zip(keys, paths, states, strict=True)
        if key not in known and not isinstance(state, str)
    }
    read = dict(
        zip(
            new,
            pool.map(lambda one: _read(one[0], one[1], max_megapixels), new.values()),
            strict=True,
        )
    )
    # What cannot be read now may be readable another time.
    work.add_images({key: fact for key, (fact, is_final) in read.items() if is_final})
    known |= {key: fact for key, (fact, _) in read.items()}
    nothing = ImageFacts(0, 0)
    return [known.get(key, nothing) for key in keys]


def _read(path: bytes, state: tuple[int, int], max_megapixels: float) -> tuple[ImageFacts, bool]:
    """Facts of a file, and whether they hold as long as the file does not change."""
    facts = ImageFacts(*state)
    try:
        image = read_small(path, max_megapixels)
    except ImageError as error:
        return replace(facts, error=str(error)), not isinstance(error, ImageUnavailableError)
    width, height = full_size(image)
    facts = ImageFacts(
        *state,
        perceptual_hash(image).tobytes(),
        mirrored_hash(image).tobytes(),
        content_hash(path),
        width,
        height,
        time_taken(path),
        sharpness(image),
    )
    if _state(path) != state:
        return replace(facts, error="it was changed while it was read"), False
    return facts, True
