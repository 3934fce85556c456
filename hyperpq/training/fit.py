"""How well a codec fits features: those that it was learned from, and others.

A codec places features as the training images taught it. Features of images of another kind lie
farther from what it learned than features of further images of the same kind do. So the *fit* of
features is judged by their distances to the nearest vectors of the sample that the codec keeps,
against the same distances of held-out training features, which the codec did not learn from.

The quantization error and the use of codewords are reported beside it, and no threshold is on them:
codebooks are fitted to all training vectors, and so new vectors of the very same kind have 1.6 to 3
times their error where these are 250 to 1,000 (docs/results/growth.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from hyperpq.codec.base import Codec
from hyperpq.codec.learned import LearnedCodec, evenly
from hyperpq.codes import unpack
from hyperpq.training.recipe import Recipe
from hyperpq.training.split import split_rows

if TYPE_CHECKING:
    from torch import Tensor

MAX_FIT_ROWS = 1024
"""Features that a fit is measured on at most: 1.3 MB of kept features at d = 1280."""
# Quantiles of the distances that are recorded: every twentieth.
_QUANTILES = 20
# A feature is far if at most one in so many held-out training features is as far.
_FAR_ONE_OF = 20
# Rows of the sample that are compared at once.
_SAMPLE_ROWS = 1024


@dataclass(frozen=True)
class FitStatistics:
    """How well a codec fits the features that it was learned from.

    Attributes
    ----------
    distances : tuple of float
        Quantiles 0, 5%, ..., 100% of the distances of held-out training features (of all where none
        is held out) to the nearest other vector of the sample: 1 - cosine of tangent vectors. Empty
        for plain codebooks, which keep no sample.
    error : float
        Quantization error of the same features: mean squared distance of a vector to its codewords,
        relative to the mean squared length of a vector.
    used : float
        Share of the codewords that their codes use, of as many as they could.
    """

    distances: tuple[float, ...]
    error: float
    used: float

    @classmethod
    def of(
        cls,
        codec: Codec,
        x: NDArray[np.float32],
        *,
        view_rows: NDArray[np.int64] | None = None,
        seed: int = 0,
    ) -> FitStatistics:
        """Measure a codec on the features that it was learned from.

        Parameters
        ----------
        codec : Codec
            As `train_codec` returned it.
        x : ndarray, shape (n, d), float32
            Features that it was learned from.
        view_rows, seed
            As they were given to `train_codec`; they say which rows were held out.
        """
        rows = np.arange(len(x))
        if isinstance(codec, LearnedCodec):
            held_out = split_rows(len(x), _recipe(codec), view_rows, seed=seed).held_out_rows
            rows = held_out if len(held_out) else rows
        rows = evenly(rows, MAX_FIT_ROWS)
        error, used = _quantization(codec, x[rows])
        distances: tuple[float, ...] = ()
        if isinstance(codec, LearnedCodec) and len(x) > 1:
            found = _distances(codec, x[rows], own=_sample_positions(rows, len(x)))
            quantiles = np.quantile(found, np.linspace(0, 1, _QUANTILES + 1))
            distances = tuple(round(float(value), 6) for value in quantiles)
        return cls(distances, error, used)

    def to_json(self) -> dict[str, Any]:
        """The statistics as JSON types."""
        return {"distances": list(self.distances), "error": self.error, "used": self.used}

    @classmethod
    def from_json(cls, value: Any) -> FitStatistics:
        """Read what `to_json` made.

        Raises
        ------
        ValueError, KeyError, TypeError
            It is something else.
        """
        distances, error, used = value["distances"], value["error"], value["used"]
        if len(value) != 3 or not isinstance(distances, list):
            raise ValueError(f"statistics of a fit are {value!r}")
        if len(distances) not in (0, _QUANTILES + 1):
            raise ValueError(f"{len(distances)} quantiles; expected 0 or {_QUANTILES + 1}")
        for number in (*distances, error, used):
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{number!r} is not a finite number")
        return cls(tuple(map(float, distances)), float(error), float(used))


@dataclass(frozen=True)
class Fit:
    """How well a codec fits features.

    Attributes
    ----------
    unlike : float
        Share of the features, 0 to 1, that are unlike those that the codec was learned from: that
        are farther from the sample than 95% of the held-out training features, less the 5% that are
        so anyway. 0 for plain codebooks.
    error : float
        Their quantization error over that of the training features.
    used : float
        Share of the codewords that their codes use, of as many as they could.
    """

    unlike: float
    error: float
    used: float


def measure_fit(codec: Codec, statistics: FitStatistics, x: NDArray[np.float32]) -> Fit:
    """Measure how well a codec fits features.

    Parameters
    ----------
    codec : Codec
        A trained codec.
    statistics : FitStatistics
        Those of its training.
    x : ndarray, shape (n, d), float32
        Features, n >= 1; of more than `MAX_FIT_ROWS` that many are taken evenly.
    """
    rows = evenly(x, MAX_FIT_ROWS)
    error, used = _quantization(codec, rows)
    unlike = 0.0
    if statistics.distances and isinstance(codec, LearnedCodec):
        far = statistics.distances[_QUANTILES - _QUANTILES // _FAR_ONE_OF]
        share = float((_distances(codec, rows) > far).mean())
        unlike = max(0.0, (share - 1 / _FAR_ONE_OF) / (1 - 1 / _FAR_ONE_OF))
    return Fit(unlike, error / max(statistics.error, 1e-12), used)


def _recipe(codec: Codec) -> Recipe:
    """The recipe of a codec that was just trained."""
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in codec.recipe.items()
    }
    return Recipe().replace(**fields)


def _sample_positions(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Positions of training rows in the sample, which has some of the n rows evenly; or -1."""
    sampled = evenly(np.arange(n))
    positions = np.searchsorted(sampled, rows).clip(max=len(sampled) - 1)
    return np.where(sampled[positions] == rows, positions, -1)


@torch.inference_mode()
def _distances(
    codec: LearnedCodec, x: NDArray[np.float32], own: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """Distances (n,) of features to the nearest vector of the sample, but their own."""
    v = normalize(codec.learned_vectors(x), dim=1)
    nearest = torch.full((len(v),), -1.0)
    for start in range(0, len(codec.sample), _SAMPLE_ROWS):
        sample: Tensor = codec.sample[start : start + _SAMPLE_ROWS].cpu().float()
        cosines = v @ normalize(sample, dim=1).T
        if own is not None:
            mine = np.flatnonzero((own >= start) & (own < start + len(sample)))
            cosines[torch.from_numpy(mine), torch.from_numpy(own[mine] - start)] = -1.0
        nearest = torch.maximum(nearest, cosines.amax(1))
    distances: NDArray[np.float32] = (1 - nearest).numpy()
    return distances


def _quantization(codec: Codec, x: NDArray[np.float32]) -> tuple[float, float]:
    """Relative quantization error of features, and the share of the codewords that they use."""
    codes = codec.encode(x)
    v = codec.embed(x).astype(np.float64)
    error = np.square(v - codec.decode(codes)).sum() / max(np.square(v).sum(), 1e-30)
    unpacked = unpack(codes, codec.M, codec.nbits)
    most = min(len(x), 1 << codec.nbits)
    used = np.mean([len(np.unique(column)) / most for column in unpacked.T])
    return round(float(error), 6), round(float(used), 4)
