"""Heads of trained codecs: from features to the vectors that are quantized, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hyperpq.inference.codebooks import Float64s
from hyperpq.inference.smoothing import Smoothing
from hyperpq.utils.exact_products import RoundedMatrix, squared_lengths

_LARGEST = float(np.finfo(np.float32).max)
_SQRT_HALF = 0.5**0.5


class Head(Protocol):
    """Features to vectors."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) -> vectors (n, spaces * D); each row has the same bits in any batch."""


class Residual:
    """The branch beside a linear map: ``gelu(f A + a) B``.

    Parameters
    ----------
    up, up_bias, down : ndarray, shapes (d, hidden), (hidden,), (hidden, width), float32
    """

    def __init__(
        self,
        up: NDArray[np.float32],
        up_bias: NDArray[np.float32],
        down: NDArray[np.float32],
    ) -> None:
        self._up, self._bias = RoundedMatrix(up.astype(np.float64)), up_bias.astype(np.float64)
        self._down = RoundedMatrix(down.astype(np.float64))

    def __call__(self, f: Float64s) -> Float64s:
        """Normalized features (n, d) -> what is added to the linear map (n, width)."""
        inner = self._up.left_product(f) + self._bias
        return self._down.left_product(inner * 0.5 * (1 + _erf(inner * _SQRT_HALF)))


class LinearHead:
    """A normalization, a linear map, and what a codec may have beside it.

    Parameters
    ----------
    normalization : {"power", "unit", "none"}
        Of features, see `CodecConfig`.
    mean : ndarray, shape (d,), float32
        What is subtracted from signed square roots.
    weight, bias : ndarray, shapes (d, width) and (width,), float32
        The map, times its scale, and what is added.
    residual : Residual, optional
        The branch beside it.
    smoothing : Smoothing, optional
        What is done to the vectors.
    """

    def __init__(
        self,
        normalization: str,
        mean: NDArray[np.float32],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        residual: Residual | None = None,
        smoothing: Smoothing | None = None,
    ) -> None:
        self._normalization, self._mean = normalization, mean.astype(np.float64)
        self._weight, self._bias = RoundedMatrix(weight.astype(np.float64)), bias.astype(np.float64)
        self._residual, self._smoothing = residual, smoothing

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) -> vectors (n, width)."""
        f = normalized(x, self._normalization, self._mean)
        v = self._weight.left_product(f) + self._bias
        if self._residual is not None:
            v += self._residual(f)
        if self._smoothing is not None:
            v = self._smoothing(v)
        return v.astype(np.float32)


class EuclideanHead:
    """The head of additive codes by the Euclidean distance or the inner product.

    Parameters
    ----------
    mean : ndarray, shape (d,), float32
        What is subtracted from features.
    weight, bias : ndarray, shapes (d, D) and (D,), float32
        The map, times its scale, and what is added; the last coordinate is replaced.
    scale : float
        A power of two, by which features are multiplied for their squared length.
    """

    def __init__(
        self,
        mean: NDArray[np.float32],
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        scale: float,
    ) -> None:
        self._mean, self._scale = mean.astype(np.float64), scale
        self._weight, self._bias = RoundedMatrix(weight.astype(np.float64)), bias.astype(np.float64)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) -> vectors (n, D), whose last coordinate is the squared length."""
        f = x.astype(np.float64) - self._mean
        v = self._weight.left_product(f) + self._bias
        v[:, -1] = squared_lengths(f * self._scale)
        return np.clip(v, -_LARGEST, _LARGEST).astype(np.float32)


class RotationHead:
    """Features as they are, or times orthonormal rows.

    Parameters
    ----------
    rotation : ndarray, shape (width, d), float32, or None
        The rows.
    """

    def __init__(self, rotation: NDArray[np.float32] | None) -> None:
        self._factor = None if rotation is None else RoundedMatrix(rotation.T.astype(np.float64))

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) -> what is cut into subspaces (n, width)."""
        if self._factor is None:
            return x
        return self._factor.left_product(x.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class JoinedHeads:
    """The heads of the parts of a codec, side by side."""

    parts: tuple[Head, ...]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (n, d) -> vectors of all parts (n, width)."""
        return np.concatenate([part(x) for part in self.parts], 1)


# erf(x) = x T(x^2) / U(x^2) up to 1, and 1 - exp(-x^2) P(x) / Q(x) from there on, with a relative
# error of 4e-16: the rational functions of Cephes (S. L. Moshier, Methods and Programs for
# Mathematical Functions, 1989). SciPy, which is 100 MB, has the same.
_T = np.array(
    [
        *(9.60497373987051638749, 90.0260197203842689217, 2232.00534594684319226),
        *(7003.32514112805075473, 55592.3013010394962768),
    ]
)
_U = np.array(
    [
        *(1.0, 33.5617141647503099647, 521.357949780152679795, 4594.32382970980127987),
        *(22629.0000613890934246, 49267.3942608635921086),
    ]
)
_P = np.array(
    [
        *(2.46196981473530512524e-10, 0.564189564831068821977, 7.46321056442269912687),
        *(48.6371970985681366614, 196.520832956077098242, 526.445194995477358631),
        *(934.528527171957607540, 1027.55188689515710272, 557.535335369399327526),
    ]
)
_Q = np.array(
    [
        *(1.0, 13.2281951154744992508, 86.7072140885989742329, 354.937778887819891062),
        *(975.708501743205489753, 1823.90916687909736289, 2246.33760818710981792),
        *(1656.66309194161350182, 557.535340817727675546),
    ]
)


def _erf(x: Float64s) -> Float64s:
    """The error function."""
    # From 6 on it is 1 in float64.
    size = np.minimum(np.abs(x), 6.0)
    square = size * size
    near = size * np.polyval(_T, square) / np.polyval(_U, square)
    far = 1.0 - np.exp(-square) * np.polyval(_P, size) / np.polyval(_Q, size)
    return np.copysign(np.where(size < 1.0, near, far), x)


def normalized(x: NDArray[np.float32], normalization: str, mean: Float64s) -> Float64s:
    """Features (n, d) normalized, see `HeadCodec.normalize`; a zero vector stays zero."""
    wide = x.astype(np.float64)
    if normalization == "none":
        return wide
    if normalization == "power":
        wide = np.copysign(np.sqrt(np.abs(wide)), wide) - mean
    length = np.sqrt((wide * wide).sum(1, keepdims=True))
    # Short features have a direction, too.
    return wide / np.maximum(length, 1e-300)
