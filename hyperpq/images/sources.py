"""What an image to search for may be: a path, an array, or an image of Pillow."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.images.listing import PathLike

if TYPE_CHECKING:
    from PIL import Image

ImageLike: TypeAlias = Union[PathLike, NDArray[np.uint8], "Image.Image"]
"""A path, an array (H, W, 3) or (H, W) uint8 with RGB or grey values, or an image of Pillow."""

Source: TypeAlias = Union[bytes, "Image.Image"]
"""A path, or an image of Pillow."""

_EXPECTED = "a path, an array (H, W, 3) uint8 or an image of Pillow"


def as_sources(images: ImageLike | Sequence[ImageLike]) -> list[Source]:
    """Images as paths and images of Pillow; a single one counts as a list of one.

    Raises
    ------
    InvalidInputError
        If something is not an image. Whether files can be read is found out later.
    """
    from PIL import Image

    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    ):
        return [_as_source(images, "images")]
    if not isinstance(images, Iterable):
        raise InvalidInputError(
            f"images is of type {type(images).__name__}; expected {_EXPECTED}, or a sequence of "
            "these."
        )
    return [_as_source(image, f"images[{number}]") for number, image in enumerate(images)]


def path_of(source: Source) -> bytes:
    """The path of an image; empty for one that does not come from a file."""
    if isinstance(source, bytes):
        return source
    name = getattr(source, "filename", "")
    return os.fsencode(name) if isinstance(name, (str, bytes, os.PathLike)) else b""


def _as_source(image: object, name: str) -> Source:
    from PIL import Image

    if isinstance(image, bytes) and b"\0" in image:
        raise InvalidInputError(
            f"{name} is bytes that are no path; expected {_EXPECTED}; open the bytes of an image "
            "file with PIL.Image.open(io.BytesIO(data))."
        )
    if isinstance(image, (str, bytes, os.PathLike)):
        return os.fsencode(image)
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise InvalidInputError(f"{name} is of type {type(image).__name__}; expected {_EXPECTED}.")
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_image or image.size == 0:
        raise InvalidInputError(
            f"{name} has shape {image.shape} and dtype {image.dtype}; expected an array (H, W, 3) "
            "of RGB values or (H, W) of grey values, uint8."
        )
    return Image.fromarray(np.ascontiguousarray(image))
