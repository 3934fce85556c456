"""Altered copies of an image, and other shots of it, on which the thresholds are learned.

Each kind of copies has a range of strengths, from which random numbers choose. What a range leaves
out, such as a crop to a tenth of the area, is not what is calibrated for. Another shot is made as
if the camera had moved a little, and something in front of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from hyperpq.datasets.augment import adjust_brightness, adjust_contrast, adjust_saturation

_Maker = Callable[[Image.Image, np.random.Generator], Image.Image]
# Sides below this are not reduced further: nothing could be recognised.
_SMALLEST = 32
_WORDS = ("SAMPLE", "Copyright 2024", "holiday photos", "preview", "www.example.org")


def make_copy(kind: str, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An altered copy.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    image : PIL.Image.Image
        Mode RGB; it stays as it is.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.
    """
    return _MAKERS[kind](image, rng)


def _recompressed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Saved as JPEG or WebP with quality 25 to 75, or with 32 to 128 colours as GIF."""
    form = ("JPEG", "WEBP", "GIF")[rng.choice(3, p=(0.5, 0.3, 0.2))]
    if form == "GIF":
        return image.quantize(int(rng.integers(32, 128, endpoint=True))).convert("RGB")
    file = io.BytesIO()
    image.save(file, form, quality=int(rng.integers(25, 75, endpoint=True)))
    with Image.open(file) as copy:
        return copy.convert("RGB")


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """30 to 80 % of the sides; one of three is also stretched by up to 12 %."""
    share = rng.uniform(0.3, 0.8)
    stretch = rng.uniform(0.88, 1.12) if rng.random() < 1 / 3 else 1.0
    width = max(_SMALLEST, round(image.width * share * stretch))
    height = max(_SMALLEST, round(image.height * share))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 70 to 95 % of each side."""
    width, height = (max(1, round(side * rng.uniform(0.7, 0.95))) for side in image.size)
    left = int(rng.integers(0, image.width - width, endpoint=True))
    top = int(rng.integers(0, image.height - height, endpoint=True))
    return image.crop((left, top, left + width, top + height))


def _watermarked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Text over 30 to 80 % of the width, half or wholly opaque, anywhere."""
    text = _WORDS[rng.integers(len(_WORDS))]
    font = ImageFont.load_default(max(8, round(min(image.size) * rng.uniform(0.06, 0.16))))
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    drawn = ImageDraw.Draw(layer)
    left, top, right, bottom = drawn.textbbox((0, 0), text, font=font)
    x = rng.uniform(0, max(1, image.width - (right - left)))
    y = rng.uniform(0, max(1, image.height - (bottom - top)))
    shade = int(rng.choice((0, 255)))
    drawn.text((x - left, y - top), text, (shade, shade, shade, int(rng.integers(90, 255))), font)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _bordered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A frame of one colour, 3 to 15 % of the shorter side wide."""
    width = max(1, round(min(image.size) * rng.uniform(0.03, 0.15)))
    red, green, blue = (int(v) for v in rng.choice(((0,) * 3, (255,) * 3, (90, 60, 40))))
    return ImageOps.expand(image, width, (red, green, blue))


def _recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness and contrast by up to a third, and saturation by up to a half."""
    image = adjust_brightness(image, rng.uniform(0.67, 1.33))
    image = adjust_contrast(image, rng.uniform(0.67, 1.33))
    return adjust_saturation(image, rng.uniform(0.5, 1.5))


def _grey(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Grey, or sepia."""
    grey = image.convert("L")
    if rng.random() < 0.5:
        return grey.convert("RGB")
    return ImageOps.colorize(grey, (30, 18, 8), (255, 240, 214))


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blurred with a deviation of 0.3 to 0.8 % of the longer side, or sharpened."""
    if rng.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(max(image.size) * rng.uniform(0.003, 0.008)))
    return image.filter(ImageFilter.UnsharpMask(2, int(rng.integers(80, 200)), 2))


def _rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by 1 to 6 degrees, with empty corners or without them."""
    angle = rng.uniform(1, 6) * rng.choice((-1, 1))
    turned = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=(0, 0, 0))
    if rng.random() < 0.5:
        return turned
    share = 1 - np.sin(np.radians(abs(angle))) * max(image.size) / min(image.size)
    width, height = (max(1, int(side * share)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return turned.crop((left, top, left + width, top + height))


def _mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged, and compressed again."""
    return _recompressed(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), rng)


_MAKERS: dict[str, _Maker] = {
    "recompressed": _recompressed,
    "resized": _resized,
    "cropped": _cropped,
    "watermarked": _watermarked,
    "bordered": _bordered,
    "recoloured": _recoloured,
    "grey": _grey,
    "blurred": _blurred,
    "rotated": _rotated,
    "mirrored": _mirrored,
}
KINDS = tuple(_MAKERS)
"""Kinds of altered copies."""


def make_other_shot(
    image: Image.Image, rng: np.random.Generator, *, fixed: bool = False
) -> Image.Image:
    """An image as the next one of a burst could be.

    The view is shifted by up to 3 % and turned by up to 1 degree. As things are at different
    distances, every place is displaced, smoothly on a grid of 5 x 5, by at most 0.4 to 1.2 % of the
    shorter side. An ellipse that takes 4 to 15 % of the area moves by 3 to 10 % of that side.
    Exposure changes by up to 10 %, and noise with a deviation of 2 to 6 grey levels is added.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB; it stays as it is.
    rng : numpy.random.Generator
        Source of all choices.
    fixed : bool
        Whether the camera stood still, so that only the ellipse moves.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.
    """
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    side = min(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    reach = np.float32(rng.uniform(0.004, 0.012) * side)
    grid = rng.uniform(-1, 1, (2, 5, 5)).astype(np.float32) * reach
    displaced = [
        np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC))
        for one in grid
    ]
    angle, shift = np.radians(rng.uniform(-1, 1)), rng.uniform(-0.03, 0.03, 2) * side
    from_x, from_y = x, y
    if not fixed:
        from_x = x + angle * (y - height / 2) + shift[0] + displaced[0]
        from_y = y - angle * (x - width / 2) + shift[1] + displaced[1]
    share, shape = rng.uniform(0.04, 0.15), rng.uniform(0.6, 1.6)
    radii = np.sqrt(share * height * width / np.pi) * np.array([shape**0.5, shape**-0.5])
    centre = rng.uniform(0.2, 0.8, 2) * (width, height)
    moving = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1
    direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.1) * side
    from_x[moving] += np.cos(direction) * distance
    from_y[moving] += np.sin(direction) * distance
    columns = np.clip(np.round(from_x), 0, width - 1).astype(np.int64)
    rows = np.clip(np.round(from_y), 0, height - 1).astype(np.int64)
    shot = pixels[rows, columns] * rng.uniform(0.9, 1.1)
    shot += rng.normal(0, rng.uniform(2, 6), shot.shape)
    return Image.fromarray(np.clip(np.round(shot), 0, 255).astype(np.uint8))
