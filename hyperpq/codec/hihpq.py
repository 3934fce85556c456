"""`HiHPQCodec`: conditioning, projection head and quantizer; features in, codes and tables out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu

from hyperpq.codec.base import UNTRAINED, Codec
from hyperpq.codec.smoothing import Averaging, fit_centroids, weight_of
from hyperpq.codes import MAX_CODES
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.quantizers.additive import INNER, AdditiveQuantizer
from hyperpq.quantizers.fit_additive import fit_additive
from hyperpq.quantizers.fit_product import (
    distil_codebooks,
    fit_codebooks,
    split_coordinates,
    split_curvatures,
    take_coordinates,
)
from hyperpq.quantizers.product import LorentzProductQuantizer
from hyperpq.utils.exact_matmul import exact_matmul
from hyperpq.utils.validation import as_count, as_features

Rows = TypeVar("Rows", Tensor, NDArray[np.float32], NDArray[np.int64])

CONDITIONINGS = ("none", "unit", "root")
HEADS = ("linear", "orthogonal")
# Vectors kept for fitting codebooks of other lengths: 4 MB at 256 coordinates.
SAMPLE = 8192
# sqrt(c) times the clip radius at most: beyond it float32 loses near distances (docs/method.md).
_REACH = 5.0


def evenly(rows: Rows, most: int = SAMPLE) -> Rows:
    """At most ``most`` of rows (n, ...), evenly taken."""
    return rows[:: -(-len(rows) // most) or 1]


class HiHPQCodec(Codec):
    """The learned map between features and codes.

    Parameters
    ----------
    d : int
        Width of the features.
    M, D, nbits, metric, beta, max_norm
        See `LorentzProductQuantizer`. The metric ``inner`` takes an `AdditiveQuantizer` of
        vectors of D coordinates instead, which has no use for ``beta`` and ``max_norm``.
    conditioning : {"root", "unit", "none"}
        What happens to a feature first. ``root``: signed square root, minus the training mean, unit
        length; ``unit``: unit length; ``none``: taken as it is.
    head : {"linear", "orthogonal"}
        The map to M x D tangent coordinates (to D with the metric ``inner``). ``orthogonal`` keeps
        its rows orthonormal times one scale (a point on a Stiefel manifold, trained with geoopt).
    hidden : int
        Width of the residual branch ``gelu(f A + a) B`` beside that map, f the conditioned feature;
        0 leaves it out.
    dropout : float
        Share of the branch's hidden units left out in training.
    average_weight, average_neighbours
        See `averaging.Averaging`; only codecs that have ``centroids`` average. The weight is that
        for codes of up to 64 bits, see `averaging.weight_of`.
    temperature, distil_epochs
        Of `codebooks.distil_codebooks`, which refines what `with_bits` fits; 0 epochs leave it out.

    Attributes
    ----------
    sample : Tensor, shape (s, F), float16
        Tangent vectors of training features, or of those given to `with_bits`, for `with_bits`.
    centroids : Tensor, shape (m, F), float16
        Centroids of these.
    learned_log_c : Tensor, shape (M0,)
        Log curvatures of the M0 subspaces that the representation was learned on.
    learned_norm : float
        Clip radius of these.
    """

    quantizer: LorentzProductQuantizer | AdditiveQuantizer

    def __init__(
        self,
        d: int,
        M: int = 4,
        nbits: int = 8,
        *,
        D: int = 16,
        metric: str = "l1",
        beta: float = 5.0,
        max_norm: float = 1.5,
        conditioning: str = "root",
        head: str = "linear",
        hidden: int = 0,
        dropout: float = 0.0,
        average_weight: float = 0.0,
        average_neighbours: int = 0,
        temperature: float = 0.25,
        distil_epochs: int = 0,
    ) -> None:
        super().__init__(d)
        if d < 1:
            raise InvalidInputError(f"d is {d}; expected the width of the features, at least 1.")
        if conditioning not in CONDITIONINGS:
            raise InvalidInputError(
                f"conditioning is {conditioning!r}; choose one of {', '.join(CONDITIONINGS)}."
            )
        if head not in HEADS:
            raise InvalidInputError(f"head is {head!r}; choose one of {', '.join(HEADS)}.")
        width = D if metric == INNER else M * D
        if head == "orthogonal" and d < width:
            raise InvalidInputError(
                f"an orthogonal head has M x D = {width} rows, more than d = {d}; "
                "choose a smaller D or head='linear'."
            )
        if hidden < 0 or not 0 <= dropout < 1:
            raise InvalidInputError(
                f"hidden is {hidden} and dropout {dropout}; expected 0 or more, and 0 to below 1."
            )
        if not 0 <= average_weight <= 1 or average_neighbours < 0:
            raise InvalidInputError(
                f"average_weight is {average_weight} and average_neighbours {average_neighbours}; "
                "expected 0 to 1, and 0 or more."
            )
        if not temperature > 0 or distil_epochs < 0:
            raise InvalidInputError(
                f"temperature is {temperature} and distil_epochs {distil_epochs}; "
                "expected more than 0, and 0 or more."
            )
        self.conditioning, self.head = conditioning, head
        self.hidden, self.dropout = hidden, dropout
        self.average_weight, self.average_neighbours = average_weight, average_neighbours
        self.temperature, self.distil_epochs = temperature, distil_epochs
        self.quantizer = (
            AdditiveQuantizer(M, D, nbits)
            if metric == INNER
            else LorentzProductQuantizer(M, D, nbits, metric=metric, beta=beta, max_norm=max_norm)
        )
        self.mean = nn.Buffer(torch.zeros(d))
        self.weight = nn.Parameter(torch.zeros(d, width))
        self.scale = nn.Buffer(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(width))
        if hidden:
            self.up = nn.Parameter(torch.zeros(d, hidden))
            self.up_bias = nn.Parameter(torch.zeros(hidden))
            self.down = nn.Parameter(torch.zeros(hidden, width))
        self.sample = nn.Buffer(torch.zeros(0, width, dtype=torch.float16))
        self.set_centroids(torch.zeros(0, width, dtype=torch.float16))
        self.learned_log_c = nn.Buffer(torch.zeros(self.quantizer.spaces))
        self.learned_norm = float(max_norm)

    @property
    def product(self) -> LorentzProductQuantizer:
        """The quantizer of a codec whose metric isn't ``inner``."""
        assert isinstance(self.quantizer, LorentzProductQuantizer)
        return self.quantizer

    def condition(self, x: Tensor) -> Tensor:
        """Features (n, d) -> conditioned features (n, d); a zero vector stays zero."""
        if self.conditioning == "none":
            return x
        if self.conditioning == "root":
            x = x.sign() * x.abs().sqrt() - self.mean.to(x.dtype)
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def tangent(self, x: Tensor) -> Tensor:
        """Features (n, d) -> tangent vectors (n, M, D), not yet clipped; differentiable.

        With the metric ``inner`` they are vectors (n, 1, D).
        """
        return self._head(x, torch.matmul)

    def _head(self, x: Tensor, matmul: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        f = self.condition(x)
        weight, bias = (self.weight * self.scale).to(x.dtype), self.bias.to(x.dtype)
        v = matmul(f, weight) + bias
        if self.hidden:
            inner = gelu(matmul(f, self.up.to(x.dtype)) + self.up_bias.to(x.dtype))
            if self.training and self.dropout:
                # Half the time that torch's own dropout takes on a CPU.
                inner = inner * (torch.rand_like(inner) >= self.dropout) / (1 - self.dropout)
            v = v + matmul(inner, self.down.to(x.dtype))
        return v.unflatten(1, (self.quantizer.spaces, self.quantizer.D))

    def vectors(self, x: Tensor) -> Tensor:
        """Features (n, d) -> the tangent vectors (n, M, D) that are quantized: averaged ones."""
        v = self._head(x.double(), exact_matmul)
        return cast(Tensor, self.averaging(v.flatten(1))).view_as(v).float()

    def keep_sample(self, v: Tensor) -> None:
        """Remember up to `SAMPLE` tangent vectors (n, M, D), evenly taken, and the curvatures."""
        log_c: Tensor = self.learned_log_c
        if isinstance(self.quantizer, LorentzProductQuantizer):
            log_c = self.quantizer.log_c.detach()
        self.set_sample(evenly(v).flatten(1).half(), log_c.clone())

    def set_sample(self, sample: Tensor, log_c: Tensor) -> None:
        """Take over tangent vectors (s, F), and log curvatures (M0,) of learning."""
        self.sample = nn.Buffer(sample.to(self.device))
        self.learned_log_c = nn.Buffer(log_c.to(self.device))

    def set_centroids(self, centroids: Tensor) -> None:
        """Take over centroids (m, F) of the sample."""
        self.centroids = nn.Buffer(centroids.half().to(self.weight.device))
        index = split_coordinates(centroids.shape[1], self.quantizer.spaces)
        self.averaging = self._averaging(take_coordinates(self.centroids.float(), index))

    def _averaging(self, centroids: Tensor) -> Averaging:
        weight = weight_of(self.average_weight, self.M * self.quantizer.nbits)
        return Averaging(centroids, weight, self.average_neighbours)

    @torch.no_grad()
    def with_bits(
        self, bits: int, *, nbits: int = 8, metric: str | None = None, x: Any = None, seed: int = 0
    ) -> HiHPQCodec:
        """The same representation with codes of another length; nothing is learned again.

        The coordinates are cut into ``bits / nbits`` subspaces, hyperbolic k-means fits their
        codebooks, and distillation refines them if the recipe says so. With the metric ``inner``
        that many codebooks are learned again.

        Parameters
        ----------
        bits : int
            Bits of a code, a multiple of ``nbits``.
        nbits : {8, 4}
            Bits of one subquantizer.
        metric : str, optional
            As it is unless given; ``inner`` stays, and is no choice for others.
        x : array_like, shape (n, d), optional
            Features of images of another kind than those of learning. They replace the sample,
            which codebooks and centroids are fitted to otherwise, for later calls, too. Under 160
            nothing is averaged, under 1,024 nothing refined.
        seed : int
            Of k-means.

        Returns
        -------
        HiHPQCodec
            On the CPU, in evaluation mode. Made from any relative with the same sample it is the
            same.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        if not self.is_trained:
            raise NotTrainedError(UNTRAINED)
        bits, nbits = as_count(bits, "bits"), as_count(nbits, "nbits")
        if nbits not in (4, 8) or bits % nbits or bits > MAX_CODES * nbits:
            raise InvalidInputError(
                f"bits is {bits} and nbits {nbits}; expected nbits 8 or 4 and a multiple of it, "
                f"{MAX_CODES} times as many at most."
            )
        metric, M = self.quantizer.metric if metric is None else metric, bits // nbits
        if (metric == INNER) != (self.quantizer.metric == INNER):
            raise InvalidInputError(
                f"metric is {metric!r}, but codes of a codec with the metric "
                f"{self.quantizer.metric!r} can't have it; leave it out."
            )
        if metric == INNER:
            return self._additive_with_bits(M, nbits, x, seed)
        own, F = self.product, self.sample.shape[1]
        index = split_coordinates(F, M)
        # Columns of the learned map, without the zeros that fill up short subspaces.
        real = torch.from_numpy(np.flatnonzero(split_coordinates(F, own.M).ravel() >= 0))
        wide = self._rows_to_fit(x)
        if x is not None:
            wide = wide[:, real]
        sample, centroids = evenly(wide).half(), self.centroids.cpu()
        if self.average_weight and not torch.equal(sample, self.sample.cpu()):
            centroids = fit_centroids(sample.float(), seed=seed)
        log_c = split_curvatures(self.learned_log_c.cpu(), F, M)
        learned = len(self.learned_log_c)
        reach = self.learned_norm * max(1.0, learned / M) ** 0.5
        reach = min(reach, _REACH / float(log_c.exp().sqrt().max()))
        other = HiHPQCodec(
            self.d,
            M,
            nbits,
            D=index.shape[1],
            metric=metric,
            beta=own.beta,
            max_norm=reach,
            conditioning=self.conditioning,
            hidden=self.hidden,
            dropout=self.dropout,
            average_weight=self.average_weight,
            average_neighbours=self.average_neighbours,
            temperature=self.temperature,
            distil_epochs=self.distil_epochs,
        )
        other.recipe, other.learned_norm = self.recipe, self.learned_norm
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        state["weight"] = state["weight"] * state.pop("scale")
        for name in ("weight", "bias", "down"):
            if name in state:
                getattr(other, name).copy_(take_coordinates(state[name][..., real], index))
        for name in ("mean", "up", "up_bias"):
            if name in state:
                getattr(other, name).copy_(state[name])
        other.set_sample(sample, state["learned_log_c"])
        other.set_centroids(centroids)
        q = other.product
        q.log_c.copy_(log_c)
        averaging = other._averaging(other.centroids.float())
        averaged = torch.cat([averaging(rows) for rows in wide.split(SAMPLE)])
        v = take_coordinates(averaged, index).unflatten(1, (M, index.shape[1]))
        q.codebooks.copy_(fit_codebooks(v, q.K, log_c, reach, seed=seed))
        distil_codebooks(
            q,
            evenly(v),
            self._learned_space(metric),
            evenly(wide),
            self.temperature,
            self.distil_epochs,
            seed=seed,
        )
        other.is_trained = True
        return other.eval()

    def _learned_space(self, metric: str) -> LorentzProductQuantizer:
        """The space that the representation was learned in, under a metric; without codebooks."""
        M = len(self.learned_log_c)
        space = LorentzProductQuantizer(
            M, self.sample.shape[1] // M, 4, metric=metric, max_norm=self.learned_norm
        )
        space.log_c.copy_(self.learned_log_c)
        return space

    def _additive_with_bits(self, M: int, nbits: int, x: Any, seed: int) -> HiHPQCodec:
        """`with_bits` of an additive quantizer."""
        v = self._rows_to_fit(x)
        other = HiHPQCodec(
            self.d, M, nbits, D=self.quantizer.D, metric=INNER, conditioning=self.conditioning
        )
        state = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        for name in ("mean", "weight", "scale", "bias"):
            getattr(other, name).copy_(state[name])
        other.recipe = self.recipe
        other.set_sample(evenly(v).half(), state["learned_log_c"])
        with torch.enable_grad():
            other.quantizer = fit_additive(v, M, nbits, seed=seed)
        other.is_trained = True
        return other.eval()

    def _rows_to_fit(self, x: Any) -> Tensor:
        """Tangent vectors of features as rows on the CPU; the codec's own sample without any."""
        if x is None:
            wide = self.sample.cpu().float()
        else:
            features = as_features(x, self.d)
            wide = torch.empty(len(features), self.weight.shape[1])
            for rows, block in self._blocks(features):
                wide[rows] = self.tangent(block).flatten(1).cpu()
        if not len(wide):
            raise InvalidInputError("x has no rows; expected features to fit codebooks to.")
        return wide

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, as JSON types."""
        q = self.quantizer
        bent = {}
        if isinstance(q, LorentzProductQuantizer):
            bent = {"beta": q.beta, "max_norm": q.max_norm}
        return {
            "d": self.d,
            "M": q.M,
            "D": q.D,
            "nbits": q.nbits,
            "score": q.metric,
            **bent,
            "conditioning": self.conditioning,
            "head": self.head,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "average_weight": self.average_weight,
            "average_neighbours": self.average_neighbours,
            "temperature": self.temperature,
            "distil_epochs": self.distil_epochs,
            "learned": {
                "M": len(self.learned_log_c),
                "F": self.sample.shape[1],
                "max_norm": self.learned_norm,
                "sample": len(self.sample),
                "centroids": len(self.centroids),
            },
            "recipe": self.recipe,
        }
