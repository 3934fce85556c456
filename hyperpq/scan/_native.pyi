from typing import Any

import numpy as np
from numpy.typing import NDArray

def levels() -> list[str]: ...
def search_segments(
    tables: NDArray[np.float32],
    segments: list[tuple[Any, ...]],
    k: int,
    threads: int,
    level: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def range_search_segments(
    tables: NDArray[np.float32],
    segments: list[tuple[Any, ...]],
    radius: float,
    threads: int,
    level: str,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
def search_cells(
    tables: NDArray[np.float32],
    segments: list[tuple[Any, ...]],
    starts: list[NDArray[np.int64]],
    cells: NDArray[np.int64],
    k: int,
    threads: int,
    level: str,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
def range_search_cells(
    tables: NDArray[np.float32],
    segments: list[tuple[Any, ...]],
    starts: list[NDArray[np.int64]],
    cells: NDArray[np.int64],
    radius: float,
    threads: int,
    level: str,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
def compare_features(
    parts: list[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]],
    queries: NDArray[np.float64],
    kind: str,
    root: bool,
    mean: NDArray[np.float32] | None,
    bits: int,
    differences: bool,
    threads: int,
    level: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
def stream(data: NDArray[np.uint8], level: str) -> int: ...
