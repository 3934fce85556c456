"""Images to features: decoding in threads beside the network.

Decoding runs ahead of the network by a few batches, so that the network never waits while a core is
free. Batches are consecutive pieces of the list of files: the same list gives the same features bit
for bit, whatever the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.base import BATCH_SIZE
from hyperpq.errors import ImageError
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.datasets.augment import Augmentation

# Batches being decoded while the network works on another.
_AHEAD = 3


@dataclass(frozen=True)
class Reader:
    """How images are read.

    Attributes
    ----------
    workers : int
        Decoding threads; 0 takes one a core.
    max_megapixels : float
        Larger images are skipped before they are decoded.
    augmentation : Augmentation, optional
        Strength of the views.
    n_views : int
        V, views made of each image beside the image itself.
    seed : int
        Of the views.
    """

    workers: int = 0
    max_megapixels: float = 200.0
    augmentation: Augmentation | None = None
    n_views: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        as_count(self.workers, "workers", 0)


@dataclass
class Features:
    """Features of a list of files.

    Attributes
    ----------
    rows : ndarray, shape (n,), int64
        Position in the list of each file that could be read.
    plain : ndarray, shape (n, d), float32
        Their features.
    views : ndarray, shape (V, n, d), float32
        Features of their views.
    sizes : ndarray, shape (n, 2), int32
        Width and height of the images, upright.
    skipped : list of (int, str)
        Position and reason of the others.
    """

    rows: NDArray[np.int64]
    plain: NDArray[np.float32]
    views: NDArray[np.float32]
    sizes: NDArray[np.int32]
    skipped: list[tuple[int, str]] = field(default_factory=list)


def _read(
    path: bytes, pixels: NDArray[np.uint8], backbone: Backbone, reader: Reader
) -> tuple[int, int] | str:
    """Fill ``pixels`` (1 + V, S, S, 3) with an image and its views.

    Returns width and height of the image, or the reason why it can't be read.
    """
    from hyperpq.datasets.augment import make_view, view_rng
    from hyperpq.datasets.decode import full_size, open_image, to_pixels

    prep = backbone.preprocessing
    try:
        image = open_image(path, max_megapixels=reader.max_megapixels, shrink_to=prep.decode_side)
    except ImageError as error:
        return str(error)
    to_pixels(image, prep, out=pixels[0])
    if reader.augmentation is not None:
        # A view is named by its file's name, so that a folder can move.
        key = os.path.basename(path)
        for view in range(reader.n_views):
            rng = view_rng(reader.seed, key, view)
            pixels[1 + view] = make_view(image, reader.augmentation, prep.size, rng)
    return full_size(image)


def stream_features(
    paths: Sequence[bytes], backbone: Backbone, reader: Reader
) -> Iterator[Features]:
    """Encode images batch by batch, in order.

    Parameters
    ----------
    paths : sequence of bytes
        Files.
    backbone : Backbone
        The network.
    reader : Reader
        How to read and augment.

    Yields
    ------
    Features
        Of up to `BATCH_SIZE` files; rows count through the whole list.
    """
    side = backbone.preprocessing.size
    passes = 1 + (reader.n_views if reader.augmentation is not None else 0)
    workers = reader.workers or os.cpu_count() or 1
    waiting: deque[tuple[int, NDArray[np.uint8], list[Future[tuple[int, int] | str]]]] = deque()
    starts = iter(range(0, len(paths), BATCH_SIZE))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def submit() -> None:
        start = next(starts, None)
        if start is not None:
            batch = paths[start : start + BATCH_SIZE]
            pixels = np.empty((passes, len(batch), side, side, 3), np.uint8)
            futures = [
                pool.submit(_read, path, pixels[:, i], backbone, reader)
                for i, path in enumerate(batch)
            ]
            waiting.append((start, pixels, futures))

    try:
        for _ in range(_AHEAD):
            submit()
        while waiting:
            start, pixels, futures = waiting.popleft()
            answers = [future.result() for future in futures]
            submit()
            sizes = {i: size for i, size in enumerate(answers) if not isinstance(size, str)}
            reasons = [(start + i, why) for i, why in enumerate(answers) if isinstance(why, str)]
            good = list(sizes)
            if len(good) < len(answers):
                pixels = pixels[:, good]
            features = np.empty((passes, len(good), backbone.d), np.float32)
            if good:
                for p in range(passes):
                    features[p] = backbone(pixels[p])
            yield Features(
                np.array([start + i for i in good], np.int64),
                features[0],
                features[1:],
                np.array([*sizes.values()], np.int32).reshape(-1, 2),
                reasons,
            )
    finally:
        pool.shutdown(cancel_futures=True)


def extract_features(
    paths: Sequence[bytes], backbone: Backbone, reader: Reader, phase: Any | None = None
) -> Features:
    """All of `stream_features` in one; ``phase`` is a `progress.Phase` that counts files."""
    batches = []
    for batch in stream_features(paths, backbone, reader):
        batches.append(batch)
        if phase is not None:
            phase.advance(len(batch.rows) + len(batch.skipped))
    if not batches:
        empty = np.empty((1 + reader.n_views, 0, backbone.d), np.float32)
        return Features(np.empty(0, np.int64), empty[0], empty[1:], np.empty((0, 2), np.int32))
    return Features(
        np.concatenate([b.rows for b in batches]),
        np.concatenate([b.plain for b in batches]),
        np.concatenate([b.views for b in batches], axis=1),
        np.concatenate([b.sizes for b in batches]),
        [pair for b in batches for pair in b.skipped],
    )
