"""`Evidence`: what is kept of an image while it is compared with others.

That is a small grey image with its key points (SIFT). Everything that depends on OpenCV is here and
in `compare`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperpq.utils.imports import need

if TYPE_CHECKING:
    from types import ModuleType

SIDE = 256
"""Longer side in pixels at which images are compared."""
# Icons with a shorter longer side show too little to tell one from another.
_SMALLEST = 32
# Side at which it is measured how sharp an image is: what is finer is noise in a photo.
_SHARP_SIDE = 512
# Key points of an image, the most distinct ones.
_MOST_POINTS = 300
# As in SIFT, but with half the contrast: copies may have lost some.
_OCTAVES, _CONTRAST = 3, 0.02


@dataclass(frozen=True)
class Evidence:
    """What is kept of an image while pairs are compared.

    Attributes
    ----------
    grey : ndarray, shape (h, w), uint8
        Its luminance, with a longer side of `SIDE` pixels.
    points : ndarray, shape (n, 2), float32
        Positions x, y of its key points.
    descriptors : ndarray, shape (n, 128), uint8
        What surrounds them: roots of histograms of gradients (RootSIFT) times 255.
    """

    grey: NDArray[np.uint8]
    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]

    @classmethod
    def of(cls, image: Image.Image) -> Evidence:
        """The evidence of an upright RGB image; of an icon below 32 pixels, that of a blank image.

        Raises
        ------
        MissingDependencyError
            If OpenCV is not installed.
        """
        grey = _grey(image, SIDE)
        if max(image.size) < _SMALLEST:
            grey = np.zeros_like(grey)
        found, raw = (
            opencv().SIFT_create(_MOST_POINTS, _OCTAVES, _CONTRAST).detectAndCompute(grey, None)
        )
        if raw is None:
            return cls(grey, np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8))
        points = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
        share = raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-6)
        return cls(grey, points, np.round(255 * np.sqrt(share)).astype(np.uint8))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.grey.nbytes + self.points.nbytes + self.descriptors.nbytes


def sharpness(image: Image.Image) -> float:
    """How sharp an image is: the deviation of its second derivatives, at 512 pixels at most."""
    grey = _grey(image, min(_SHARP_SIDE, max(image.size)))
    edges = opencv().Laplacian(grey, opencv().CV_32F)
    return round(float(edges.std()), 2)


def opencv() -> ModuleType:
    """OpenCV.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    return need("cv2", "duplicates", "near-duplicates")


def _grey(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The luminance of an image with a longer side of ``side`` pixels."""
    scale = side / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    small = image.convert("L").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small)
