"""`AdditiveCodec`: codes whose codewords add up, to keep the exact neighbours of the features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.freezing import unit_of
from hyperpq.codec.learned import HeadCodec, Product
from hyperpq.codec.sample import evenly
from hyperpq.errors import InvalidInputError
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.quantizers.fit_additive import fit_additive
from hyperpq.quantizers.flat_metrics import FIDELITY_METRICS
from hyperpq.utils.exact_matmul import squared_lengths

_LARGEST = float(np.finfo(np.float32).max)


class AdditiveCodec(HeadCodec):
    """A linear map and an additive quantizer, what ``objective="fidelity"`` trains.

    A vector of the quantizer has some coordinates of a feature in an orthonormal basis and its
    squared length. With the metric ``cosine`` features are brought to unit length first, and the
    squared length is one from the mean, a linear function. With ``l2`` and ``ip`` a feature, less
    `mean`, is multiplied by `scale`, a power of two.

    Parameters
    ----------
    config : AdditiveConfig
        Settings.

    Attributes
    ----------
    quantizer : AdditiveQuantizer
        Has the metric of the settings.
    """

    config: AdditiveConfig
    quantizer: AdditiveQuantizer

    METRICS = FIDELITY_METRICS

    def __init__(self, config: AdditiveConfig) -> None:
        super().__init__(config)
        self.quantizer = AdditiveQuantizer(config.M, config.D, config.nbits, metric=config.metric)
        # The files of learned codecs have these two, whose content only product codes use.
        self.centroids = nn.Buffer(torch.zeros(0, config.width, dtype=torch.float16))
        self.learned_log_c = nn.Buffer(torch.zeros(1))

    @override
    def normalize(self, x: Tensor) -> Tensor:
        if self.config.metric == "cosine":
            return super().normalize(x)
        return x - self.mean.to(x.dtype)

    @override
    def _head(self, f: Tensor, product: Product) -> Tensor:
        v = super()._head(f, product)
        if self.config.metric == "cosine":
            return v
        length = squared_lengths(f * self.scale.to(f.dtype))
        return torch.cat([v[:, :-1], length[:, None]], 1).clamp(-_LARGEST, _LARGEST)

    @property
    @override
    def unit(self) -> float:
        return unit_of(self.config, float(self.scale))

    @override
    def keep_sample(self, v: Tensor) -> None:
        most = torch.finfo(torch.float16).max
        super().keep_sample(v.clamp(-most, most))

    @override
    def _with_length(self, M: int, nbits: int, metric: str, rows: Tensor, seed: int) -> Self:
        if metric != self.config.metric:
            raise InvalidInputError(
                f"metric is {metric!r}; expected {self.config.metric!r}, for whose neighbours the "
                "codec was learned; train another index for other ones."
            )
        other = type(self)(replace(self.config, M=M, nbits=nbits))
        for name in ("mean", "weight", "scale", "bias"):
            getattr(other, name).copy_(getattr(self, name))
        other.recipe = self.recipe
        other.keep_sample(evenly(rows))
        with torch.enable_grad():
            other.quantizer = fit_additive(rows, M, nbits, metric=self.config.metric, seed=seed)
        other.is_trained = True
        return other

    @override
    def points_of_sample(self, rows: Tensor) -> Tensor:
        return self.quantizer.points(rows[:, None].double())
