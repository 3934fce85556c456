"""Codes in bytes: packing, tiles, bits of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.codes import TiledCodes, pack, row_bits, tiled_size, unpack


@given(st.integers(0, 200), st.integers(1, 9), st.sampled_from([4, 8]), st.integers(0, 99))
def test_packing_goes_back(n, M, nbits, seed):
    codes = np.random.default_rng(seed).integers(0, 2**nbits, (n, M)).astype(np.uint8)
    packed = pack(codes, nbits)
    assert packed.shape == (n, (M * nbits + 7) // 8)
    np.testing.assert_array_equal(unpack(packed, M, nbits), codes)


@given(
    st.one_of(st.integers(0, 200), st.integers(4000, 9000)),
    st.integers(1, 5),
    st.integers(0, 99),
    st.data(),
)
def test_tiles_go_back_whole_and_in_part(n, size, seed, data):
    rows = np.random.default_rng(seed).integers(0, 256, (n, size)).astype(np.uint8)
    tiled = TiledCodes.from_rows(rows)
    assert tiled.data.shape == (tiled_size(n, size),)
    assert n == 0 or tiled.data.ctypes.data % 64 == 0
    assert len(tiled) == n
    np.testing.assert_array_equal(tiled.rows(), rows)
    start, stop = data.draw(st.integers(0, n)), data.draw(st.integers(0, n + 9))
    np.testing.assert_array_equal(tiled.rows(start, stop), rows[start:stop])
    if n:
        numbers = np.array(data.draw(st.lists(st.integers(0, n - 1))), np.int64)
        np.testing.assert_array_equal(tiled.take(numbers), rows[numbers])
        # More than one block of them, in no order.
        many = np.random.default_rng(seed).integers(0, n, 5000)
        np.testing.assert_array_equal(tiled.take(many), rows[many])


def test_where_a_code_lies():
    """docs/reference/format.md: tile, column, block, row; the last tile has as few rows as fit."""
    n, size = 2 * 4096 + 70, 3
    rows = np.random.default_rng(0).integers(0, 256, (n, size)).astype(np.uint8)
    data = TiledCodes.from_rows(rows).data
    for row in (0, 63, 64, 4095, 4096, 8191, 8192, n - 1):
        tile, place = divmod(row, 4096)
        width = min(4096, (n + 63) // 64 * 64 - tile * 4096)
        for column in range(size):
            assert data[tile * 4096 * size + column * width + place] == rows[row, column]
    assert data.size == (2 * 4096 + 128) * size


@given(st.integers(0, 300), st.integers(0, 99))
def test_bits_of_rows(n, seed):
    mask = np.random.default_rng(seed).random(n) < 0.5
    words = row_bits(mask)
    assert words.shape == ((n + 63) // 64,)
    assert [bool(int(words[r // 64]) >> (r % 64) & 1) for r in range(n)] == mask.tolist()
    assert sum(bin(int(word)).count("1") for word in words) == mask.sum()
