"""`BalancedCodec`: semantic and fidelity codes side by side, whose distances are added up."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self, override

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import BALANCED, BalancedConfig, balanced_parts
from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.learned import HeadCodec, LearnedCodec
from hyperpq.codec.sample import evenly
from hyperpq.geometry.registry import METRICS

# Rows of the sample whose distances to so many others show how far distances deviate.
_QUERIES, _ROWS = 256, 2048


class BalancedCodec(LearnedCodec):
    """A semantic and a fidelity codec as one, what ``objective="balanced"`` trains.

    A code has the semantic codes first, and then those of fidelity. The tables of the fidelity
    codes are multiplied by `factor`, so that a search adds up both distances::

        distance = semantic + factor * fidelity
        factor = balance * deviation(semantic) / deviation(fidelity)

    The deviation is that of the distances from a row of the sample to the codes of others, in the
    mean of the rows. So the balance has the same meaning for any metric and length of a code.

    Parameters
    ----------
    semantic : HiHPQCodec
        Trained codec of half of the codes, or one more.
    fidelity : AdditiveCodec
        Trained codec of as many codes or one fewer, for features of the same width.
    balance : float
        Weight of the distance by fidelity codes, 0 to 1; 0 ranks by the semantic codes alone.
    factor : float, optional
        Instead of the one that the samples of both codecs give.

    Attributes
    ----------
    semantic, fidelity
        The two codecs.
    factor : Buffer, scalar, float32
        As above; ``balance`` itself where one of the deviations is 0, as with a single row.

    Raises
    ------
    InvalidInputError
        The codecs don't fit each other, or ``balance`` is out of range.
    NotTrainedError
        A factor is worked out and one of the codecs is not trained.
    """

    config: BalancedConfig

    METRICS: ClassVar[tuple[str, ...]] = (BALANCED, *METRICS)

    def __init__(
        self,
        semantic: HiHPQCodec,
        fidelity: AdditiveCodec,
        balance: float = 0.25,
        *,
        factor: float | None = None,
    ) -> None:
        super().__init__(BalancedConfig(semantic.config, fidelity.config, balance))
        self.semantic, self.fidelity = semantic, fidelity
        self.quantizer = BalancedQuantizer(self)
        if factor is None:
            factor = _factor(semantic, fidelity, self.config.balance)
        self.factor = nn.Buffer(torch.tensor(factor, dtype=torch.float32, device=semantic.device))
        self.is_trained = semantic.is_trained and fidelity.is_trained
        self.is_learned, self.recipe = semantic.is_learned, semantic.recipe

    @property
    @override
    def device(self) -> torch.device:
        return self.semantic.device

    @property
    @override
    def n_sample(self) -> int:
        return self.semantic.n_sample

    @override
    def vectors(self, x: Tensor) -> Tensor:
        parts = (self.semantic.vectors(x), self.fidelity.vectors(x))
        return torch.cat([part.flatten(1) for part in parts], 1)[:, None]

    @override
    def feature_space(self) -> FeatureSpace:
        return self.semantic.feature_space()

    @override
    def _relength(
        self, M: int, nbits: int, metric: str, x: NDArray[np.float32] | None, seed: int
    ) -> Self:
        semantic, fidelity = balanced_parts(M, nbits)
        of_semantic = None if metric == BALANCED else metric
        return type(self)(
            self.semantic.with_bits(
                semantic * nbits, nbits=nbits, metric=of_semantic, x=x, seed=seed
            ),
            self.fidelity.with_bits(fidelity * nbits, nbits=nbits, x=x, seed=seed),
            self.config.balance,
        )

    @override
    def warn_of_noise(self) -> None:
        self.semantic.warn_of_noise()

    @override
    def settings(self) -> dict[str, Any]:
        sizes = {"d": self.d, "M": self.M, "nbits": self.nbits, "metric": self.metric}
        parts = {"semantic": self.semantic.settings(), "fidelity": self.fidelity.settings()}
        for part in parts.values():
            del part["recipe"]
        return {**sizes, "balance": self.config.balance, **parts, "recipe": self.recipe}


class BalancedQuantizer:
    """The quantizers of both parts of a codec, as one `Quantizer`.

    A vector has the coordinates of the semantic part, subspace by subspace, and then those of the
    fidelity part, in a single row.

    Parameters
    ----------
    codec : BalancedCodec
        The codec, whose factor and parts are used as they are at the time of a call.
    """

    spaces = 1
    metric = BALANCED

    def __init__(self, codec: BalancedCodec) -> None:
        self._codec = codec

    @property
    def M(self) -> int:
        """Codes of one vector, of both parts."""
        return self._codec.config.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self._codec.config.nbits

    @property
    def K(self) -> int:
        """Codewords of a codebook."""
        return 1 << self.nbits

    @property
    def D(self) -> int:
        """Coordinates of a vector, of both parts."""
        return self._codec.config.semantic.width + self._codec.config.fidelity.width

    @property
    def codebooks(self) -> Tensor:
        """Codewords (M, K, D), which are 0 in the coordinates that are not theirs."""
        semantic, fidelity = (part.quantizer.codebooks for part in self._parts())
        words = semantic.new_zeros(self.M, self.K, self.D)
        for m, book in enumerate(semantic):
            words[m, :, m * book.shape[1] : (m + 1) * book.shape[1]] = book
        words[len(semantic) :, :, self._codec.config.semantic.width :] = fidelity
        return words

    @property
    def curvatures(self) -> Tensor:
        """Curvatures of the semantic subspaces."""
        return self._codec.semantic.quantizer.curvatures

    def clip(self, v: Tensor) -> Tensor:
        """Vectors (n, 1, D) -> those that codewords can reach."""
        return self._joined(*(p.quantizer.clip(x) for p, x in self._split(v)))

    def points(self, v: Tensor) -> Tensor:
        """Vectors (n, 1, D) -> points (n, 1, D)."""
        return self._joined(*(p.quantizer.points(x) for p, x in self._split(v)))

    def codes(self, x: Tensor) -> Tensor:
        """Points (n, 1, D) -> codes (n, M), uint8: the semantic ones first."""
        return torch.cat([p.quantizer.codes(points) for p, points in self._split(x)], 1)

    def tables(self, x: Tensor) -> Tensor:
        """Points (nq, 1, D) of queries -> distances (nq, M, K), which add up over M."""
        semantic, fidelity = (p.quantizer.tables(points) for p, points in self._split(x))
        return torch.cat([semantic, fidelity * self._codec.factor.to(fidelity.dtype)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, M) -> vectors (n, 1, D)."""
        semantic, fidelity = self._parts()
        return self._joined(
            semantic.quantizer.decode(codes[:, : semantic.M]),
            fidelity.quantizer.decode(codes[:, semantic.M :]),
        )

    def code_points(self, codes: Tensor) -> Tensor:
        """Codes (n, M) -> points (n, 1, D) in float64."""
        semantic, fidelity = self._parts()
        return self._joined(
            semantic.quantizer.code_points(codes[:, : semantic.M]),
            fidelity.quantizer.code_points(codes[:, semantic.M :]),
        )

    def _parts(self) -> tuple[HiHPQCodec, AdditiveCodec]:
        return self._codec.semantic, self._codec.fidelity

    def _split(self, x: Tensor) -> list[tuple[HeadCodec, Tensor]]:
        """Both parts, each with its share (n, spaces, D) of rows (n, 1, D)."""
        shares = x[:, 0].split([part.config.width for part in self._parts()], 1)
        sizes = [(part.quantizer.spaces, part.quantizer.D) for part in self._parts()]
        return [
            (part, share.unflatten(1, size))
            for part, share, size in zip(self._parts(), shares, sizes, strict=True)
        ]

    @staticmethod
    def _joined(semantic: Tensor, fidelity: Tensor) -> Tensor:
        return torch.cat([semantic.flatten(1), fidelity.flatten(1)], 1)[:, None]


def _factor(semantic: HiHPQCodec, fidelity: AdditiveCodec, balance: float) -> float:
    deviations = [_deviation(part) for part in (semantic, fidelity)]
    return balance * (deviations[0] / deviations[1] if all(deviations) else 1.0)


@torch.no_grad()
def _deviation(codec: HeadCodec) -> float:
    """Standard deviation of the distances from a row of the sample to codes of others.

    The mean over some rows; 0 for fewer than 4 rows, or where all distances are equal.
    """
    codec.check_trained()
    order = torch.from_numpy(np.random.default_rng(0).permutation(codec.n_sample))
    queries, others = (codec.sample[evenly(order[i::2], n)] for i, n in ((0, _QUERIES), (1, _ROWS)))
    if len(others) < 2:
        return 0.0
    tables = codec.quantizer.tables(codec.points_of_sample(queries.float()))
    codes = codec.quantizer.codes(codec.points_of_sample(others.float())).long()
    distances = sum(tables[:, m, codes[:, m]] for m in range(codec.M))
    assert isinstance(distances, Tensor)  # a codec has at least one code
    return float(distances.std(1, correction=0).mean())
