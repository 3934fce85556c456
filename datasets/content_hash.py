"""`content_hash`: by which a file is recognised after it has been moved or touched."""

from __future__ import annotations

import xxhash

from hyperpq.datasets.decode_errors import open_without_waiting

_BLOCK = 1 << 20


def content_hash(path: bytes) -> int:
    """XXH3-64 of the content of a file, as a signed integer; 0 if it cannot be read."""
    digest = xxhash.xxh3_64()
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return 0
    # 0 is that of no file.
    return int.from_bytes(digest.digest(), "big", signed=True) or 1
