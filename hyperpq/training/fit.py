"""Whether features are of the kind that a codec was learned from.

A codec that was learned from photographs places drawings badly, and its own space does not show it:
what it has not learned to tell apart lies close together there. The features themselves do. So an
index records a summary of the features that its codec was learned from, a few centroids of one half
of them and how far from these the other half lies. Features of the same kind lie as far, whatever
their number; features of another kind lie farther.

Quantization error, use of codewords and distances in the space of the codec do not separate the two
where it matters (docs/results/growth.md).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.quantizers.kmeans import kmeans

MAX_FIT_ROWS = 1024
"""Features that are compared with the summary at most: 1.3 MB of kept features at d = 1280."""
MIN_SUMMARY_ROWS = 16
"""Fewer features have no summary."""
# Features that a summary is made of at most.
_MAX_SUMMARY_ROWS = 8192
# Random directions that features are projected on, and centroids, at most one for 4 features. With
# half of the directions, or 32 centroids, drawings and further photographs come closer.
_DIRECTIONS, _CENTROIDS, _MIN_FEATURES = 128, 8, 4
# Features of the same kind that are called far, one in so many.
_FAR_ONE_OF = 10
_FLOAT16 = np.dtype("<f2")
# The largest distance 1 - cosine, and more than its rounding.
_MAX_FAR = 2.1


@dataclass(frozen=True)
class FitStatistics:
    """A summary of the features that a codec was learned from.

    Attributes
    ----------
    centroids : bytes
        Up to 8 centroids of projected unit vectors of one half of the features, as little-endian
        float16 of shape (m, 128); m is 0 for fewer than 16 features.
    far : float
        The distance, 1 - cosine, to the nearest centroid that a tenth of the other half exceeds.
    """

    centroids: bytes
    far: float

    @classmethod
    def of(cls, x: NDArray[np.float32], *, seed: int = 0) -> FitStatistics:
        """Summarize features.

        Parameters
        ----------
        x : ndarray, shape (n, d), float32
            Features that a codec is learned from.
        seed : int
            Of the two halves and of k-means.
        """
        if len(x) < MIN_SUMMARY_ROWS:
            return cls(b"", 0.0)
        chosen = np.random.default_rng(seed).permutation(len(x))[:_MAX_SUMMARY_ROWS]
        z = _projected(x[chosen])
        one, other = z[: len(z) // 2], z[len(z) // 2 :]
        m = min(_CENTROIDS, len(one) // _MIN_FEATURES)
        centroids = _unit(kmeans(one, m, seed=seed)[0]).astype(_FLOAT16)
        far = np.quantile(_distances(other, centroids), 1 - 1 / _FAR_ONE_OF)
        return cls(centroids.tobytes(), round(float(far), 6))

    def unlike(self, x: NDArray[np.float32]) -> float:
        """Share of features that are unlike those of the summary, 0 to 1.

        It is the share that is far, less the tenth that is far among features of the same kind. A
        part of the features of a kind that is new, but close to the known ones, is counted.

        Parameters
        ----------
        x : ndarray, shape (n, d), float32
            Features, n >= 1. `MAX_FIT_ROWS` random ones say as much as all.

        Returns
        -------
        float
            0 without a summary. Chance adds up to about 0.6 / sqrt(m), with m the smaller one of
            the number of features and of half of those that the summary is made of.
        """
        if not self.centroids:
            return 0.0
        centroids = np.frombuffer(self.centroids, _FLOAT16).reshape(-1, _DIRECTIONS)
        share = float((_distances(_projected(x), centroids) > self.far).mean())
        return max(0.0, (share - 1 / _FAR_ONE_OF) / (1 - 1 / _FAR_ONE_OF))

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON types: 2.8 kB."""
        return {"centroids": base64.b64encode(self.centroids).decode(), "far": self.far}

    @classmethod
    def from_json(cls, value: Any) -> FitStatistics:
        """Read what `to_json` made.

        Raises
        ------
        ValueError, KeyError, TypeError
            It is something else.
        """
        far, centroids = value["far"], base64.b64decode(value["centroids"], validate=True)
        if len(value) != 2 or type(far) not in (int, float) or not abs(far) <= _MAX_FAR:
            raise ValueError("far is no distance, 0 to 2, beside centroids")
        if len(centroids) > _CENTROIDS * _DIRECTIONS * _FLOAT16.itemsize:
            raise ValueError(f"centroids have {len(centroids)} bytes; expected 8 centroids at most")
        rows = np.frombuffer(centroids, _FLOAT16).reshape(-1, _DIRECTIONS)
        if not np.isfinite(rows).all():
            raise ValueError("centroids have values that are not finite")
        return cls(centroids, float(far))


def _projected(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit vectors of features (n, d), projected on random directions (n, 128), as unit vectors."""
    return _unit(_unit(x) @ _signs(x.shape[1]))


def _signs(d: int) -> NDArray[np.float32]:
    """A random matrix (d, 128) of 1 and -1, which keeps cosines up to 0.1; the same everywhere."""
    words = np.random.PCG64(0).random_raw(d * _DIRECTIONS // 64)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8)).reshape(d, _DIRECTIONS)
    return bits.astype(np.float32) * 2 - 1


def _distances(z: NDArray[np.float32], centroids: NDArray[np.floating]) -> NDArray[np.float32]:
    """1 - cosine, shape (n,), of unit vectors (n, 128) to the nearest of some unit vectors."""
    nearest: NDArray[np.float32] = 1 - (z @ centroids.astype(np.float32).T).max(1)
    return nearest


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    # In float64: squares of large features leave float32.
    wide = x.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True).clip(1e-300)
    return np.ascontiguousarray(unit, np.float32)
