"""`CudaScanner`: searches of codes on one or several GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.scan.arguments import checked_radius, checked_tables
from hyperpq.scan.cuda.hits import Hits
from hyperpq.scan.cuda.memory import DeviceMemory
from hyperpq.scan.cuda.parts import Part, divide
from hyperpq.scan.cuda.passes import LARGEST, Passes, TorchPasses
from hyperpq.scan.cuda.search import search_piece
from hyperpq.utils.devices import resolve_device
from hyperpq.utils.imports import need
from hyperpq.utils.validation import as_choice, as_count

if TYPE_CHECKING:
    from torch import Tensor

Kernel = Literal["triton", "torch"]

# Queries whose tables and survivors are on a device at once.
_QUERIES = 64


@dataclass(frozen=True)
class CudaScanner:
    """Scans codes on GPUs. The results are those of the scan on the CPU, to the last bit.

    Codes are copied to the GPU by the first search and stay there, see `DeviceMemory`. Codes that
    do not fit pass through it in pieces at each search. With several GPUs each has an equal share
    of every segment.

    Parameters
    ----------
    devices : sequence of str
        Names of devices, ``cuda``, ``cuda:N`` or ``cpu``; one may be named several times.
    kernel : {"triton", "torch"}
        What runs on them: Triton's kernels, or plain PyTorch. PyTorch is the reference of the
        tests, which runs on any device and is slower. Triton runs on the CPU in its interpreter
        only, with ``TRITON_INTERPRET=1``.
    memory : int, optional
        Bytes of codes that stay on each device at most; by default four fifths of what is free.

    Raises
    ------
    InvalidInputError
        If there is no such device, or a value is not as described.

    Notes
    -----
    The arrays of the segments must not change while these exist, as rows of an index never do.
    Without Triton a search with its kernels raises a `MissingDependencyError`.
    """

    devices: Sequence[str] = ("cuda",)
    kernel: Kernel = "triton"
    memory: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.devices, str) or not len(self.devices):
            raise InvalidInputError(
                f"devices is {self.devices!r}; expected a sequence of names, such as ['cuda:0']."
            )
        as_choice(self.kernel, "kernel", ("triton", "torch"))
        if self.memory is not None:
            as_count(self.memory, "memory", 0)
        object.__setattr__(self, "devices", tuple(map(resolve_device, self.devices)))

    def search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        k: int,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows of several segments, see `scan.search_segments`.

        ``threads`` is of no effect here.
        """
        tables, k = checked_tables(tables, segments), as_count(k, "k")
        kept = min(k, sum(len(segment.codes) for segment in segments))
        return self._scan(tables, segments, Hits(len(tables), kept)).nearest(k)

    def range_search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        radius: float,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All rows at a distance below a radius, see `scan.range_search_segments`.

        ``threads`` is of no effect here.
        """
        tables, radius = checked_tables(tables, segments), checked_radius(radius)
        with np.errstate(over="ignore"):
            # The largest float32 below the radius; -inf below all distances.
            theta = float(np.nextafter(np.float32(radius), np.float32(-np.inf)))
        found = Hits(len(tables), None, theta)
        return (found if theta < -LARGEST else self._scan(tables, segments, found)).within()

    def _scan(
        self, tables: NDArray[np.float32], segments: Sequence[CodeSegment], hits: Hits
    ) -> Hits:
        """Add to ``hits`` what the segments have."""
        if not hits.nq or hits.k == 0:
            return hits
        shares = zip(self.devices, divide(segments, len(self.devices)), strict=True)
        work = [(device, parts) for device, parts in shares if parts]
        passes = self._passes()

        def scan_share(device: str, parts: list[Part], hits: Hits) -> Hits:
            _scan_parts(passes, device, parts, tables, hits, self.memory)
            return hits

        if len(work) <= 1:
            for device, parts in work:
                scan_share(device, parts, hits)
            return hits
        with ThreadPoolExecutor(len(work)) as pool:
            running = [pool.submit(scan_share, device, parts, hits.new()) for device, parts in work]
            for one in running:
                hits.merge(one.result())
        return hits

    def _passes(self) -> Passes:
        if self.kernel == "torch":
            return TorchPasses()
        need("triton", "gpu", "searches on a GPU")
        from hyperpq.scan.cuda.kernels import TritonPasses

        return TritonPasses()


_MEMORY: dict[str, DeviceMemory] = {}


def memory_of(device: str) -> DeviceMemory:
    """What this process holds on a device, ``cpu`` or ``cuda:N``."""
    return _MEMORY.setdefault(device, DeviceMemory(device))


def _scan_parts(
    passes: Passes,
    device: str,
    parts: Sequence[Part],
    tables: NDArray[np.float32],
    hits: Hits,
    memory: int | None,
) -> None:
    """Search parts of segments on a device."""
    import torch

    with (
        _current(device),
        torch.inference_mode(),
        closing(memory_of(device).pieces(parts, memory)) as pieces,
    ):
        for part, piece in pieces:
            for start in range(0, len(tables), _QUERIES):
                group = slice(start, start + _QUERIES)

                def found(
                    query: NDArray[np.int64],
                    D: NDArray[np.float32],
                    rows: NDArray[np.int64],
                    start: int = start,
                    part: Part = part,
                ) -> None:
                    hits.add(query + start, D, part.ids(rows))

                search_piece(
                    passes,
                    piece,
                    _on_device(tables[group], device),
                    _on_device(hits.theta[group], device),
                    hits.k,
                    found,
                )
            hits.settle()


def _on_device(array: NDArray[np.float32], device: str) -> Tensor:
    """A copy on a device."""
    import torch

    return torch.from_numpy(array.copy()).to(device)


def _current(device: str) -> AbstractContextManager[None]:
    """Make a GPU the one that kernels are launched on."""
    import torch

    if device == "cpu":
        return contextlib.nullcontext()
    return torch.cuda.device(device)
