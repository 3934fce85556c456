"""The compiled module of exact products and nearest rows."""

import numpy as np
from numpy.typing import NDArray

PANEL: int

def left_product(
    a: NDArray[np.float64], panels: NDArray[np.int32], units: NDArray[np.float64], bits: int
) -> NDArray[np.float64]: ...
def smallest_products(
    v: NDArray[np.float64],
    integers: NDArray[np.int32],
    units: NDArray[np.float64],
    bytes: NDArray[np.int8],
    bounds: NDArray[np.float64],
    bits: int,
    count: int,
) -> NDArray[np.int64]: ...
def nearest_rows(
    v: NDArray[np.float32],
    products: NDArray[np.float32],
    errors: NDArray[np.float64],
    integers: NDArray[np.int32],
    units: NDArray[np.float64],
    half: NDArray[np.float64],
    bits: int,
    count: int,
) -> NDArray[np.int64]: ...
def product_tables(
    v: NDArray[np.float64],
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    units: NDArray[np.float64],
    lengths: NDArray[np.float64] | None,
    bits: int,
    near: float,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...
