"""`SharedBlocks`: memory that a process shares with processes it starts, by a file without a name.

The file is given to them as a descriptor. Nothing of it is left when they have ended, however that
happens, and it needs no place in ``/dev/shm``, which containers keep small.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Block:
    """A part of the file: where it begins, its number of bytes, and its map."""

    offset: int
    size: int
    memory: mmap.mmap

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Its first bytes as an array."""
        return np.frombuffer(self.memory, np.uint8, int(np.prod(shape))).reshape(shape)


class SharedBlocks:
    """Blocks of memory that are taken, given back and taken again.

    Attributes
    ----------
    file_number : int
        The descriptor, for `subprocess.Popen(pass_fds=...)`.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.file_number = os.memfd_create("hyperpq", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self.file_number = os.dup(file.fileno())
        self._end = 0
        self._free: list[Block] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Block:
        """A block of at least this many bytes, of any content.

        Raises
        ------
        OSError
            If there is no memory for it.
        """
        with self._lock:
            fitting = [block for block in self._free if block.size >= size]
            if fitting:
                block = min(fitting, key=lambda block: block.size)
                self._free.remove(block)
                return block
            step = mmap.ALLOCATIONGRANULARITY
            size = max(step, -(-size // step) * step)
            if hasattr(os, "posix_fallocate"):
                # A file with holes would fail later, by a signal.
                os.posix_fallocate(self.file_number, self._end, size)
            else:
                os.ftruncate(self.file_number, self._end + size)
            block = Block(self._end, size, mmap.mmap(self.file_number, size, offset=self._end))
            self._end += size
            return block

    def give_back(self, block: Block) -> None:
        """Let a block be taken again; arrays of it must not be used any more."""
        with self._lock:
            self._free.append(block)

    def close(self) -> None:
        """Let go of the file; arrays of blocks remain valid."""
        self._free.clear()
        os.close(self.file_number)


class MappedBlocks:
    """The blocks of another process, in one that has been given the descriptor.

    Parameters
    ----------
    file_number : int
        The descriptor.
    """

    def __init__(self, file_number: int) -> None:
        self._file, self._blocks = file_number, dict[tuple[int, int], Block]()

    def block(self, offset: int, size: int) -> Block:
        """The block that begins there and has so many bytes."""
        key = offset, size
        if key not in self._blocks:
            self._blocks[key] = Block(offset, size, mmap.mmap(self._file, size, offset=offset))
        return self._blocks[key]
