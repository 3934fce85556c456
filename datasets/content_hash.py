"""`content_hash`: by which a file is recognised after it has been moved or touched."""

from __future__ import annotations

from typing import BinaryIO

import xxhash

from hyperpq.datasets.file_source import open_file
from hyperpq.errors import ImageError

_BLOCK = 1 << 20


def content_hash(source: bytes | BinaryIO) -> int:
    """XXH3-64 of the content of a file, as a signed integer; 0 if it cannot be read.

    The file is given by its path, or open.
    """
    digest = xxhash.xxh3_64()
    try:
        with open_file(source) if isinstance(source, bytes) else source as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (OSError, ImageError):
        return 0
    # 0 is that of no file.
    return int.from_bytes(digest.digest(), "big", signed=True) or 1
