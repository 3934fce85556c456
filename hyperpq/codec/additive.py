"""`AdditiveCodec`: codes whose codewords add up, to keep the exact neighbours of the features."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from hyperpq.codec.config import AdditiveConfig
from hyperpq.codec.learned import HeadCodec, evenly
from hyperpq.quantizers.additive import INNER, AdditiveQuantizer
from hyperpq.quantizers.fit_additive import fit_additive


class AdditiveCodec(HeadCodec):
    """A linear map and an additive quantizer, what ``objective="fidelity"`` trains.

    Parameters
    ----------
    config : AdditiveConfig
        Settings.

    Attributes
    ----------
    quantizer : AdditiveQuantizer
        Its metric is ``inner``.
    """

    config: AdditiveConfig
    quantizer: AdditiveQuantizer

    METRICS = (INNER,)

    def __init__(self, config: AdditiveConfig) -> None:
        super().__init__(config)
        self.quantizer = AdditiveQuantizer(config.M, config.D, config.nbits)
        # The files of learned codecs have these two, whose content only product codes use.
        self.centroids = nn.Buffer(torch.zeros(0, config.width, dtype=torch.float16))
        self.learned_log_c = nn.Buffer(torch.zeros(1))

    @override
    def _with_length(self, M: int, nbits: int, metric: str, rows: Tensor, seed: int) -> Self:
        other = type(self)(replace(self.config, M=M, nbits=nbits))
        for name in ("mean", "weight", "scale", "bias"):
            getattr(other, name).copy_(getattr(self, name))
        other.recipe = self.recipe
        other.sample = nn.Buffer(evenly(rows).half())
        with torch.enable_grad():
            other.quantizer = fit_additive(rows, M, nbits, seed=seed)
        other.is_trained = True
        return other

    @override
    def points_of_sample(self, rows: Tensor) -> Tensor:
        return self.quantizer.points(rows[:, None].double())
