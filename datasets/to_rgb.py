"""Images of any colour mode to RGB, in bands of rows: whole copies would multiply the memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from hyperpq.errors import ImageError

# Pixels of a band: a few megabytes in float64. Small images are one band.
_BAND_PIXELS = 1 << 19
_BITS_PER_SAMPLE = 0x0102


def to_rgb(image: Image.Image, factor: int = 1) -> Image.Image:
    """Convert any mode that decoders return to RGB, with transparent areas shown on white.

    Parameters
    ----------
    image : PIL.Image.Image
        A decoded image.
    factor : int
        Each side of the result is that of the image divided by this, rounded up; a pixel is the
        mean of ``factor`` by ``factor`` pixels of the converted image.

    Returns
    -------
    PIL.Image.Image
        Mode RGB; the image itself if nothing is to do.

    Raises
    ------
    ImageError
        If the mode is not supported.
    """
    is_number = image.mode.startswith(("I", "F"))
    if not (
        is_number
        or image.mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
        or image.has_transparency_data
    ):
        raise ImageError(f"colour mode {image.mode} is not supported")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image if factor == 1 else image.reduce(factor)
    limits = _limits(image) if is_number else None
    height = max(1, _BAND_PIXELS // image.width // factor) * factor
    if factor == 1 and height >= image.height:
        return _convert(image, limits)
    out = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, band in _bands(image, height):
        rgb = _convert(band, limits)
        out.paste(rgb if factor == 1 else rgb.reduce(factor), (0, top // factor))
    return out


def _bands(image: Image.Image, height: int) -> Iterator[tuple[int, Image.Image]]:
    """First rows and images of the bands of an image."""
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _convert(image: Image.Image, limits: tuple[float, float] | None) -> Image.Image:
    """Convert a band to RGB; ``limits`` are what is black and white in one of numbers."""
    if limits is not None:
        image = Image.fromarray(_to_bytes(image, *limits))
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # premultiplied; Pillow converts them only to LA and RGBA
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _limits(image: Image.Image) -> tuple[float, float]:
    """What is black and white in an image of mode I;16*, I or F; see `open_image`."""
    if image.mode.startswith("I;16") or image.format == "PNG":
        tags = getattr(image, "tag_v2", {})
        # Pillow unpacks 12-bit TIFF without scaling.
        return 0.0, 4095.0 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535.0
    bands = _bands(image, max(1, _BAND_PIXELS // image.width))
    values = [(float(v.min()), float(v.max())) for v in (_finite(band) for _, band in bands)]
    bottom, top = min(low for low, _ in values), max(high for _, high in values)
    for declared in (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0):
        if bottom >= 0 and top <= declared:
            return 0.0, declared
    return bottom, top


def _finite(image: Image.Image) -> np.ndarray:
    """The values of an image of numbers, 0 for those that are not finite."""
    return np.nan_to_num(np.asarray(image), nan=0.0, posinf=0.0, neginf=0.0)


def _to_bytes(image: Image.Image, bottom: float, top: float) -> np.ndarray:
    """Scale an image of numbers to 8 bits."""
    scale = 255.0 / (top - bottom) if top > bottom else 0.0
    return ((_finite(image) - np.float64(bottom)) * scale + 0.5).astype(np.uint8)
