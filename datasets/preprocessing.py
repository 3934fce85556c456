"""`Preprocessing`: how an image is resized to the square of pixels that a network takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from PIL import Image

from hyperpq.errors import InvalidInputError

Interpolation = Literal["bicubic", "bilinear"]
"""Filters of resizing."""
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square of pixels that a network sees.

    Parameters
    ----------
    size : int
        Side of the square in pixels.
    resize : {"squash", "crop"}
        ``squash`` resizes to the square and ignores the aspect ratio. ``crop`` resizes the shorter
        side to ``round(size / crop_fraction)`` and takes the centre.
    crop_fraction : float
        In (0, 1]; only used by ``crop``.
    interpolation : {"bicubic", "bilinear"}
        Both with antialiasing.

    Raises
    ------
    InvalidInputError
        If a value has the wrong type or is out of range.
    """

    size: int = 224
    resize: str = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 8192:
            raise InvalidInputError(f"size is {self.size!r}; expected 1 to 8192 pixels.")
        if self.resize not in ("squash", "crop"):
            raise InvalidInputError(f"resize is {self.resize!r}; expected 'squash' or 'crop'.")
        if type(self.crop_fraction) not in (int, float) or not 0.05 <= self.crop_fraction <= 1:
            raise InvalidInputError(
                f"crop_fraction is {self.crop_fraction!r}; expected a number from 0.05 to 1."
            )
        if self.interpolation not in ("bicubic", "bilinear"):
            raise InvalidInputError(
                f"interpolation is {self.interpolation!r}; expected 'bicubic' or 'bilinear'."
            )

    @property
    def resized_side(self) -> int:
        """Length of the shorter side after resizing and before cropping, in pixels."""
        return self.size if self.resize == "squash" else round(self.size / self.crop_fraction)

    @property
    def decode_side(self) -> int:
        """The ``shrink_to`` for `open_image`: twice the resized side, so that no detail is lost."""
        return 2 * self.resized_side

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, width and height of the part of an image that becomes the square."""
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        side = self.size * min(width, height) / self.resized_side
        return (width - side) / 2, (height - side) / 2, side, side

    def to_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`; missing names take their defaults.

        Raises
        ------
        InvalidInputError
            If ``values`` is not a mapping, or has an unknown name or a bad value.
        """
        if not isinstance(values, Mapping):
            raise InvalidInputError(
                f"preprocessing is of type {type(values).__name__}; expected a mapping."
            )
        known = [field.name for field in fields(cls)]
        unknown = [str(name) for name in values if name not in known]
        if unknown:
            raise InvalidInputError(
                f"preprocessing has unknown names {', '.join(unknown)}; "
                f"expected some of {', '.join(known)}."
            )
        return cls(**values)


def to_pixels(image: Image.Image, prep: Preprocessing, out: np.ndarray | None = None) -> np.ndarray:
    """Resize an RGB image to the square that a network sees.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    prep : Preprocessing
        Size, method of resizing and interpolation.
    out : ndarray, shape (size, size, 3), uint8, optional
        Array to write to.

    Returns
    -------
    ndarray, shape (size, size, 3), uint8
        ``out``, or a new array (read-only).
    """
    left, top, width, height = prep.box(*image.size)
    # 3.0: a box-filtered first step for large images, indistinguishable from one resampling.
    square = image.resize(
        (prep.size, prep.size),
        _RESAMPLING[prep.interpolation],
        box=(left, top, left + width, top + height),
        reducing_gap=3.0,
    )
    if out is None:
        return np.asarray(square)
    out[...] = np.asarray(square)
    return out
