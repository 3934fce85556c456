"""From image files to features: threads decode images while the network encodes others.

Decoding is a few batches ahead of the network, so that the network does not wait while a core is
free. Batches are consecutive parts of the list of files, so that the same list gives the same
features bit for bit with any number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.base import BATCH_SIZE
from hyperpq.errors import ImageError, ImageUnavailableError
from hyperpq.images.decoding_budget import DecodingBudget
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.images.sources import EncodedImage, Source, path_of
from hyperpq.utils.devices import default_threads
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone
    from hyperpq.datasets.augment import Augmentation
    from hyperpq.progress import Phase

# Batches that are decoded while the network encodes another.
_BATCHES_AHEAD = 3

# Of all decoding threads of this process. Made here, as threads that need it first at the same
# time would make several.
_BUDGET = DecodingBudget()
_READING = ForkSafeLock()


@dataclass(frozen=True)
class ReadOptions:
    """How images are read.

    Attributes
    ----------
    workers : int
        Number of decoding threads; 0 means one per core.
    max_megapixels : float
        Larger images are skipped before they are decoded.
    augmentation : Augmentation, optional
        Strength of the augmented views; without it there are none.
    n_views : int
        Number V of augmented views of each image.
    seed : int
        Seed of the views.
    hashes : bool
        Whether to hash the content of the files, too.
    """

    workers: int = 0
    max_megapixels: float = MAX_MEGAPIXELS
    augmentation: Augmentation | None = None
    n_views: int = 0
    seed: int = 0
    hashes: bool = False

    def __post_init__(self) -> None:
        as_count(self.workers, "workers", 0)


@dataclass
class Features:
    """Features of the images in a list of files.

    Attributes
    ----------
    rows : ndarray, shape (n,), int64
        Positions in the list of the files that could be read.
    plain : ndarray, shape (n, d), float32
        Features of these images.
    views : ndarray, shape (V, n, d), float32
        Features of their augmented views.
    sizes : ndarray, shape (n, 2), int32
        Width and height of the upright images.
    skipped : list of (int, str)
        Position and reason of each file that could not be read.
    hashes : ndarray, shape (n,), int64
        `content_hash` of the files; 0 where it was not asked for, and of what is no file.
    unavailable : set of int
        Those of the skipped positions whose files may be good images at another time, see
        `ImageUnavailableError`.
    """

    rows: NDArray[np.int64]
    plain: NDArray[np.float32]
    views: NDArray[np.float32]
    sizes: NDArray[np.int32]
    hashes: NDArray[np.int64]
    skipped: list[tuple[int, str]] = field(default_factory=list)
    unavailable: set[int] = field(default_factory=set)

    @classmethod
    def empty(cls, d: int, n_views: int = 0) -> Features:
        """Features of no files, of width ``d``."""
        features = np.empty((1 + n_views, 0, d), np.float32)
        none = np.empty(0, np.int64)
        return cls(none, features[0], features[1:], np.empty((0, 2), np.int32), none)

    @classmethod
    def concatenate(cls, batches: Sequence[Features]) -> Features:
        """Features of several batches, at least one, in their order; all have as many views."""
        return cls(
            np.concatenate([batch.rows for batch in batches]),
            np.concatenate([batch.plain for batch in batches]),
            np.concatenate([batch.views for batch in batches], axis=1),
            np.concatenate([batch.sizes for batch in batches]),
            np.concatenate([batch.hashes for batch in batches]),
            [pair for batch in batches for pair in batch.skipped],
            set().union(*(batch.unavailable for batch in batches)),
        )


class _Image(NamedTuple):
    """Width, height and hash of an image that has been read."""

    width: int
    height: int
    hash: int


@dataclass(frozen=True)
class _Failure:
    """Why an image cannot be read, without the error itself, whose frames would keep the image."""

    reason: str
    is_unavailable: bool


def _read(
    source: Source, pixels: NDArray[np.uint8], backbone: Backbone, options: ReadOptions
) -> _Image | _Failure:
    """Fill ``pixels`` (1 + V, S, S, 3) with an image and its views; or say why this fails."""
    from hyperpq.datasets.augment import make_view, view_rng
    from hyperpq.datasets.content_hash import content_hash
    from hyperpq.datasets.decode import full_size, open_image, upright_rgb
    from hyperpq.datasets.preprocessing import to_pixels

    prep = backbone.preprocessing
    with _BUDGET.claim() as reserve:
        try:
            if isinstance(source, bytes | EncodedImage):
                image = open_image(
                    source if isinstance(source, bytes) else source.read(),
                    max_megapixels=options.max_megapixels,
                    shrink_to=prep.decode_side,
                    reserve=reserve,
                )
            else:
                # Pillow may still have to read it, and the same image may be there twice.
                with _READING:
                    image = upright_rgb(
                        source,
                        max_megapixels=options.max_megapixels,
                        shrink_to=prep.decode_side,
                    )
        except ImageError as error:
            return _Failure(str(error), isinstance(error, ImageUnavailableError))
        to_pixels(image, prep, out=pixels[0])
        if options.augmentation is not None:
            # Views depend on the name of the file only, so that a folder can move.
            key = os.path.basename(path_of(source))
            for view in range(options.n_views):
                rng = view_rng(options.seed, key, view)
                pixels[1 + view] = make_view(image, options.augmentation, prep.size, rng)
        value = content_hash(source) if options.hashes and isinstance(source, bytes) else 0
        return _Image(*full_size(image), value)


def stream_features(
    sources: Sequence[Source], backbone: Backbone, options: ReadOptions
) -> Iterator[Features]:
    """Encode images batch by batch, in order.

    Parameters
    ----------
    sources : sequence of bytes, EncodedImage or PIL.Image.Image
        Paths of image files, contents of such files, and images that Pillow has opened or made.
    backbone : Backbone
        The network.
    options : ReadOptions
        How to read and augment the images.

    Yields
    ------
    Features
        Of up to `BATCH_SIZE` files; ``rows`` and ``skipped`` are positions in the whole list.
    """
    side = backbone.preprocessing.size
    passes = 1 + (options.n_views if options.augmentation is not None else 0)
    workers = options.workers or default_threads()
    waiting: deque[tuple[int, NDArray[np.uint8], list[Future[_Image | _Failure]]]]
    waiting = deque()
    starts = iter(range(0, len(sources), BATCH_SIZE))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def submit() -> None:
        start = next(starts, None)
        if start is not None:
            batch = sources[start : start + BATCH_SIZE]
            pixels = np.empty((passes, len(batch), side, side, 3), np.uint8)
            futures = [
                pool.submit(_read, source, pixels[:, i], backbone, options)
                for i, source in enumerate(batch)
            ]
            waiting.append((start, pixels, futures))

    try:
        for _ in range(_BATCHES_AHEAD):
            submit()
        while waiting:
            start, pixels, futures = waiting.popleft()
            outcomes = [future.result() for future in futures]
            submit()
            images = {i: image for i, image in enumerate(outcomes) if isinstance(image, _Image)}
            failures = [(start + i, f) for i, f in enumerate(outcomes) if isinstance(f, _Failure)]
            good = list(images)
            if len(good) < len(outcomes):
                pixels = pixels[:, good]
            features = np.empty((passes, len(good), backbone.d), np.float32)
            if good:
                for p in range(passes):
                    features[p] = backbone(pixels[p])
            yield Features(
                np.array([start + i for i in good], np.int64),
                features[0],
                features[1:],
                np.array([image[:2] for image in images.values()], np.int32).reshape(-1, 2),
                np.array([image.hash for image in images.values()], np.int64),
                [(row, failure.reason) for row, failure in failures],
                {row for row, failure in failures if failure.is_unavailable},
            )
    finally:
        pool.shutdown(cancel_futures=True)


def extract_features(
    sources: Sequence[Source],
    backbone: Backbone,
    options: ReadOptions,
    phase: Phase | None = None,
) -> Features:
    """Encode images; the concatenation of `stream_features`.

    Parameters
    ----------
    sources, backbone, options
        See `stream_features`.
    phase : Phase, optional
        Where to report the number of files that are done.

    Returns
    -------
    Features
        Of all files.
    """
    batches = []
    for batch in stream_features(sources, backbone, options):
        batches.append(batch)
        if phase is not None:
            phase.advance(len(batch.rows) + len(batch.skipped))
    return Features.concatenate(batches) if batches else Features.empty(backbone.d, options.n_views)
