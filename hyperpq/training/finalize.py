"""The end of a training: codebooks of the requested code length for a learned representation."""

from __future__ import annotations

import copy

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.sample import SAMPLE_SIZE, evenly
from hyperpq.codec.smoothing import fit_centroids
from hyperpq.training.features import tangent_vectors
from hyperpq.training.initialize import LEARNING_NBITS
from hyperpq.training.task import TrainingTask


class Finalizer:
    """Makes the codec of a task from a representation.

    Parameters
    ----------
    task : TrainingTask
        What is trained.
    """

    def __init__(self, task: TrainingTask) -> None:
        self._task = task

    def refined(self, codec: HiHPQCodec) -> HiHPQCodec:
        """The codec with the smoothing and distillation of its recipe; ``codec`` is changed."""
        return self._with_codes(codec, self._task.M, self._task.nbits)

    def plain(self, codec: HiHPQCodec) -> HiHPQCodec:
        """A copy with codebooks of k-means and nothing more: of the start, PCA and k-means."""
        return self._with_codes(_unrefined(codec), self._task.M, self._task.nbits)

    def start(self, codec: HiHPQCodec) -> HiHPQCodec:
        """The codec of a task whose start is not learned from: PCA and k-means."""
        plain = self.plain(codec)
        plain.is_learned = False
        return plain

    def plain_as_learned(self, codec: HiHPQCodec) -> HiHPQCodec:
        """As `plain`, but on the subspaces that were learned, whatever code length is asked for."""
        subspaces = self._task.recipe.representation.subspaces
        if not subspaces:
            return self.plain(codec)
        return self._with_codes(_unrefined(codec), subspaces, LEARNING_NBITS)

    def _with_codes(self, codec: HiHPQCodec, M: int, nbits: int) -> HiHPQCodec:
        x, seed = self._task.x, self._task.seed
        codec.keep_sample(tangent_vectors(codec, evenly(x)))
        if codec.config.smoothing_weight:
            codec.set_centroids(fit_centroids(codec.sample.cpu().float(), seed=seed))
        codec.is_trained = True
        if not self._task.recipe.representation.subspaces:
            # The codebooks stay as they were learned.
            return codec.eval()
        features = x if len(x) > SAMPLE_SIZE else None
        other = codec.with_bits(M * nbits, nbits=nbits, x=features, seed=seed)
        return other.to(codec.device)


def _unrefined(codec: HiHPQCodec) -> HiHPQCodec:
    """A copy without smoothing, and without distillation in `with_bits`."""
    codec = copy.deepcopy(codec)
    codec.disable_refinements()
    return codec
