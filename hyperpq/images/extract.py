"""From image files to features: images are decoded while the network encodes others.

Threads or processes decode a few batches ahead of the network, so that the network does not wait
while a core is free. Batches are consecutive parts of the list of files, so that the same list
gives the same features bit for bit with any number of threads or processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.backbones.base import BATCH_SIZE
from hyperpq.images.decoders import DecodedBatch, RemoteWorkers, Workers, WorkersLike, make_decoder
from hyperpq.images.decoding import Decoding, Failure, ReadImage
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.images.sources import Source

if TYPE_CHECKING:
    from hyperpq.backbones.base import Backbone, PendingFeatures
    from hyperpq.datasets.augment import Augmentation
    from hyperpq.progress import Phase

# Batches that are decoded while the network encodes another.
_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class ReadOptions:
    """How images are read.

    Attributes
    ----------
    workers : int or str
        How images are decoded, see `WorkersLike`.
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
    views_on_device : bool
        Whether views are made on the device of the network, and not by the workers.
    """

    workers: WorkersLike = 0
    max_megapixels: float = MAX_MEGAPIXELS
    augmentation: Augmentation | None = None
    n_views: int = 0
    seed: int = 0
    hashes: bool = False
    views_on_device: bool = False

    def __post_init__(self) -> None:
        Workers.of(self.workers)


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


class _Part(NamedTuple):
    """Consecutive images of a group, at most as many as a batch has."""

    group: int
    start: int
    sources: Sequence[Source]
    is_last: bool


def stream_groups(
    groups: Iterable[Sequence[Source]],
    backbone: Backbone,
    options: ReadOptions,
    n_files: int,
    phase: Phase | None = None,
) -> Generator[Features, None, None]:
    """Encode groups of images one after the other; the next is decoded before one is done.

    Parameters
    ----------
    groups : iterable of sequences of bytes, EncodedImage or PIL.Image.Image
        Paths of image files, contents of such files, and images that Pillow has opened or made. A
        group is asked for when decoding reaches it.
    backbone : Backbone
        The network.
    options : ReadOptions
        How to read and augment the images.
    n_files : int
        About how many images there are in all.
    phase : Phase, optional
        Where to report the number of images that are done.

    Yields
    ------
    Features
        Of one group; ``rows`` and ``skipped`` are positions in it.
    """
    if isinstance(options.workers, RemoteWorkers):
        yield from options.workers.stream_groups(groups, backbone, options, phase)
        return
    batches: list[Features] = []
    for part, features in _stream(groups, backbone, options, n_files):
        batches.append(features)
        if phase is not None:
            phase.advance(len(part.sources))
        if part.is_last:
            yield Features.concatenate(batches)
            batches = []


def stream_features(
    sources: Sequence[Source], backbone: Backbone, options: ReadOptions
) -> Iterator[Features]:
    """Encode images batch by batch, in order.

    Parameters
    ----------
    sources, backbone, options
        See `stream_groups`.

    Yields
    ------
    Features
        Of the files of a batch; ``rows`` and ``skipped`` are positions in the whole list.
    """
    for part, features in _stream([sources], backbone, options, len(sources)):
        if part.sources:
            yield features


def _stream(
    groups: Iterable[Sequence[Source]], backbone: Backbone, options: ReadOptions, n_files: int
) -> Iterator[tuple[_Part, Features]]:
    """The batches of each group with their features; an empty group has one empty batch."""
    decoding = Decoding(
        backbone.preprocessing,
        options.max_megapixels,
        options.augmentation,
        options.n_views,
        options.seed,
        options.hashes,
        views_later=options.views_on_device and options.augmentation is not None,
    )
    passes = 1 + options.n_views if decoding.views_later else decoding.passes
    # With views, a large batch of a GPU has fewer images, so that no more pixels are in memory.
    size = max(min(BATCH_SIZE, backbone.batch_size), backbone.batch_size // passes)
    # Each device takes one while others are decoded.
    ahead = max(_BATCHES_AHEAD, len(backbone.devices) + 2)
    workers = Workers.of(options.workers)
    decoder = make_decoder(
        workers,
        decoding,
        batch_size=size,
        ahead=ahead,
        n_files=n_files,
        device=backbone.device,
    )
    parts = _parts(groups, size)
    decoded: deque[tuple[_Part, DecodedBatch]] = deque()
    encoded: deque[_Encoded] = deque()

    def submit() -> None:
        part = next(parts, None)
        if part is not None:
            decoded.append((part, decoder.submit(part.sources)))

    try:
        for _ in range(ahead):
            submit()
        while decoded:
            part, batch = decoded.popleft()
            pixels, outcomes = batch.result()
            submit()
            encoded.append(_Encoded.begin(part, pixels, outcomes, backbone, decoding))
            batch.release()
            if len(encoded) > backbone.batches_in_flight:
                yield encoded.popleft().result()
        while encoded:
            yield encoded.popleft().result()
    finally:
        decoder.close()


def _parts(groups: Iterable[Sequence[Source]], size: int) -> Iterator[_Part]:
    for number, group in enumerate(groups):
        for start in range(0, max(1, len(group)), size):
            last = start + size >= len(group)
            yield _Part(number, start, group[start : start + size], last)


@dataclass(frozen=True)
class _Encoded:
    """A batch that the network encodes."""

    part: _Part
    outcomes: list[ReadImage | Failure]
    passes: int
    d: int
    pending: list[PendingFeatures]

    @classmethod
    def begin(
        cls,
        part: _Part,
        pixels: NDArray[np.uint8],
        outcomes: list[ReadImage | Failure],
        backbone: Backbone,
        decoding: Decoding,
    ) -> _Encoded:
        """Give the pixels of a batch to the network, which may still be busy when this returns."""
        good = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, ReadImage)]
        if len(good) < len(outcomes):
            pixels = pixels[:, good]
        pending = []
        if good and decoding.views_later:
            pixels = cls._with_views(part, pixels, good, outcomes, backbone, decoding)
        passes, n = pixels.shape[:2]
        if n:
            # On a CPU each pass is a batch of its own; a GPU takes several at once.
            step = max(1, backbone.batch_size // n) if backbone.batch_size > BATCH_SIZE else 1
            for p in range(0, passes, step):
                group = pixels[p : p + step]
                pending.append(backbone.begin(group.reshape(-1, *group.shape[2:])))
        elif decoding.views_later:
            passes = 1 + decoding.n_views
        return cls(part, outcomes, passes, backbone.d, pending)

    @staticmethod
    def _with_views(
        part: _Part,
        pixels: NDArray[np.uint8],
        good: list[int],
        outcomes: list[ReadImage | Failure],
        backbone: Backbone,
        decoding: Decoding,
    ) -> NDArray[np.uint8]:
        """Pixels (1 + V, n, S, S, 3) of own squares (0) and of those of whole images (1)."""
        from hyperpq.datasets.device_views import DeviceViews
        from hyperpq.images.device_passes import view_passes

        strength = decoding.augmentation
        assert strength is not None  # there are views
        views = DeviceViews(strength, decoding.preprocessing.size, decoding.seed)
        sources = [part.sources[i] for i in good]
        read = [outcome for outcome in outcomes if isinstance(outcome, ReadImage)]
        made = view_passes(pixels[1], sources, read, views, decoding.n_views, backbone.device)
        return np.stack([pixels[0], *made])

    def result(self) -> tuple[_Part, Features]:
        """The batch and its features, once the network has them."""
        start = self.part.start
        images = [i for i, outcome in enumerate(self.outcomes) if isinstance(outcome, ReadImage)]
        read = [outcome for outcome in self.outcomes if isinstance(outcome, ReadImage)]
        failures = [
            (start + i, outcome)
            for i, outcome in enumerate(self.outcomes)
            if isinstance(outcome, Failure)
        ]
        features = np.empty((self.passes, len(images), self.d), np.float32)
        if images:
            parts = [pending.features() for pending in self.pending]
            features[...] = np.concatenate(parts).reshape(features.shape)
        return self.part, Features(
            np.array([start + i for i in images], np.int64),
            features[0],
            features[1:],
            np.array([image[:2] for image in read], np.int32).reshape(-1, 2),
            np.array([image.hash for image in read], np.int64),
            [(row, failure.reason) for row, failure in failures],
            {row for row, failure in failures if failure.is_unavailable},
        )


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
    (features,) = stream_groups([sources], backbone, options, len(sources), phase)
    return features
