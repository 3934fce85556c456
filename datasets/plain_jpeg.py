"""`plain_jpeg`: JPEG files that any decoder reads as Pillow does, recognised by their headers.

Decoders differ in what they make of unusual files: incomplete ones, four colours, components that
are not the usual ones. Such files are left to `decode.open_image`, which has one answer for each.
"""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

from PIL import JpegImagePlugin

from hyperpq.datasets.decode import SNIFF_BYTES, exif_orientation, sniff
from hyperpq.datasets.metadata_filter import without_metadata

_END = b"\xff\xd9"
# Numbers of the components of luminance and colours in nearly all files (JFIF).
_COMPONENTS = ([1], [1, 2, 3])
# What the marker of Adobe says of them: none, or that they are luminance and colours.
_ADOBE = (None, 1)


class PlainJpeg(NamedTuple):
    """Width and height as they are stored, and the EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int


def plain_jpeg(data: bytes) -> PlainJpeg | None:
    """The header of a complete JPEG file of grey values or colours; None for any other content."""
    if sniff(data[:SNIFF_BYTES]) != "JPEG" or not data.endswith(_END):
        return None
    try:
        image = JpegImagePlugin.JpegImageFile(without_metadata(BytesIO(data), "JPEG"))
    except Exception:  # of damaged bytes, as in `open_image`
        return None
    components = [layer[0] for layer in image.layer]
    if components not in _COMPONENTS or image.info.get("adobe_transform") not in _ADOBE:
        return None
    return PlainJpeg(*image.size, exif_orientation(image) or 1)
