"""Degradations of query images: functions that take and return an RGB image.

Sizes are shares of the longer side, so that they mean the same for images of 32 and of 2,000
pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

Degradation = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress as JPEG."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def blur(image: Image.Image, share: float) -> Image.Image:
    """Blur with a Gaussian whose standard deviation is ``share`` of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def noise(image: Image.Image, deviation: float) -> Image.Image:
    """Add Gaussian noise, always the same for an image; ``deviation`` is on the scale of 255."""
    pixels = np.asarray(image, np.float32)
    rng = np.random.default_rng(int(pixels.sum()))
    noisy = pixels + rng.normal(0, deviation, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def shrink(image: Image.Image, share: float) -> Image.Image:
    """Scale down to ``share`` of each side, and up again to the size before."""
    size = [max(1, round(side * share)) for side in image.size]
    small = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return small.resize(image.size, Image.Resampling.BILINEAR)


def grey(image: Image.Image) -> Image.Image:
    """Remove the colour."""
    return image.convert("L").convert("RGB")


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate around the centre; the size stays and the corners become black."""
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def crop(image: Image.Image, share: float) -> Image.Image:
    """Keep the middle, ``share`` of each side."""
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


DEGRADATIONS: dict[str, Degradation] = {
    **{f"JPEG {q}": partial(jpeg, quality=q) for q in (50, 30, 10)},
    **{f"blur {100 * s:g} %": partial(blur, share=s) for s in (0.01, 0.03)},
    **{f"noise {d}": partial(noise, deviation=d) for d in (10, 30)},
    **{f"shrunk to {100 * s:g} %": partial(shrink, share=s) for s in (0.5, 0.25)},
    "grey": grey,
    **{f"rotated by {d}°": partial(rotate, degrees=d) for d in (15, 90)},
    **{f"middle {100 * s:g} %": partial(crop, share=s) for s in (0.8, 0.5)},
}
