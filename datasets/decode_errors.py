"""Errors of decoders and of the operating system: what happened, in a few words."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import BinaryIO

from PIL import Image

from hyperpq.datasets.file_source import open_file


def is_of_the_system(error: Exception) -> bool:
    """Whether an error says nothing of the file, which may be a good image at another time."""
    # A missing file may be on a disk that was just unmounted; a listing finds out.
    if isinstance(error, IsADirectoryError):
        return False
    # A decoder that follows a damaged offset seeks to where no file has a byte: EINVAL.
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError)
        and error.errno in errno.errorcode
        and error.errno != errno.EINVAL
    )


def read_error(source: str | bytes | os.PathLike[str] | BinaryIO) -> Exception | None:
    """The system's error if a file cannot be read to its end; a decoder may have hidden it."""
    try:
        with (
            open_file(source)
            if isinstance(source, str | bytes | os.PathLike)
            else nullcontext(source)
        ) as file:
            file.seek(0)
            while file.read(1 << 20):
                pass
    except Exception as error:
        return error if is_of_the_system(error) else None
    return None


def reason(error: Exception) -> str:
    """A short, stable reason for an error of Pillow or of the operating system."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for its decoder"
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        said = error.strerror or os.strerror(error.errno or 0)
        return f"cannot be read ({said[:1].lower()}{said[1:]})"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    return "damaged"
