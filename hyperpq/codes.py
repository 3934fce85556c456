"""Code bytes: how M codes of nbits bits lie in one row of bytes (the layout of FAISS's PQ)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def code_size(M: int, nbits: int) -> int:
    """Bytes of one row of codes."""
    return (M * nbits + 7) // 8


def pack(codes: NDArray[np.uint8], nbits: int) -> NDArray[np.uint8]:
    """Codes (n, M), one a byte -> rows of bytes (n, code_size).

    With nbits 4, code 2j is the low half of byte j and code 2j + 1 the high half; the high half of
    the last byte is 0 when M is odd.
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8)
    if nbits == 8:
        return codes
    out = codes[:, 0::2].copy()
    out[:, : codes.shape[1] // 2] |= codes[:, 1::2] << 4
    return out


def unpack(packed: NDArray[np.uint8], M: int, nbits: int) -> NDArray[np.uint8]:
    """Inverse of `pack`: rows of bytes (n, code_size) -> codes (n, M), one a byte."""
    if nbits == 8:
        return packed
    out = np.empty((packed.shape[0], M), dtype=np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = (packed >> 4)[:, : M // 2]
    return out
