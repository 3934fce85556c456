"""Resizing of batches of images as tensors on any device, with the bytes that Pillow gives.

An axis is resized by a matrix with the weights of Pillow's antialiased filter, so that each image
of a batch can have a box of its own. A few bytes differ by one, as Pillow's weights are rounded to
22 bits, and more of them in tall images, which Pillow 13 resizes downwards before across.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpq.datasets.preprocessing import Interpolation

if TYPE_CHECKING:
    from torch import Tensor


def resize_boxes(
    pixels: Tensor,
    boxes: Tensor,
    size: int,
    flip: Tensor | None = None,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Resize a box of each image to a square.

    Parameters
    ----------
    pixels : Tensor, shape (n, H, W, 3), uint8
        Images.
    boxes : Tensor, shape (n, 4), float32
        Left, top, width and height.
    size : int
        Side of the squares.
    flip : Tensor, shape (n,), bool, optional
        Which are mirrored.
    interpolation : {"bicubic", "bilinear"}
        Both with antialiasing.

    Returns
    -------
    Tensor, shape (n, 3, size, size), float32
        Whole numbers from 0 to 255.
    """
    import torch

    height, width = pixels.shape[1:3]
    x = pixels.permute(0, 3, 1, 2).float()
    across = _matrix(boxes[:, 0], boxes[:, 2], width, size, interpolation)
    down = _matrix(boxes[:, 1], boxes[:, 3], height, size, interpolation)
    if flip is not None:
        across = torch.where(flip[:, None, None], across.flip(1), across)
    # Autocast would multiply in 16 bits.
    with torch.autocast(x.device.type, enabled=False):
        # Pillow has bytes between the two directions.
        x = _as_bytes(torch.matmul(x, across.transpose(1, 2)[:, None]))
        return _as_bytes(torch.matmul(down[:, None], x))


def _as_bytes(x: Tensor) -> Tensor:
    """Whole numbers that are bytes, halves rounded up, in place."""
    return x.add_(0.5).floor_().clamp_(0, 255)


def resize_squares(pixels: Tensor, size: int) -> Tensor:
    """Resize whole squares (n, S, S, 3), uint8, to (n, 3, size, size), float32 from 0 to 255."""
    import torch

    side = pixels.shape[1]
    if side == size:
        return pixels.permute(0, 3, 1, 2).float()
    box = torch.tensor([[0.0, 0.0, side, side]], device=pixels.device)
    return resize_boxes(pixels, box, size)


def _matrix(
    start: Tensor, length: Tensor, side: int, size: int, interpolation: Interpolation
) -> Tensor:
    """Weights (n, size, side) of the pixels of an axis in those of its resized part."""
    import torch

    pixels = torch.arange(side, device=start.device, dtype=torch.float32)
    places = torch.arange(size, device=start.device, dtype=torch.float32)
    scale = (length / size)[:, None]
    centre = start[:, None] + (places + 0.5) * scale
    t = (pixels + 0.5 - centre[:, :, None]) / scale.clamp_min(1)[:, :, None]
    weights = _bicubic(t.abs()) if interpolation == "bicubic" else (1 - t.abs()).clamp_min(0)
    return weights / weights.sum(2, keepdim=True)


def _bicubic(t: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5, of distances that are not negative."""
    import torch

    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
