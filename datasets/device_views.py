"""Training views of whole batches, made as tensors on any device.

They are the views of `datasets.augment`, with the same ranges and probabilities. Two things differ:
the four changes of colour have one order, and the values between them are not rounded.

All random choices are made on the CPU, from a seed and the row of the image. So a view depends
neither on the batch that it is in nor on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.datasets.augment import Augmentation
from hyperpq.datasets.device_resize import resize_boxes

if TYPE_CHECKING:
    from torch import Tensor

TUNING = Augmentation(
    scale=(0.4, 1.0), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=0.8, grey_p=0.2, blur_p=0.0
)
"""The strength that fine-tuning takes."""

# Weights of red, green and blue in a grey value (ITU-R 601, as in Pillow).
_GREY = (0.299, 0.587, 0.114)
# Side of the views for which the range of blur is given.
_BLUR_SIDE = 224
# Tries of a crop before the centre is taken, as in torchvision.
_TRIES = 10
# Random numbers of a view: three of each try of a crop and its place, then the rest.
_PLACE = 2 * _TRIES
_FLIP, _JITTER, _BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _TO_GREY, _BLUR, _SIGMA = range(
    _PLACE + 2, _PLACE + 11
)
_NUMBERS = _PLACE + 11


@dataclass(frozen=True)
class ViewChoices:
    """The random choices of n views; what is not done has the value that changes nothing.

    Attributes
    ----------
    boxes : ndarray, shape (n, 4), float32
        Left, top, width and height of the crop, in pixels of the square.
    flip, grey : ndarray, shape (n,), bool
        Whether the view is mirrored, and whether it loses its colours.
    brightness, contrast, saturation : ndarray, shape (n,), float32
        Factors.
    hue : ndarray, shape (n,), float32
        Rotations in whole turns.
    sigma : ndarray, shape (n,), float32
        Standard deviations of the blur, in pixels of the view; 0 for none.
    """

    boxes: NDArray[np.float32]
    flip: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    saturation: NDArray[np.float32]
    hue: NDArray[np.float32]
    sigma: NDArray[np.float32]


class DeviceViews:
    """Makes views of batches of squares.

    Parameters
    ----------
    augmentation : Augmentation
        The strength.
    size : int
        Side of a view in pixels.
    seed : int
        Of the random choices.
    """

    def __init__(self, augmentation: Augmentation, size: int, seed: int) -> None:
        self.augmentation, self.size, self.seed = augmentation, size, seed

    def __call__(
        self,
        pixels: Tensor,
        rows: NDArray[np.int64],
        number: int,
        sizes: NDArray[np.int32] | None = None,
    ) -> Tensor:
        """Make one view of each image.

        Parameters
        ----------
        pixels : Tensor, shape (n, S, S, 3), uint8
            Squares, on the device where the views are made.
        rows : ndarray, shape (n,), int64
            Rows of the images in their set; with the seed and the number they decide all choices.
        number : int
            Number of the view, not negative.
        sizes : ndarray, shape (n, 2), int32, optional
            Widths and heights before the images became squares; those of the squares unless given.

        Returns
        -------
        Tensor, shape (n, 3, size, size), float32
            Values from 0 to 255.
        """
        chosen = self.choices(rows, number, pixels.shape[1], sizes)
        return apply_choices(pixels, chosen, self.size)

    def choices(
        self,
        rows: NDArray[np.int64],
        number: int,
        side: int,
        sizes: NDArray[np.int32] | None = None,
    ) -> ViewChoices:
        """The random choices for images of a side in pixels.

        ``sizes`` (n, 2) are widths and heights that the images had before they were squeezed into
        squares: crops are chosen as of these, and squeezed, too.
        """
        strength, u = self.augmentation, uniform(self.seed, rows, number, _NUMBERS)
        jitters = u[:, _JITTER] < strength.jitter_p
        changes = (u[:, _BRIGHTNESS : _HUE + 1] * 2 - 1) * strength.jitter * jitters[:, None]
        low, high = strength.blur_sigma
        sigma = (low + u[:, _SIGMA] * (high - low)) * self.size / _BLUR_SIDE
        return ViewChoices(
            boxes=_crop_boxes(u, strength, side, sizes),
            flip=u[:, _FLIP] < strength.flip,
            grey=u[:, _TO_GREY] < strength.grey_p,
            brightness=(1 + changes[:, 0]).astype(np.float32),
            contrast=(1 + changes[:, 1]).astype(np.float32),
            saturation=(1 + changes[:, 2]).astype(np.float32),
            hue=changes[:, 3].astype(np.float32),
            sigma=np.where(u[:, _BLUR] < strength.blur_p, sigma, 0).astype(np.float32),
        )


def uniform(seed: int, rows: NDArray[np.int64], number: int, count: int) -> NDArray[np.float64]:
    """Random numbers (n, count) from 0 to below 1, a function of seed, row and number alone.

    It is SplitMix64 (Steele, Lea and Flood, 2014), as a function of a counter.
    """
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed % 2**64) + np.uint64(0x9E3779B97F4A7C15))
        of_view = _mix(start ^ np.uint64(number) * np.uint64(0xBF58476D1CE4E5B9))
        of_row = _mix(of_view ^ rows.astype(np.uint64) * np.uint64(0x94D049BB133111EB))
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = _mix(of_row[:, None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _crop_boxes(
    u: NDArray[np.float64],
    strength: Augmentation,
    side: int,
    sizes: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """Crops (n, 4) of squares, as `augment.crop_box` chooses them of images of some sizes."""
    whole = np.full((len(u), 2), side) if sizes is None else sizes
    whole = whole.astype(np.float64)
    across, up = whole.T
    low, high = (math.log(value) for value in strength.ratio)
    share = strength.scale[0] + u[:, :_PLACE:2] * np.diff(strength.scale)[0]
    area = (across * up)[:, None] * share
    ratio = np.exp(low + u[:, 1:_PLACE:2] * (high - low))
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width > 0) & (width <= across[:, None]) & (height > 0) & (height <= up[:, None])
    first = fits.argmax(1)
    rows = np.arange(len(u))
    w, h = width[rows, first], height[rows, first]
    none = ~fits.any(1)
    # The largest central crop whose aspect ratio is allowed.
    w[none] = np.minimum(across, np.rint(up * strength.ratio[1]).clip(1))[none]
    h[none] = np.minimum(up, np.rint(across / strength.ratio[0]).clip(1))[none]
    left = np.floor(u[:, _PLACE] * (across - w + 1))
    top = np.floor(u[:, _PLACE + 1] * (up - h + 1))
    left[none], top[none] = ((across - w) // 2)[none], ((up - h) // 2)[none]
    boxes = np.stack([left, top, w, h], 1)
    return np.asarray(boxes * np.tile(side / whole, 2), np.float32)


def apply_choices(pixels: Tensor, choices: ViewChoices, size: int) -> Tensor:
    """Views (n, 3, size, size), float32 from 0 to 255, of squares (n, S, S, 3), uint8."""
    import torch

    device = pixels.device

    def there(values: NDArray[np.float32] | NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    x = resize_boxes(pixels, there(choices.boxes), size, there(choices.flip))
    # Known on the CPU, so that nothing waits for the device.
    if (choices.brightness != 1).any():
        x = (x * _each(there(choices.brightness))).clamp(0, 255)
    if (choices.contrast != 1).any():
        mean = _grey(x).mean((1, 2, 3), keepdim=True)
        x = (mean + (x - mean) * _each(there(choices.contrast))).clamp(0, 255)
    if (choices.saturation != 1).any():
        grey = _grey(x)
        x = (grey + (x - grey) * _each(there(choices.saturation))).clamp(0, 255)
    if (choices.hue != 0).any():
        x = rotate_hue(x, there(choices.hue))
    if choices.grey.any():
        x = torch.where(_each(there(choices.grey)), _grey(x), x)
    if (choices.sigma > 0).any():
        x = blur(x, there(choices.sigma))
    return x


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (n, 3, S, S) by Gaussians with deviations (n,) in pixels; 0 blurs nothing.

    At the border the kernel is cut off and normalized anew.
    """
    import torch

    at = torch.arange(x.shape[2], device=x.device, dtype=torch.float32)
    # A tiny deviation leaves the identity.
    t = (at[:, None] - at)[None] / sigma.clamp_min(1e-3)[:, None, None]
    weights = torch.exp(-0.5 * t * t)
    weights = (weights / weights.sum(2, keepdim=True))[:, None]
    with torch.autocast(x.device.type, enabled=False):
        return torch.matmul(weights, torch.matmul(x, weights.transpose(2, 3)))


def rotate_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of images (n, 3, S, S), from 0 to 255, by turns (n,) of the colour circle."""
    import torch

    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    red, green, blue = x.unbind(1)
    by_red = ((green - blue) / chroma.clamp_min(1e-6)) % 6
    by_green = (blue - red) / chroma.clamp_min(1e-6) + 2
    by_blue = (red - green) / chroma.clamp_min(1e-6) + 4
    sector = torch.where(value == red, by_red, torch.where(value == green, by_green, by_blue))
    sector = sector + 6 * turns[:, None, None]
    channels = []
    for shift in (5, 3, 1):
        k = (shift + sector) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def _grey(x: Tensor) -> Tensor:
    """Grey values (n, 1, S, S) of images (n, 3, S, S)."""
    red, green, blue = x.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[:, None]


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
