"""`compare`: lay one image on another, and say how far they agree.

Features and codes say what an image shows. Two photos of a burst show the same, so whether one is a
copy of the other is decided on their pixels. Key points that match give the affine map that lays
one on the other, and then small windows of both are correlated. A copy agrees nearly everywhere but
where something was drawn over it (`drawn`); in another shot something has moved. The correlation
does not depend on brightness and contrast.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hyperpq.duplicates.drawn import drawn_over, is_page
from hyperpq.duplicates.evidence import Evidence, opencv

# A match is kept if its descriptor is this much nearer than the next one.
_RATIO = 0.8
# Pixels by which a match may miss the map that it agrees with, and how many have to agree.
_REACH, _LEAST = 3.0, 6
# The map may scale by up to 5, and one direction by up to 1.35 as much as the other.
_LARGEST_SCALE, _LARGEST_STRETCH = 5.0, 1.35
# With fewer key points, as in a blank or blurred image, it is tried to scale one to the other.
_FEW_POINTS = 30
# Longer side of the frame in which windows are compared, and side of a window in it. Each letter of
# a watermark touches fewer small windows: where 5 % of the frames of a video pass for the same
# image, windows of 9 pixels recognised 89 of 100 watermarked copies, and those of 15 pixels 69.
_FRAME, _SMALLEST_FRAME, _WINDOW = 128, 24, 9
# A window is compared if its deviation exceeds this many of 255 grey levels in both images. Of what
# is smoother, compression leaves only noise (4 levels lost 4 of 100 copies more), and text on it is
# all that there is: windows with texture in one image alone cost 7 of 100 watermarked copies.
_TEXTURE = 6.0
# Correlation from which on a window agrees.
_AGREES = 0.9
# The share of the overlap that has to have texture, and the least correlation of the whole overlap:
# otherwise one watermark on two plain images would be all that is compared. Of 264 copies, the
# least correlation was 0.92.
_LEAST_TEXTURED, _LEAST_CORRELATION = 0.05, 0.8
# Where this share of the windows agrees, it is asked what was drawn over one of the images: where
# more agree there is nothing to explain, and of images of other things fewer agree.
_DRAWN = (0.3, 0.995)
# A descriptor has 4 rows, 4 columns and 8 orientations; a mirror reverses rows and orientations.
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].reshape(-1)


@dataclass(frozen=True)
class Comparison:
    """How two images compare once one lies on the other.

    Attributes
    ----------
    inliers : int
        Number of key points that match and agree on the map.
    overlap : float
        Share of the smaller one's area that both show, at most 1.
    agreement : float
        Share of the windows of the overlap that agree; 0 if it has hardly any texture.
    mirrored : bool
        Whether one is a mirror image of the other.
    covered : float
        Share of the overlap that something drawn over one of them covers. The agreement is that of
        the windows beside it.
    page : bool
        Whether one is like a page of text, of which a copy agrees nearly everywhere.
    """

    inliers: int = 0
    overlap: float = 0.0
    agreement: float = 0.0
    mirrored: bool = False
    covered: float = 0.0
    page: bool = False


def compare(a: Evidence, b: Evidence) -> Comparison:
    """Lay one image on the other, or on its mirror image, where more key points agree."""
    best = Comparison()
    for matrix, inliers, mirrored in _alignments(a, b):
        grey = b.grey[:, ::-1] if mirrored else b.grey
        found = _agreement(a.grey, np.ascontiguousarray(grey), matrix)
        if (found.agreement, inliers) > (best.agreement, best.inliers):
            best = replace(found, inliers=inliers, mirrored=mirrored)
    return best


def _alignments(a: Evidence, b: Evidence) -> Iterator[tuple[NDArray[np.float64], int, bool]]:
    """Maps from b, or its mirror image, to a: matrices (2, 3), with their number of inliers."""
    any_found = False
    for mirrored in (False, True):
        found = _matched(a, b, mirrored)
        if found is not None:
            any_found = True
            yield *found, mirrored
            if found[1] > _FEW_POINTS:
                return
    if any_found or min(len(a.points), len(b.points)) >= _FEW_POINTS:
        return
    (height, width), (b_height, b_width) = a.grey.shape, b.grey.shape
    across, down = width / b_width, height / b_height
    if max(across, down) <= min(across, down) * _LARGEST_STRETCH:
        for mirrored in (False, True):
            yield np.array([[across, 0.0, 0.0], [0.0, down, 0.0]]), 0, mirrored


def _matched(a: Evidence, b: Evidence, mirrored: bool) -> tuple[NDArray[np.float64], int] | None:
    """The map on which most key points agree, and how many; None if there is none."""
    if min(len(a.points), len(b.points)) < _LEAST:
        return None
    descriptors, points = b.descriptors, b.points
    if mirrored:
        descriptors = descriptors[:, _MIRRORED]
        points = np.stack([b.grey.shape[1] - 1 - points[:, 0], points[:, 1]], axis=1)
    # Products of integers below 2^24 are exact, and so the same on all processors.
    products = a.descriptors.astype(np.float32) @ descriptors.astype(np.float32).T
    nearest = products.argmax(axis=1)
    rows = np.arange(len(products))
    first = products[rows, nearest]
    products[rows, nearest] = -1
    # Descriptors have length 255, up to rounding.
    kept = np.flatnonzero(255.0**2 - first < _RATIO**2 * (255.0**2 - products.max(axis=1)))
    if len(kept) < _LEAST:
        return None
    cv2 = opencv()
    matrix, agree = cv2.estimateAffine2D(
        points[nearest[kept]].astype(np.float32),
        a.points[kept],
        method=cv2.RANSAC,
        ransacReprojThreshold=_REACH,
        maxIters=1000,
        confidence=0.995,
    )
    if matrix is None or not np.isfinite(matrix).all() or int(agree.sum()) < _LEAST:
        return None
    large, small = np.linalg.svd(matrix[:, :2], compute_uv=False)
    is_likely = (
        np.linalg.det(matrix[:, :2]) > 0
        and large <= _LARGEST_SCALE
        and small * _LARGEST_SCALE >= 1
        and large <= small * _LARGEST_STRETCH
    )
    return (matrix, int(agree.sum())) if is_likely else None


def _agreement(
    a: NDArray[np.uint8], b: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> Comparison:
    """Overlap, agreement, and what is covered of two images, given the map from b to a."""
    cv2 = opencv()
    height, width = a.shape
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    # The frame shows a, no finer than b does.
    side = max(height, width)
    factor = max(min(_FRAME / side, 1.0, 1 / scale), _SMALLEST_FRAME / side)
    w, h = max(8, round(width * factor)), max(8, round(height * factor))
    to_b = _from_frame(cv2.invertAffineTransform(matrix), width / w, height / h)
    shrunk = float(np.sqrt(np.linalg.det(to_b[:, :2])))
    if shrunk > 1.2:
        b = cv2.GaussianBlur(b, (0, 0), shrunk / 2)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    one = cv2.resize(a, (w, h), interpolation=cv2.INTER_AREA)
    other = cv2.warpAffine(b, to_b, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    shown = cv2.warpAffine(np.full(b.shape, 255, np.uint8), to_b, (w, h), flags=flags) > 250
    # The edge of b is a mixture with what is outside it.
    shown = cv2.erode(shown.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1) > 0
    area = float(shown.mean())
    overlap = min(1.0, max(area, float(shown.sum()) * shrunk**2 / b.size))
    raw = one.astype(np.float32), other.astype(np.float32)
    smooth = cv2.GaussianBlur(raw[0], (0, 0), 1.0), cv2.GaussianBlur(raw[1], (0, 0), 1.0)
    agreement, low, high = _share(*smooth, shown), *_DRAWN
    if agreement <= low:
        agreement = agreement if _is_like(*smooth, shown) else 0.0
        return Comparison(0, overlap, agreement)
    if agreement < high:
        drawn = drawn_over(raw, smooth, shown)
        if drawn is not None:
            beside = shown & ~drawn
            if _is_like(*smooth, beside):
                covered = float(drawn.sum() / shown.sum())
                return Comparison(0, overlap, _share(*smooth, beside), covered=covered)
    agreement = agreement if _is_like(*smooth, shown) else 0.0
    return Comparison(0, overlap, agreement, page=is_page(*raw, shown))


def _is_like(a: NDArray[np.float32], b: NDArray[np.float32], shown: NDArray[np.bool_]) -> bool:
    """Whether two images are alike as a whole."""
    return _correlation(a[shown], b[shown]) >= _LEAST_CORRELATION


def _share(a: NDArray[np.float32], b: NDArray[np.float32], shown: NDArray[np.bool_]) -> float:
    """Share of the windows that agree; 0 if there are too few."""
    correlation = _correlations(a, b, shown)
    if len(correlation) < max(1, _LEAST_TEXTURED * shown.sum()):
        return 0.0
    return float((correlation > _AGREES).mean())


def _from_frame(to_b: NDArray[np.float64], across: float, down: float) -> NDArray[np.float64]:
    """The map from pixels of the frame to b, given that from a and the size of a frame's pixel."""
    out: NDArray[np.float64] = to_b.copy()
    out[:, 0] *= across
    out[:, 1] *= down
    out[:, 2] += to_b[:, :2] @ np.array([(across - 1) / 2, (down - 1) / 2])
    return out


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlation of values (n,) with others; 0 if either are all equal."""
    if not len(a) or min(float(np.ptp(a)), float(np.ptp(b))) == 0:
        return 0.0
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


def _correlations(
    a: NDArray[np.float32], b: NDArray[np.float32], shown: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Correlations (n,) of the windows that have texture in both of two images of one size."""
    cv2 = opencv()
    weight = shown.astype(np.float32)

    def window(x: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = cv2.boxFilter(
            x, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT
        )
        return out

    # Share of each window that both show.
    filled = window(weight)
    known: NDArray[np.float32] = np.maximum(filled, np.float32(1e-6)).astype(np.float32, copy=False)

    def mean(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return (window(x * weight) / known).astype(np.float32, copy=False)

    mean_a, mean_b = mean(a), mean(b)
    var_a = np.maximum(mean(a * a) - mean_a**2, 0)
    var_b = np.maximum(mean(b * b) - mean_b**2, 0)
    together = mean(a * b) - mean_a * mean_b
    # One of them may have less contrast.
    gain = (var_a[shown].mean() + 1) / (var_b[shown].mean() + 1)
    used = shown & (np.minimum(var_a, var_b * gain) > _TEXTURE**2) & (filled > 0.5)
    out = together / np.sqrt((var_a + 1) * (var_b + 1 / gain))
    return out[used].astype(np.float32, copy=False)
