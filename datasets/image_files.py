"""Which files may be images, by the endings of their names and by their first bytes."""

from __future__ import annotations

import os

from hyperpq.datasets.decode import RAW_EXTENSIONS, SNIFF_BYTES, sniff
from hyperpq.datasets.file_source import open_file
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
