"""What the trained codecs share: `with_bits`, and those with a linear head their map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from typing_extensions import Self, override

from hyperpq.codec.base import Codec
from hyperpq.codec.config import INNER
from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.codec.freezing import space_of
from hyperpq.codec.sample import evenly
from hyperpq.codes import MAX_CODES
from hyperpq.errors import InvalidInputError
from hyperpq.utils.exact_matmul import RoundedFactor
from hyperpq.utils.kept import Kept
from hyperpq.utils.validation import as_choice, as_count, as_features

if TYPE_CHECKING:
    from hyperpq.codec.config import AdditiveConfig, CodecConfig

# Product of rows (n, k) with a matrix of the head, which is given by its name.
Product = Callable[[Tensor, str], Tensor]

# Features that are mapped at once.
_BATCH = 512


class LearnedCodec(Codec):
    """A codec that was learned, and that has codes of any length."""

    METRICS: ClassVar[tuple[str, ...]]
    """Metrics that codes of this kind can have."""

    @property
    @abstractmethod
    def n_sample(self) -> int:
        """Vectors of the training that the codec keeps, for codes of other lengths."""

    @torch.no_grad()
    def with_bits(
        self,
        bits: int,
        *,
        nbits: int = 8,
        metric: str | None = None,
        x: ArrayLike | None = None,
        seed: int = 0,
    ) -> Self:
        """Make a codec with codes of another length for the same representation.

        Nothing is learned again but the codebooks. For product codes the coordinates are cut into
        ``bits / nbits`` subspaces, k-means fits a codebook to each, and distillation refines the
        codebooks if the recipe says so. For additive codes that many codebooks are fitted, and for
        balanced codes half of them for each part.

        Parameters
        ----------
        bits : int
            Bits of a code, a multiple of ``nbits``.
        nbits : {8, 4}
            Bits of one subquantizer.
        metric : str, optional
            One of `METRICS`; it stays as it is unless given.
        x : array_like, shape (n, d), optional
            Features of images of another kind than those of the training. They replace the sample,
            which codebooks and centroids are fitted to otherwise, in later calls, too. With fewer
            than 160 nothing is smoothed, with fewer than 1,024 nothing refined.
        seed : int
            Seed of k-means and of the refinement.

        Returns
        -------
        LearnedCodec
            Of the same class, on the CPU, in evaluation mode. Codecs with the same sample all give
            the same result.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        InvalidInputError
            The length or the metric isn't possible, or ``x`` isn't made of features.
        """
        self.check_trained()
        bits, nbits = as_count(bits, "bits"), as_count(nbits, "nbits")
        if nbits not in (4, 8) or bits % nbits or bits > MAX_CODES * nbits:
            raise InvalidInputError(
                f"bits is {bits} and nbits {nbits}; expected nbits 8 or 4, and bits a multiple of "
                f"nbits up to {MAX_CODES} x nbits."
            )
        hint = f"leave it out to keep {self.metric!r}"
        named = "cosine" if metric == INNER else metric
        metric = self.metric if named is None else as_choice(named, "metric", self.METRICS, hint)
        features = None if x is None else as_features(x, self.d)
        if not (self.n_sample if features is None else len(features)):
            raise InvalidInputError("x has no rows; expected features to fit codebooks to.")
        return self._relength(bits // nbits, nbits, metric, features, seed).eval()

    @abstractmethod
    def _relength(
        self, M: int, nbits: int, metric: str, x: NDArray[np.float32] | None, seed: int
    ) -> Self:
        """`with_bits` after its checks: ``x`` (n, d) are features, None for the sample."""

    def warn_of_noise(self) -> None:
        """Log a warning if the sample has fewer directions than a vector has codes."""


class HeadCodec(LearnedCodec):
    """A learned codec with a normalization and a linear head.

    Features are normalized and mapped linearly to vectors; a quantizer codes these.

    Parameters
    ----------
    config : CodecConfig or AdditiveConfig
        Settings.

    Attributes
    ----------
    mean : Buffer, shape (d,)
        Training mean that the normalization ``power`` subtracts.
    weight : Parameter, shape (d, width)
        Linear map of normalized features.
    scale : Buffer, scalar
        Factor of ``weight``, which an orthogonal head keeps apart.
    bias : Parameter, shape (width,)
        Added to the mapped features.
    sample : Buffer, shape (s, F), float16
        Vectors of training features, or of the features given to `with_bits`, that `with_bits`
        fits codebooks to. F is the width of the representation.
    """

    config: CodecConfig | AdditiveConfig

    def __init__(self, config: CodecConfig | AdditiveConfig) -> None:
        super().__init__(config)
        d, width = config.d, config.width
        self.mean = nn.Buffer(torch.zeros(d))
        self.weight = nn.Parameter(torch.zeros(d, width))
        self.scale = nn.Buffer(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(width))
        self.sample = nn.Buffer(torch.zeros(0, width, dtype=torch.float16))
        self._rounded: dict[str, Kept[RoundedFactor]] = {}

    def normalize(self, x: Tensor) -> Tensor:
        """Features (n, d) -> normalized features (n, d); a zero vector stays zero."""
        if self.config.normalization == "none":
            return x
        if self.config.normalization == "power":
            x = x.sign() * x.abs().sqrt() - self.mean.to(x.dtype)
        # In float64, where vectors are encoded, short features have a direction, too.
        least = 1e-300 if x.dtype == torch.float64 else 1e-12
        return x / x.norm(dim=1, keepdim=True).clamp_min(least)

    @override
    def feature_space(self) -> FeatureSpace:
        return space_of(self.config, self.mean.float().cpu().numpy())

    def tangent(self, x: Tensor) -> Tensor:
        """Map features to vectors as the head gives them, differentiable.

        Parameters
        ----------
        x : Tensor, shape (n, d)
            Features on the codec's device.

        Returns
        -------
        Tensor, shape (n, spaces, D)
            Neither clipped nor smoothed.
        """
        return self._map(x, self._product)

    @override
    @torch.no_grad()
    def vectors(self, x: Tensor) -> Tensor:
        return self._map(x.double(), self._exact_product).float()

    def _map(self, x: Tensor, product: Product) -> Tensor:
        v = self._head(self.normalize(x), product)
        return v.unflatten(1, (self.quantizer.spaces, self.quantizer.D))

    def _head(self, f: Tensor, product: Product) -> Tensor:
        """Normalized features (n, d) -> vectors (n, width), by a product of one's choice."""
        return product(f, "weight") + self.bias.to(f.dtype)

    def _product(self, f: Tensor, name: str) -> Tensor:
        """Rows f times a matrix of the head."""
        return torch.matmul(f, self._matrix(name).to(f.dtype))

    def _exact_product(self, f: Tensor, name: str) -> Tensor:
        """Rows f times a matrix of the head, which is rounded once: no batch shows."""
        sources = tuple(getattr(self, own) for own in self._sources(name))
        kept = self._rounded.setdefault(name, Kept())
        return kept.get(sources, lambda: RoundedFactor(self._matrix(name).double())).left_product(f)

    def _matrix(self, name: str) -> Tensor:
        matrix: Tensor = getattr(self, name)
        return matrix * self.scale if name == "weight" else matrix

    @staticmethod
    def _sources(name: str) -> tuple[str, ...]:
        """Names of the tensors that a matrix of the head is made of."""
        return (name, "scale") if name == "weight" else (name,)

    def keep_sample(self, v: Tensor) -> None:
        """Keep up to `SAMPLE_SIZE` of vectors (n, spaces, D), evenly taken, for `with_bits`."""
        self.sample = nn.Buffer(evenly(v).flatten(1).half().to(self.device))

    @property
    @override
    def n_sample(self) -> int:
        return len(self.sample)

    @override
    def _relength(
        self, M: int, nbits: int, metric: str, x: NDArray[np.float32] | None, seed: int
    ) -> Self:
        rows = self.sample.cpu().float() if x is None else self.learned_vectors(x)
        return self._with_length(M, nbits, metric, rows, seed)

    @abstractmethod
    def _with_length(self, M: int, nbits: int, metric: str, rows: Tensor, seed: int) -> Self:
        """`with_bits` after its checks: ``rows`` (n, F) are what codebooks are fitted to."""

    @abstractmethod
    def points_of_sample(self, rows: Tensor) -> Tensor:
        """Points (n, spaces, D) in float64 of rows (n, F) of the sample."""

    def learned_vectors(self, features: NDArray[np.float32]) -> Tensor:
        """Features (n, d) -> vectors (n, F) on the CPU, in the coordinates of the sample."""
        rows = torch.empty(len(features), self.weight.shape[1])
        for start in range(0, len(features), _BATCH):
            some = slice(start, start + _BATCH)
            batch = torch.tensor(features[some], device=self.device)
            rows[some] = self.tangent(batch).flatten(1).cpu()
        return rows

    @override
    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "learned": {"F": self.sample.shape[1], "sample": len(self.sample)},
            "recipe": self.recipe,
        }
