"""Which files may be images, by the endings of their names and by their first bytes."""

from __future__ import annotations

import os
import stat

from hyperpq.datasets.decode import RAW_EXTENSIONS, SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import open_file
from hyperpq.datasets.ignore import IGNORE_FILE
from hyperpq.datasets.listing import Listing
from hyperpq.errors import ImageError

IMAGE_EXTENSIONS = RAW_EXTENSIONS | frozenset(
    b".jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .heic .heif .hif "
    b".avif".split()
)
# Of images in formats that are not read; only endings that little else has.
UNREAD_EXTENSIONS = frozenset(
    b".psd .psb .xcf .kra .ora .afphoto .jp2 .j2k .jpf .jpx .jxl .jxr .wdp .hdp .tga .svg .svgz "
    b".eps .ico .cur .icns .ppm .pgm .pbm .pnm .pam .pfm .pcx .exr .hdr .dds .sgi .ras .xbm .xpm "
    b".qoi .fits .dcm .djvu .wmf .emf .dpx .pict .mng .jng .flif .bpg .rwl .mef .mos .gpr .dcr "
    b".r3d".split()
)
# Names that operating systems and their tools create beside images; compared in lower case.
_SYSTEM_NAMES = frozenset(
    b"@eadir|@recycle|@tmp|#recycle|#snapshot|$recycle.bin|recycler|system volume information|"
    b"lost+found|__macosx|thumbs.db|ehthumbs.db|desktop.ini".split(b"|")
)


def may_be_image(path: bytes) -> bool:
    """Whether a file has the ending of an image that is read, or begins like one.

    Raises
    ------
    OSError
        If its name has another ending, and it cannot be read.
    """
    if _ending(path) in IMAGE_EXTENSIONS:
        return True
    try:
        with open_file(path) as file:
            return sniff(file.read(SNIFF_BYTES)) is not None
    except ImageError:
        return False  # a pipe has taken the place of the file


def unread_format(path: bytes) -> str | None:
    """The format of an image that is not read, such as ``PSD``, by the ending of its name."""
    ending = _ending(path)
    return ending[1:].decode().upper() if ending in UNREAD_EXTENSIONS else None


def is_hidden(name: bytes) -> bool:
    """Whether a name begins with a dot, or is one that operating systems create."""
    return name.startswith(b".") or name.lower() in _SYSTEM_NAMES


def _ending(path: bytes) -> bytes:
    return os.path.splitext(path)[1].lower()


def examine(path: bytes, status: os.stat_result, found: Listing) -> bool:
    """Whether a path is that of a file that may be an image; what else it is, is noted.

    Parameters
    ----------
    path : bytes
        The path.
    status : stat_result
        What the system says of it.
    found : Listing
        Gets what is skipped, and the numbers of other files.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    if not stat.S_ISREG(status.st_mode):
        found.skipped[path] = "not a regular file"
    elif may_be_image(path):
        return True
    elif kind := unread_format(path):
        found.skipped[path] = f"images of the format {kind} are not read"
    elif os.path.basename(path) != IGNORE_FILE:
        found.count_other(path)
    return False
