"""`drawn_over`: what was drawn over one of two images: text, a logo, a sticker, a bar.

What is drawn covers places that are otherwise the same in both images, and it differs from
something that moved in two ways. Text of one shade, opaque or not, changes all the places that it
covers in one direction, brighter or darker; what moves does both, as it leaves one place and covers
another. And what is opaque has few grey levels, where a photo has many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.evidence import opencv

Floats = NDArray[np.float32]

# A place is changed if it differs by more than this many grey levels, and by more than this many
# deviations of what is not changed.
_LEVELS, _DEVIATIONS = 12.0, 4.0
# The share of the places whose differences the change of brightness and contrast is fitted to. What
# is drawn may cover the rest.
_FITTED, _ROUNDS = 0.75, 5
# Least share of the differences that have one direction. Nearly all watermarks have 0.99; of 120
# images with something that moved, nine of ten have less than 0.7.
_ONE_DIRECTION = 0.95
# Least share of the places with one of two grey levels in what is opaque, by how much it exceeds
# that of the whole image, and the most of them in what it covers.
_FLAT, _FLATTER, _COVERED_FLAT = 0.75, 0.25, 0.7
# Grey levels that differ by this much are one.
_SAME_LEVEL = 6
# A page of text or a form has two grey levels nearly everywhere (0.78 to 0.91 of the places; photos
# have 0.25 to 0.58).
_TWO_LEVELS = 0.75
# The largest share of the area that text covers, and anything opaque.
_MOST_TEXT, _MOST = 0.10, 0.15
# Places whose surroundings differ, too, on which grey levels are counted.
_LEAST_PLACES = 4


def drawn_over(
    raw: tuple[Floats, Floats], smooth: tuple[Floats, Floats], shown: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Where something was drawn over one of two images.

    Parameters
    ----------
    raw : pair of ndarrays, shape (h, w), float32
        Both images, one laid on the other, in grey levels of 0 to 255.
    smooth : pair of ndarrays, shape (h, w), float32
        The same without noise.
    shown : ndarray, shape (h, w), bool
        What both show.

    Returns
    -------
    ndarray, shape (h, w), bool; or None
        None if nothing differs, or what differs does not look drawn, or covers too much.
    """
    difference, noise = _difference(smooth[0], smooth[1], shown)
    if difference is None:
        return None
    changed: NDArray[np.bool_] = (np.abs(difference) > noise) & shown
    share = changed.sum() / max(int(shown.sum()), 1)
    flat = max(_two_levels(image[shown]) for image in raw)
    if not 0 < share <= _MOST or flat > _TWO_LEVELS:
        return None
    values = difference[changed].astype(np.float64)
    has_one_direction = abs(values.sum()) >= _ONE_DIRECTION * np.abs(values).sum()
    if has_one_direction and share <= _MOST_TEXT:
        return changed
    inside = opencv().erode(changed.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if inside.sum() < _LEAST_PLACES:
        return None
    covered, drawn = sorted(_two_levels(image[inside]) for image in raw)
    is_flat = drawn > max(_FLAT, flat + _FLATTER)
    return changed if is_flat and covered < _COVERED_FLAT else None


def is_page(a: Floats, b: Floats, shown: NDArray[np.bool_]) -> bool:
    """Whether one of two images (h, w) is like a page of text, where what differs is the text."""
    return max(_two_levels(image[shown]) for image in (a, b)) > _TWO_LEVELS


def _difference(a: Floats, b: Floats, shown: NDArray[np.bool_]) -> tuple[Floats | None, float]:
    """How far b is from a with the brightness and contrast of b, and what counts as changed."""
    x, y = a[shown].astype(np.float64), b[shown].astype(np.float64)
    used = np.ones(len(x), bool)
    gain, offset, apart = 1.0, 0.0, np.zeros(len(x))
    for _ in range(_ROUNDS):
        if not used.any():
            return None, 0.0
        middle = x[used].mean()
        spread = ((x[used] - middle) ** 2).mean()
        gain = float(((x[used] - middle) * y[used]).mean() / max(spread, 1e-6))
        offset = float(y[used].mean() - gain * middle)
        apart = np.abs(y - gain * x - offset)
        used = apart <= np.quantile(apart, _FITTED)
    if gain <= 0.1:
        return None, 0.0
    # The median of the differences is two thirds of their deviation.
    deviation = 1.48 * float(np.median(apart))
    limit = max(_LEVELS, _DEVIATIONS * deviation) * min(1.0, gain)
    return (b - np.float32(gain) * a - np.float32(offset)).astype(np.float32, copy=False), limit


def _two_levels(values: Floats) -> float:
    """Share of some places that have one of the two most frequent grey levels."""
    if not len(values):
        return 0.0
    counts = np.bincount(np.clip(np.round(values), 0, 255).astype(np.int64), minlength=256)
    found = 0
    for _ in range(2):
        near = np.convolve(counts, np.ones(2 * _SAME_LEVEL + 1, np.int64), "same")
        level = int(near.argmax())
        found += int(near[level])
        counts[max(0, level - _SAME_LEVEL) : level + _SAME_LEVEL + 1] = 0
    return found / len(values)
