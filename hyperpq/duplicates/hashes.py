"""Perceptual hashes: 64 bits that a copy shares for the most part, and their exact search.

A hash finds recompressed and resized copies whatever their codes are. It is the hash of imagehash
(`phash`: signs of the 64 lowest frequencies of the image against their median).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperpq import scan
from hyperpq.utils.imports import need

if TYPE_CHECKING:
    from hyperpq.codes import TiledCodes

HASH_BYTES = 8
# Number of bits that are set in each byte.
_BITS = np.array([byte.bit_count() for byte in range(256)], np.uint8)


def perceptual_hash(image: Image.Image) -> NDArray[np.uint8]:
    """The hash (8,) uint8 of an RGB image.

    Raises
    ------
    MissingDependencyError
        If imagehash is not installed.
    """
    found = need("imagehash", "duplicates", "near-duplicates").phash(image)
    return np.packbits(np.asarray(found.hash, bool).reshape(-1))


def mirrored_hash(image: Image.Image) -> NDArray[np.uint8]:
    """The hash of the mirror image."""
    return perceptual_hash(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def bits_apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Number of bits (n,) in which hashes (n, 8) differ from other hashes (n, 8)."""
    out: NDArray[np.int64] = _BITS[a ^ b].sum(axis=-1, dtype=np.int64)
    return out


def nearest_hashes(
    queries: NDArray[np.uint8], hashes: TiledCodes, k: int, threads: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k nearest hashes of each query, exactly.

    A hash is a code of 8 bytes, and the number of bits that differ is a sum of 8 table entries. So
    the scan of the index finds them.

    Parameters
    ----------
    queries : ndarray, shape (nq, 8), uint8
        Hashes to search for.
    hashes : TiledCodes
        All hashes, see `scan.prepare`.
    k : int
        Number of results for each query.
    threads : int, optional
        Number of threads.

    Returns
    -------
    D, I : ndarray, shape (nq, k)
        Number of bits that differ, and row of the hash; +inf and -1 where there are fewer.
    """
    tables = _BITS[queries[:, :, None] ^ np.arange(256, dtype=np.uint8)].astype(np.float32)
    return scan.search(tables, hashes, k, threads=threads)
