"""How much memory it takes to decode an image, from what its header says."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

Reserve = Callable[[int], None]
"""Takes a number of bytes and returns when they may be used."""

# Measured bytes of a pixel at the peak: libwebp holds two canvases, and a copy of one becomes the
# image; the decoders of video formats hold planes of several types beside what they return.
_WEBP, _VIDEO = 16, 12
# Pillow has 4 bytes for a pixel of all other modes.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}


def bytes_of_webp(size: tuple[int, int]) -> int:
    """About how much memory a WebP takes while it is decoded, with its width and height."""
    return _WEBP * size[0] * size[1]


def bytes_to_decode(
    image: Image.Image, kind: str | None, full_size: tuple[int, int], factor: int = 1
) -> int:
    """About how much memory an image takes while it is decoded and converted to RGB.

    Parameters
    ----------
    image : PIL.Image.Image
        An image whose pixels have not been read; a JPEG with the size that it is decoded at.
    kind : str, optional
        Its format, as `sniff` names it; None for an image that is in memory.
    full_size : (int, int)
        Width and height in the file.
    factor : int
        By which `to_rgb` reduces it.

    Returns
    -------
    int
        Number of bytes.
    """
    pixels = image.width * image.height
    if kind == "WebP":
        return bytes_of_webp(full_size)
    if kind in ("HEIC", "AVIF"):
        return _VIDEO * pixels
    decoded = _MODE_BYTES.get(image.mode, 4) * pixels
    if kind == "TIFF":
        decoded *= 2  # a strip can be the whole image
    if kind == "JPEG" and image.info.get("progressive"):
        # All coefficients, in 2 bytes each, at any size that is decoded.
        decoded += 2 * len(image.getbands()) * full_size[0] * full_size[1]
    is_converted = image.mode != "RGB" or factor > 1
    return decoded + (4 * pixels // factor**2 if is_converted else 0)


def webp_size(header: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP from its first 30 bytes; None if they do not say it."""
    chunk = header[12:16]
    if len(header) < 30:
        return None
    if chunk == b"VP8X":
        width, height = (int.from_bytes(header[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        return width & 0x3FFF, height & 0x3FFF
    return None
