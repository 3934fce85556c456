"""`time_taken`: when a photo was taken, by its EXIF record.

A copy keeps this time or loses the record. Two photos of a burst have different times, in cameras
that record fractions of a second also within one second. So two different times settle that neither
is a copy of the other.
"""

from __future__ import annotations

import re

from PIL import Image

from hyperpq.datasets.decode import SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import open_file

_EXIF, _ORIGINAL, _FRACTION = 0x8769, 0x9003, 0x9291
# Formats whose header Pillow reads without allocating memory for pixels.
_FORMATS = ("JPEG", "TIFF")
_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")


def time_taken(path: bytes) -> str | None:
    """The time at which a photo was taken, such as ``2024-05-01 10:20:30.25``.

    Parameters
    ----------
    path : bytes
        A file; only JPEG and TIFF are read.

    Returns
    -------
    str or None
        The local time that the camera recorded; None if there is no valid one.
    """
    # Metadata of strangers may raise anything, as in `datasets.decode`.
    try:
        with open_file(path) as file:
            if sniff(file.read(SNIFF_BYTES)) not in _FORMATS:
                return None
            file.seek(0)
            with Image.open(file, formats=_FORMATS) as image:
                record = image.getexif().get_ifd(_EXIF)
        found = _TIME.match(str(record.get(_ORIGINAL, "")))
        if found is None or found[1] == "0000":
            return None
        digits = re.match(r"\d{1,9}", str(record.get(_FRACTION, "")))
    except Exception:
        return None
    return f"{found[1]}-{found[2]}-{found[3]} {found[4]}" + (f".{digits[0]}" if digits else "")


def are_other_times(a: str | None, b: str | None) -> bool:
    """Whether two times of `time_taken` are known and differ, as far as both are exact."""
    if a is None or b is None:
        return False
    if "." in a and "." in b:
        return a != b
    return a.partition(".")[0] != b.partition(".")[0]
