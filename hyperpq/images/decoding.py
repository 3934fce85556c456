"""`read_image`: one image file becomes the pixels of a network and of its views.

Threads call it, and so do the processes of `decoding_worker`, which import this module and nothing
that it does not need.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.augment import Augmentation
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import ImageError, ImageUnavailableError
from hyperpq.images.reading_ahead import RequestedImage
from hyperpq.images.sources import EncodedImage, Source, path_of
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from hyperpq.datasets.decode_memory import Reserve

_READING = ForkSafeLock()


@dataclass(frozen=True)
class Decoding:
    """What becomes of an image.

    Attributes
    ----------
    preprocessing : Preprocessing
        The square that the network takes.
    max_megapixels : float
        Larger images are not decoded.
    augmentation : Augmentation, optional
        Strength of the augmented views; without it there are none.
    n_views : int
        Number V of augmented views.
    seed : int
        Seed of the views.
    hashes : bool
        Whether to hash the content of files, too.
    views_later : bool
        Whether the views are made later, of whole images as squares, see `images.device_passes`.
    """

    preprocessing: Preprocessing
    max_megapixels: float
    augmentation: Augmentation | None = None
    n_views: int = 0
    seed: int = 0
    hashes: bool = False
    views_later: bool = False

    @property
    def passes(self) -> int:
        """Number of squares that an image becomes: its own and those of its views.

        With ``views_later`` there is its own and that of the whole image.
        """
        if self.views_later:
            return 2
        return 1 + (self.n_views if self.augmentation is not None else 0)

    def to_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decoding:
        """Inverse of `to_dict`."""
        strength = values["augmentation"]
        if strength is not None:
            # JSON has lists for tuples.
            known: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in strength.items()
            }
            strength = Augmentation(**known)
        prep = Preprocessing.from_dict(values["preprocessing"])
        return cls(**{**values, "preprocessing": prep, "augmentation": strength})


class ReadImage(NamedTuple):
    """Width, height and hash of an image that has been read."""

    width: int
    height: int
    hash: int


@dataclass(frozen=True)
class Failure:
    """Why an image cannot be read, without the error itself, whose frames would keep the image."""

    reason: str
    is_unavailable: bool


def read_image(
    source: Source, pixels: NDArray[np.uint8], decoding: Decoding, reserve: Reserve
) -> ReadImage | Failure:
    """Fill ``pixels`` (1 + V, S, S, 3) with an image and its views; or say why this fails."""
    try:
        return _read_image(source, pixels, decoding, reserve)
    finally:
        if isinstance(source, RequestedImage):
            source.drop()


def _read_image(
    source: Source, pixels: NDArray[np.uint8], decoding: Decoding, reserve: Reserve
) -> ReadImage | Failure:
    from PIL import Image

    from hyperpq.datasets.augment import make_view, view_rng
    from hyperpq.datasets.content_hash import content_hash
    from hyperpq.datasets.decode import full_size, open_image, upright_rgb
    from hyperpq.datasets.preprocessing import to_pixels

    prep = decoding.preprocessing
    try:
        if isinstance(source, bytes | EncodedImage):
            image = open_image(
                source if isinstance(source, bytes) else source.read(),
                max_megapixels=decoding.max_megapixels,
                shrink_to=prep.decode_side,
                reserve=reserve,
            )
        else:
            # Pillow may still have to read it, and the same image may be there twice.
            with _READING:
                image = upright_rgb(
                    source, max_megapixels=decoding.max_megapixels, shrink_to=prep.decode_side
                )
    except ImageError as error:
        return Failure(str(error), isinstance(error, ImageUnavailableError))
    to_pixels(image, prep, out=pixels[0])
    if decoding.views_later:
        side = (prep.size, prep.size)
        pixels[1] = np.asarray(image.resize(side, Image.Resampling.BICUBIC, reducing_gap=3.0))
    elif decoding.augmentation is not None:
        # Views depend on the name of the file only, so that a folder can move.
        key = os.path.basename(path_of(source))
        for view in range(decoding.n_views):
            rng = view_rng(decoding.seed, key, view)
            pixels[1 + view] = make_view(image, decoding.augmentation, prep.size, rng)
    value = 0
    if decoding.hashes and isinstance(source, bytes | RequestedImage):
        value = content_hash(source if isinstance(source, bytes) else source.read())
    return ReadImage(*full_size(image), value)
