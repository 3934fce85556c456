"""`DeviceMemory`: codes that stay on a device, and codes that pass through it in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import TiledCodes
from hyperpq.scan.cuda.copies import copies_to
from hyperpq.scan.cuda.parts import Part
from hyperpq.scan.cuda.piece import Piece
from hyperpq.utils.forks import ForkSafeLock

if TYPE_CHECKING:
    from torch import Tensor

CPU_BYTES = 1 << 30
"""Bytes of codes that are held for a device ``cpu``, unless told otherwise."""

# Share of the free memory of a GPU that codes may take; the rest is for a search and for others.
_SHARE = 0.8
# Bytes of a piece of codes that do not fit.
_PIECE_BYTES = 1 << 26


@dataclass
class _Held:
    """Codes of a part on a device."""

    codes: Tensor
    # The search that used them last, and how many use them now.
    used: int = 0
    users: int = 0
    # The bits of the last search, their array, and how many are set.
    bits: tuple[ref[NDArray[np.uint64]], Tensor, int] | None = None


class DeviceMemory:
    """What one device holds of the codes of all indexes of this process.

    Codes stay on the device as long as the segment exists and the memory is not needed for codes
    that are searched. Threads may search at the same time.

    Parameters
    ----------
    device : str
        ``cpu`` or ``cuda:N``.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._lock = ForkSafeLock()
        self._held: WeakKeyDictionary[TiledCodes, dict[tuple[int, int], _Held]] = (
            WeakKeyDictionary()
        )
        self._searches = itertools.count(1)

    @property
    def held_bytes(self) -> int:
        """Bytes of codes on the device."""
        with self._lock:
            return sum(held.codes.numel() for _, _, held in self._entries())

    def clear(self) -> None:
        """Release all codes."""
        with self._lock:
            self._held.clear()

    def pieces(
        self, parts: Sequence[Part], limit: int | None
    ) -> Generator[tuple[Part, Piece], None, None]:
        """The rows of some parts on the device, one piece after another.

        Parameters
        ----------
        parts : sequence of Part
            What is searched.
        limit : int or None
            Bytes of codes on the device at most; None to ask the device how much is free. Codes
            beyond it pass through the device in pieces of an eighth of it, and at most 64 MiB. One
            tile of codes is always taken.
        """
        held, others = self._hold(parts, limit)
        try:
            for part, entry in held:
                yield part, self._piece(part, entry)
            if others:
                size = _PIECE_BYTES if limit is None else min(_PIECE_BYTES, limit // 8)
                cut = [some for part in others for some in part.cut(size // part.code_size)]
                yield from self._passing(cut, max(len(part.codes) for part in cut))
        finally:
            with self._lock:
                for _, entry in held:
                    entry.users -= 1

    def _hold(
        self, parts: Sequence[Part], limit: int | None
    ) -> tuple[list[tuple[Part, _Held]], list[Part]]:
        """The parts that are on the device, which are as many as fit, and the others."""
        held: list[tuple[Part, _Held]] = []
        others: list[Part] = []
        with self._lock:
            search = next(self._searches)
            known = [self._known(part) for part in parts]
            for entry in known:
                if entry is not None:
                    entry.used, entry.users = search, entry.users + 1
            free = None if all(known) else self._free(limit)
            for part, entry in zip(parts, known, strict=True):
                size = len(part.codes)
                if entry is None:
                    assert free is not None
                    free += self._release(size - free)
                    if size > free:
                        others.append(part)
                        continue
                    entry = _Held(self._upload(part.codes), search, 1)
                    self._held.setdefault(part.segment.codes, {})[part.first, part.n] = entry
                    free -= size
                held.append((part, entry))
        return held, others

    def _known(self, part: Part) -> _Held | None:
        return self._held.get(part.segment.codes, {}).get((part.first, part.n))

    def _entries(self) -> list[tuple[TiledCodes, tuple[int, int], _Held]]:
        return [
            (codes, key, held)
            for codes, parts in list(self._held.items())
            for key, held in parts.items()
        ]

    def _free(self, limit: int | None) -> int:
        """Bytes that more codes may take."""
        import torch

        if limit is None and self.device == "cpu":
            limit = CPU_BYTES
        if limit is not None:
            return limit - sum(held.codes.numel() for _, _, held in self._entries())
        free, _ = torch.cuda.mem_get_info(self.device)
        # What PyTorch has reserved and does not use is free for it.
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(_SHARE * (free + unused))

    def _release(self, wanted: int) -> int:
        """Release codes that no search uses now, the longest unused first; how many bytes."""
        released = 0
        unused = [entry for entry in self._entries() if not entry[2].users]
        for codes, key, held in sorted(unused, key=lambda entry: entry[2].used):
            if released >= wanted:
                break
            del self._held[codes][key]
            released += held.codes.numel()
        return released

    def _piece(self, part: Part, held: _Held) -> Piece:
        whole, bits = part.segment.bits, part.bits
        if whole is None or bits is None:
            return Piece(held.codes, part.n, part.code_size, None, part.n)
        last = held.bits
        if last is None or last[0]() is not whole:
            # Those of deleted rows are the same array as long as the rows are shown.
            last = (ref(whole), self._upload(bits), count_bits(bits))
            held.bits = last
        return Piece(held.codes, part.n, part.code_size, last[1], last[2])

    def _upload(self, data: NDArray[np.uint8]) -> Tensor:
        """A copy on the device."""
        import torch

        out = torch.empty(len(data), dtype=torch.uint8, device=self.device)
        for start in range(0, len(data), _PIECE_BYTES):
            # A mapped file is read-only, which a tensor cannot be.
            some = np.array(data[start : start + _PIECE_BYTES])
            out[start : start + _PIECE_BYTES] = torch.from_numpy(some)
        return out

    def _passing(self, parts: Sequence[Part], size: int) -> Iterator[tuple[Part, Piece]]:
        """Parts of at most so many bytes; the next one is copied while one is searched."""
        copies = copies_to(self.device, size)
        copies.start(0, parts[0].codes)
        for number, part in enumerate(parts):
            if number + 1 < len(parts):
                copies.start((number + 1) % 2, parts[number + 1].codes)
            codes = copies.finish(number % 2)
            bits = part.bits
            if bits is None:
                yield part, Piece(codes, part.n, part.code_size, None, part.n)
            else:
                active = count_bits(bits)
                yield part, Piece(codes, part.n, part.code_size, self._upload(bits), active)
            copies.release(number % 2)


def count_bits(bits: NDArray[np.uint8]) -> int:
    """Number of bits that are set in bytes (n,)."""
    return sum(
        int(_SET[bits[start : start + _PIECE_BYTES]].sum(dtype=np.int64))
        for start in range(0, len(bits), _PIECE_BYTES)
    )


# Of each byte how many of its bits are set.
_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.uint8)
