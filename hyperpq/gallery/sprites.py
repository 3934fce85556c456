"""`SpriteSheets`: many small images in few image files, each in a square of its own."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hyperpq.gallery.thumbnails import SmallImages, Thumbnail, Unreadable
from hyperpq.images.metadata import MAX_MEGAPIXELS

if TYPE_CHECKING:
    from PIL import Image

    from hyperpq.images.sources import Source
    from hyperpq.progress import Phase

SIDE = 96
"""Side of the square of an image, in pixels."""
COLUMNS = 16
"""Images beside each other on a sheet, and lines of them below each other at most."""
_PER_SHEET = COLUMNS * COLUMNS
_QUALITY, _METHOD = 74, 3


class SpriteSheets:
    """The middle squares of images, on sheets of 256.

    Parameters
    ----------
    sources : iterable of Source
        The images.
    max_megapixels : float
        Larger ones are unreadable.
    phase : Phase
        Where to report each image.

    Attributes
    ----------
    places : list of int
        For each image that was asked for the number of its square, counted over all sheets; -1 for
        one that cannot be read. It is complete when the sheets have been read.
    """

    def __init__(
        self, sources: Iterable[Source], phase: Phase, max_megapixels: float = MAX_MEGAPIXELS
    ) -> None:
        self._sources, self._phase, self._limit = sources, phase, max_megapixels
        self.places: list[int] = []

    def __iter__(self) -> Iterator[Thumbnail]:
        """The sheets as image files; memory holds one of them."""
        waiting: list[Image.Image] = []
        count = 0
        # Twice the side, so that the shorter side of most images fills its square.
        with SmallImages(_square, 2 * SIDE, self._limit) as images:
            for image in images.of(self._sources):
                self._phase.advance(1)
                if isinstance(image, Unreadable):
                    self.places.append(-1)
                    continue
                self.places.append(count)
                count += 1
                waiting.append(image)
                if len(waiting) == _PER_SHEET:
                    yield _sheet(waiting)
                    waiting = []
        if waiting:
            yield _sheet(waiting)


def _square(image: Image.Image) -> Image.Image:
    """The middle of an image as a square."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)


def _sheet(squares: list[Image.Image]) -> Thumbnail:
    from PIL import Image

    lines = -(-len(squares) // COLUMNS)
    size = (min(len(squares), COLUMNS) * SIDE, lines * SIDE)
    sheet = Image.new("RGB", size)
    for number, square in enumerate(squares):
        line, column = divmod(number, COLUMNS)
        sheet.paste(square, (column * SIDE, line * SIDE))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=_QUALITY, method=_METHOD)
    return Thumbnail(file.getvalue(), *size, *size)
