"""The smallest of many products, the same one in any batch and on any processor."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperpq.utils.exact_matmul import exact_matmul
from hyperpq.utils.float32 import multiplies_whole

# Products in float32 may rank columns otherwise than exact ones if they differ by less than this
# times the lengths of the factors; the two differ by up to 2.4e-7 of these, 2 to 1,025 coordinates.
_ROUNDING = 4e-6


def nearest_columns(left: Tensor, right: Tensor) -> Tensor:
    """Column of the smallest exact product of each row, the first of equal ones.

    Products in float32 are several times as fast. They settle all rows but those with a second
    column within the rounding error of the smallest product. Where PyTorch may shorten the factors,
    products are computed in float64.

    Parameters
    ----------
    left : Tensor, shape (M, n, k), float64
    right : Tensor, shape (M, k, K), float64

    Returns
    -------
    Tensor, shape (M, n), int64
    """
    longest = right.norm(dim=1).amax(1, keepdim=True)
    error = (_ROUNDING * left.norm(dim=-1) * longest).float()
    cross = left.float() @ right.float() if multiplies_whole() else (left @ right).float()
    if cross.device.type == "cpu":  # numpy's argmin has vector code, torch's has none
        nearest = torch.from_numpy(cross.numpy().argmin(-1))
    else:
        nearest = cross.argmin(-1)
    least = cross.gather(-1, nearest.unsqueeze(-1)) + error.unsqueeze(-1)
    close = (cross <= least).sum(-1) > 1
    for m in close.any(1).nonzero()[:, 0].tolist():
        rows = close[m]
        exact = exact_matmul(left[m, rows], right[m])
        nearest[m, rows] = torch.from_numpy(exact.cpu().numpy().argmin(-1)).to(nearest.device)
    return nearest
