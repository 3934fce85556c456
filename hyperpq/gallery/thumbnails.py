"""Small images of files: decoded in threads, a few ahead of what is written.

A file that cannot be read becomes an `Unreadable` with its reason, and never an error: a page shows
the other images all the same.
"""

from __future__ import annotations

import base64
import io
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from hyperpq.datasets.decode import full_size, open_image, upright_rgb
from hyperpq.errors import ImageError
from hyperpq.images.decoders import BUDGET
from hyperpq.images.metadata import MAX_MEGAPIXELS
from hyperpq.images.sources import EncodedImage, Source
from hyperpq.utils.devices import default_threads
from hyperpq.utils.forks import ForkSafeLock
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

DEFAULT_SIZE = 256
"""Longer side of a thumbnail, in pixels: sharp at 256 points of a screen, and about 11 kB."""
MIN_SIZE, MAX_SIZE = 16, 2048
# Pixels of thumbnails that are kept for the next query that finds their files: 512 of the default
# size, which take 6 MB.
_KEPT_PIXELS = 1 << 25
# Lossy WebP, at which no block is seen: 11 kB and 2.8 ms for a thumbnail of a photo of 256 pixels.
# The method 4 takes 5.7 ms and saves 3 %; JPEG takes .3 ms and 14 kB.
_FORMAT, _QUALITY, _METHOD = "WEBP", 80, 2
# Images that Pillow has opened read their file when they are first used.
_READING = ForkSafeLock()


@dataclass(frozen=True)
class Unreadable:
    """Why an image cannot be shown."""

    reason: str


@dataclass(frozen=True)
class Thumbnail:
    """A small image as the bytes of a file.

    Attributes
    ----------
    content : bytes
        An image file.
    width, height : int
        Its size in pixels.
    full_width, full_height : int
        The size of the image that it was made of.
    """

    content: bytes
    width: int
    height: int
    full_width: int
    full_height: int

    media_type = "image/webp"

    @classmethod
    def of(cls, image: Image.Image) -> Thumbnail:
        """A small image as `small_image` returns it."""
        file = io.BytesIO()
        image.save(file, _FORMAT, quality=_QUALITY, method=_METHOD)
        return cls(file.getvalue(), *image.size, *full_size(image))

    @property
    def data_uri(self) -> str:
        """The content as an address that holds it."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


def small_image(
    source: Source, size: int = DEFAULT_SIZE, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """An image whose longer side has at most ``size`` pixels, upright, in RGB.

    Raises
    ------
    ImageError
        If it cannot be read; the message is the reason, without the path.
    """
    from PIL import Image

    with BUDGET.claim() as reserve:
        if isinstance(source, bytes | EncodedImage):
            image = open_image(
                source if isinstance(source, bytes) else source.read(),
                max_megapixels=max_megapixels,
                shrink_to=size,
                reserve=reserve,
            )
        else:
            with _READING:
                image = upright_rgb(
                    source, max_megapixels=max_megapixels, shrink_to=size, reserve=reserve
                )
        image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """A small image whose longer side has ``size`` pixels, also if the original has fewer."""
    from PIL import Image, ImageOps

    return ImageOps.contain(image, (size, size), Image.Resampling.BICUBIC)


def as_thumbnail_size(size: object) -> int:
    """A size of thumbnails.

    Raises
    ------
    InvalidInputError
        If it is no number of pixels that is possible.
    """
    return as_count(size, "size of thumbnails", MIN_SIZE, MAX_SIZE)


class SmallImages(Generic[T]):
    """Makes something of small images, in threads and in the order of the images.

    Parameters
    ----------
    make : callable
        From a small image to what is shown of it.
    size : int
        Longer side of the small images.
    max_megapixels : float
        Larger images are unreadable.

    Notes
    -----
    It is a context manager. At most four images for each thread are in work or wait for their turn,
    however many are asked for. What was made of the last files is kept, 512 of the default size.
    """

    def __init__(
        self,
        make: Callable[[Image.Image], T],
        size: int = DEFAULT_SIZE,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self._make, self._size, self._limit = make, as_thumbnail_size(size), max_megapixels
        self._kept = max(1, _KEPT_PIXELS // self._size**2)
        threads = default_threads()
        self._ahead = 4 * threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="thumbnail")
        self._known: OrderedDict[bytes, Future[T | Unreadable]] = OrderedDict()

    def __enter__(self) -> SmallImages[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, sources: Iterable[Source]) -> Iterator[T | Unreadable]:
        """What is shown of each image, in their order."""
        waiting: deque[Future[T | Unreadable]] = deque()
        for source in sources:
            waiting.append(self._started(source))
            if len(waiting) >= self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _started(self, source: Source) -> Future[T | Unreadable]:
        if not isinstance(source, bytes):
            return self._pool.submit(self._made, source)
        if source not in self._known:
            self._known[source] = self._pool.submit(self._made, source)
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        self._known.move_to_end(source)
        return self._known[source]

    def _made(self, source: Source) -> T | Unreadable:
        try:
            return self._make(small_image(source, self._size, self._limit))
        except ImageError as error:
            return Unreadable(str(error))
