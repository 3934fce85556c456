"""Training views: an image cropped, flipped, recoloured and blurred at random.

The operations and their ranges are torchvision's (RandomResizedCrop, RandomHorizontalFlip,
ColorJitter, RandomGrayscale, GaussianBlur), as the published method uses them; only Pillow and
numpy are needed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from hyperpq.errors import InvalidInputError

# Side of the views for which the published blur was chosen; for other sizes it is scaled.
_BLUR_SIDE = 224


@dataclass(frozen=True)
class Augmentation:
    """How strongly views differ from their image.

    Parameters
    ----------
    scale : (float, float)
        Smallest and largest fraction of the area that a crop keeps, in (0, 1].
    ratio : (float, float)
        Smallest and largest width / height of a crop, drawn log-uniformly.
    flip : float
        Probability of a horizontal flip.
    jitter : (float, float, float, float)
        The first three are the largest relative changes of brightness, contrast and saturation.
        The last is the largest rotation of the hue, in whole turns (at most 0.5).
    jitter_p, grey_p, blur_p : float
        Probabilities of jitter, of conversion to grey and of blur.
    blur_sigma : (float, float)
        Range of the standard deviation of the Gaussian, in pixels of a view of 224 pixels.

    Raises
    ------
    InvalidInputError
        If a value is out of range.
    """

    scale: tuple[float, float]
    flip: float
    jitter: tuple[float, float, float, float]
    jitter_p: float
    grey_p: float
    blur_p: float
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high < math.inf or (name == "scale" and high > 1):
                bound = " <= 1" if name == "scale" else ""
                raise InvalidInputError(
                    f"{name} is ({low}, {high}); expected 0 < low <= high{bound}."
                )
        for name in ("flip", "jitter_p", "grey_p", "blur_p"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInputError(
                    f"{name} is {getattr(self, name)}; expected a probability from 0 to 1."
                )
        if not all(0 <= value <= 1 for value in self.jitter) or self.jitter[3] > 0.5:
            raise InvalidInputError(
                f"jitter is {self.jitter}; expected values from 0 to 1, for the hue up to 0.5."
            )

    def to_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)


PAPER = Augmentation(
    scale=(0.5, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.7, grey_p=0.2, blur_p=0.5
)
"""The strength of the published method."""

MILD = Augmentation(
    scale=(0.6, 1.0), flip=0.5, jitter=(0.2, 0.2, 0.2, 0.05), jitter_p=0.5, grey_p=0.05, blur_p=0.0
)
"""A weaker strength, which gives better results with a frozen backbone."""

AUGMENTATIONS = {"paper": PAPER, "mild": MILD}
"""Strengths by the name that a recipe gives."""


def view_rng(seed: int, key: bytes, view: int) -> np.random.Generator:
    """Random numbers of one view, independent of the order and the thread in which it is made.

    Parameters
    ----------
    seed : int
        The seed of the run.
    key : bytes
        Name of the image: its path, or its row as bytes.
    view : int
        Number of the view.

    Returns
    -------
    numpy.random.Generator
        The same stream for the same three arguments, on any machine.
    """
    digest = hashlib.blake2b(b"%d/%d/" % (seed, view) + key, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def make_view(
    image: Image.Image, augmentation: Augmentation, prep_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Make one random view.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    augmentation : Augmentation
        The strength.
    prep_size : int
        Side of the view in pixels.
    rng : numpy.random.Generator
        Source of all random choices; see `view_rng`.

    Returns
    -------
    ndarray, shape (prep_size, prep_size, 3), uint8
        The view.
    """
    left, top, width, height = crop_box(image.size, augmentation, rng)
    view = image.resize(
        (prep_size, prep_size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
        reducing_gap=3.0,
    )
    if rng.random() < augmentation.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < augmentation.jitter_p:
        view = _jitter(view, augmentation.jitter, rng)
    if rng.random() < augmentation.grey_p:
        view = view.convert("L").convert("RGB")
    if rng.random() < augmentation.blur_p:
        sigma = rng.uniform(*augmentation.blur_sigma) * prep_size / _BLUR_SIDE
        view = view.filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(view)


def crop_box(
    size: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Choose a crop as torchvision's RandomResizedCrop does.

    Parameters
    ----------
    size : (int, int)
        Width and height of the image.
    augmentation : Augmentation
        Its ``scale`` and ``ratio`` are used.
    rng : numpy.random.Generator
        Source of the random choice.

    Returns
    -------
    (int, int, int, int)
        Left, top, width and height in pixels. After ten crops that do not fit, it is the largest
        central crop whose aspect ratio is allowed.
    """
    width, height = size
    low, high = augmentation.ratio
    for _ in range(10):
        area = width * height * rng.uniform(*augmentation.scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(0, (width - w, height - h), endpoint=True).tolist()
            return left, top, w, h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    return (width - w) // 2, (height - h) // 2, w, h


def adjust_brightness(view: Image.Image, factor: float) -> Image.Image:
    """Multiply all values by ``factor``."""
    return view.point([min(255, int(value * factor)) for value in range(256)] * 3)


def adjust_contrast(view: Image.Image, factor: float) -> Image.Image:
    """Move all values away from (factor > 1) or towards the mean grey of the image."""
    histogram = view.convert("L").histogram()
    total = sum(value * count for value, count in enumerate(histogram))
    mean = int(total / (view.width * view.height) + 0.5)
    table = [min(255, max(0, int(mean + (value - mean) * factor))) for value in range(256)]
    return view.point(table * 3)


def adjust_saturation(view: Image.Image, factor: float) -> Image.Image:
    """Move every pixel away from (factor > 1) or towards its own grey."""
    return Image.blend(view.convert("L").convert("RGB"), view, factor)


def adjust_hue(view: Image.Image, turn: float) -> Image.Image:
    """Rotate the hue of every pixel by ``turn``, in whole turns of the colour circle."""
    hue, saturation, value = view.convert("HSV").split()
    shift = round(turn * 255)
    hue = hue.point([(angle + shift) % 256 for angle in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _jitter(
    view: Image.Image, strength: tuple[float, float, float, float], rng: np.random.Generator
) -> Image.Image:
    """Apply the four adjustments in random order."""
    for operation in rng.permutation(4).tolist():
        amount = strength[operation]
        change = rng.uniform(-amount, amount)
        if amount == 0:
            continue
        if operation == 0:
            view = adjust_brightness(view, 1 + change)
        elif operation == 1:
            view = adjust_contrast(view, 1 + change)
        elif operation == 2:
            view = adjust_saturation(view, 1 + change)
        else:
            view = adjust_hue(view, change)
    return view
