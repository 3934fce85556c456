"""Where training ends: codebooks of the requested length, and codes that didn't collapse."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.learned import SAMPLE_SIZE, evenly
from hyperpq.codec.smoothing import fit_centroids
from hyperpq.codes import unpack
from hyperpq.errors import TrainingError
from hyperpq.training.initialize import start_codebooks, tangents
from hyperpq.training.trace import is_collapsed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finish:
    """What makes a codec of a representation.

    Attributes
    ----------
    x : ndarray, shape (n, d), float32
        Features of the training images.
    M, nbits : int
        Of the codes.
    seed : int
        Of k-means.
    """

    x: NDArray[np.float32]
    M: int
    nbits: int
    seed: int

    def whole(self, codec: HiHPQCodec) -> HiHPQCodec:
        """The codec with all that its recipe asks for; ``codec`` is changed."""
        return self._with_codes(codec, self.M, self.nbits)

    def plain(self, codec: HiHPQCodec, *length: int) -> HiHPQCodec:
        """A copy with codebooks of k-means and nothing more: at the start, PCA and k-means.

        ``length`` is another M and nbits.
        """
        codec = copy.deepcopy(codec)
        codec.without_refinements()
        return self._with_codes(codec, *(length or (self.M, self.nbits)))

    def as_learned(self, codec: HiHPQCodec) -> HiHPQCodec:
        """As `plain`, on the subspaces that were learned, whatever the length of the codes."""
        subspaces = codec.recipe["subspaces"]
        return self.plain(codec, *((subspaces, 8) if subspaces else ()))

    def _with_codes(self, codec: HiHPQCodec, M: int, nbits: int) -> HiHPQCodec:
        codec.keep_sample(tangents(codec, evenly(self.x)))
        if codec.config.smoothing_weight:
            codec.set_centroids(fit_centroids(codec.sample.cpu().float(), seed=self.seed))
        codec.is_trained = True
        if not codec.recipe["subspaces"]:
            return codec.eval()
        everything = self.x if len(self.x) > SAMPLE_SIZE else None
        other = codec.with_bits(M * nbits, nbits=nbits, x=everything, seed=self.seed)
        return other.to(codec.device)


def check_codes(codec: HiHPQCodec, x: NDArray[np.float32]) -> None:
    """Raise `TrainingError` if the codes of different features collapsed."""
    if _is_collapsed(codec, x):
        raise TrainingError(
            f"the codes of {len(x)} different features collapsed to almost one; lower the learning "
            "rate, raise the temperature or use epochs=0 (PCA and k-means)."
        )


def repair_codes(codec: HiHPQCodec, x: NDArray[np.float32], seed: int) -> None:
    """Refit collapsed codebooks that were learned once; raise `TrainingError` if that won't do."""
    codec.is_trained = True
    if not _is_collapsed(codec, x):
        return
    log.warning("the codes collapsed in training: the codebooks are fitted again by k-means.")
    start_codebooks(codec, x, seed)
    check_codes(codec, x)


def _is_collapsed(codec: HiHPQCodec, x: NDArray[np.float32]) -> bool:
    """Whether different features have almost one code; equal ones may."""
    x = evenly(x)
    if (x == x[0]).all():
        return False
    codes = unpack(codec.encode(x), codec.M, codec.quantizer.nbits)
    return is_collapsed(torch.from_numpy(codes.copy()), codec.quantizer.K)
