"""`Scanner`: what scans the codes of an index, on the CPU or on GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codes import CodeSegment


class Scanner(Protocol):
    """What scans codes. All scanners return the same results, to the last bit.

    The package `hyperpq.scan` describes parameters, results and errors.
    """

    def search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        k: int,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows of several segments, see `scan.search_segments`."""

    def range_search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        radius: float,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All rows at a distance below a radius, see `scan.range_search_segments`."""


@dataclass(frozen=True)
class CpuScanner:
    """Scans codes on the CPU, with the kernels of `hyperpq.scan`."""

    def search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        k: int,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest rows of several segments, see `scan.search_segments`."""
        return scan.search_segments(tables, segments, k, threads=threads)

    def range_search_segments(
        self,
        tables: NDArray[np.float32],
        segments: Sequence[CodeSegment],
        radius: float,
        *,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All rows at a distance below a radius, see `scan.range_search_segments`."""
        return scan.range_search_segments(tables, segments, radius, threads=threads)


def scanner_for(device: str) -> Scanner:
    """The scanner of an index on a device: ``cpu``, or ``cuda:N`` for a `CudaScanner` there.

    PyTorch and Triton are only imported when a search runs.
    """
    if device == "cpu":
        return CpuScanner()
    from hyperpq.scan.cuda import CudaScanner

    return CudaScanner((device,))
