"""Blocks of memory that processes share."""

from __future__ import annotations

import os

from hyperpq.utils.shared_blocks import MappedBlocks, SharedBlocks


def test_blocks_are_taken_again():
    blocks = SharedBlocks()
    first, second = blocks.take(100), blocks.take(10_000)
    second.array((2, 3))[:] = 7
    assert os.pread(blocks.file_number, 7, second.offset) == b"\7" * 6 + b"\0"
    blocks.give_back(first)
    blocks.give_back(second)
    assert blocks.take(50) is first
    assert blocks.take(50) is second
    blocks.close()


def test_the_other_process_maps_the_same_bytes():
    blocks = SharedBlocks()
    first, second = blocks.take(100), blocks.take(10_000)
    other = MappedBlocks(blocks.file_number)
    second.array((5,))[:] = 3
    theirs = other.block(second.offset, second.size)
    theirs.array((2,))[:] = 4
    assert second.array((5,)).tolist() == [4, 4, 3, 3, 3]
    assert other.block(second.offset, second.size) is theirs
    assert not other.block(first.offset, first.size).array((100,)).any()
    blocks.close()
