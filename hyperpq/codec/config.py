"""Settings of the codecs: frozen, checked when they are made, and complete.

A codec has all that its weights don't say in one of these objects. `hyperpq.codec.serialization`
writes them to ``codec.json``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from hyperpq.codes import check_sizes
from hyperpq.errors import InvalidInputError
from hyperpq.geometry.registry import GEOMETRIES, METRICS, GeometryName, Metric
from hyperpq.quantizers.flat_metrics import (
    FIDELITY_METRICS,
    FLAT_METRICS,
    FidelityMetric,
    FlatMetric,
)
from hyperpq.utils.validation import as_choice, as_count, as_number

Normalization = Literal["power", "unit", "none"]
Head = Literal["linear", "orthogonal"]

LEARNED_METRICS = (*METRICS, *FIDELITY_METRICS)
"""Metrics that learned codes can have: those of product codes, and those of additive codes."""
BALANCED = "balanced"
"""Name of the metric of balanced codes."""
INNER = "inner"
"""Name of the metric ``cosine`` of additive codes in files and in earlier versions."""
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
HEADS: tuple[Head, ...] = get_args(Head)


def _check_number(value: float, name: str, *, positive: bool = False) -> None:
    """Raise `InvalidInputError` unless a value is finite, and more than 0 if it must be."""
    number = as_number(value, name)
    if not math.isfinite(number) or (positive and number <= 0):
        what = "a finite number above 0" if positive else "a finite number"
        raise InvalidInputError(f"{name} is {value!r}; expected {what}.")


def _as_python(config: object) -> None:
    """Turn NumPy's numbers among settings into those of Python, which JSON can hold."""
    for name, value in vars(config).items():
        if isinstance(value, np.generic):
            object.__setattr__(config, name, value.item())


@dataclass(frozen=True)
class CodecConfig:
    """Settings of a `HiHPQCodec`.

    Attributes
    ----------
    d : int
        Width of the features.
    M : int
        Number of subspaces, each with its own codebook and curvature.
    nbits : {4, 8}
        Bits of one code.
    D : int
        Dimension of a subspace.
    metric : {"l1", "geodesic", "chord"}
        How the distances of the subspaces add up, see `ProductQuantizer`.
    beta : float
        Inverse temperature of the codebook attention, which training alone uses.
    max_norm : float
        Clip radius: longer tangent vectors are shortened to it.
    normalization : {"power", "unit", "none"}
        What happens to a feature first. ``power``: signed square root, minus the training mean,
        then unit length; ``unit``: unit length; ``none``: nothing.
    head : {"linear", "orthogonal"}
        The map to M x D tangent coordinates. ``orthogonal`` keeps its columns orthonormal up to
        one common factor (a point on a Stiefel manifold, trained with geoopt).
    hidden : int
        Width of the residual branch ``gelu(f A + a) B`` beside that map, where f is the normalized
        feature; 0 leaves the branch out.
    dropout : float
        Share of the branch's hidden units that training leaves out, 0 to below 1.
    smoothing_weight, smoothing_neighbours : float, int
        See `Smoothing`; the weight is that for codes of up to 64 bits, see `weight_for_bits`. Only
        codecs that have ``centroids`` smooth.
    temperature, distil_epochs : float, int
        Settings of `distil_codebooks`, which refines the codebooks that `HiHPQCodec.with_bits`
        fits; 0 epochs leave it out.
    geometry : str
        Space of the subspaces, one of `GEOMETRIES`.

    Raises
    ------
    InvalidInputError
        A value is of another type or out of range.
    """

    d: int
    M: int = 4
    nbits: int = 8
    D: int = 16
    metric: Metric = "l1"
    beta: float = 5.0
    max_norm: float = 1.5
    normalization: Normalization = "power"
    head: Head = "linear"
    hidden: int = 0
    dropout: float = 0.0
    smoothing_weight: float = 0.0
    smoothing_neighbours: int = 0
    temperature: float = 0.25
    distil_epochs: int = 0
    geometry: GeometryName = "lorentz"

    def __post_init__(self) -> None:
        as_count(self.d, "d")
        check_sizes(self.M, self.D, self.nbits)
        as_choice(self.metric, "metric", METRICS)
        as_choice(self.normalization, "normalization", NORMALIZATIONS)
        as_choice(self.head, "head", HEADS)
        as_choice(self.geometry, "geometry", GEOMETRIES)
        for name in ("beta", "max_norm", "temperature"):
            _check_number(getattr(self, name), name, positive=True)
        for name in ("dropout", "smoothing_weight"):
            _check_number(getattr(self, name), name)
        for name in ("hidden", "smoothing_neighbours", "distil_epochs"):
            as_count(getattr(self, name), name, 0)
        if not 0 <= self.dropout < 1:
            raise InvalidInputError(f"dropout is {self.dropout}; expected 0 to below 1.")
        if not 0 <= self.smoothing_weight <= 1:
            raise InvalidInputError(
                f"smoothing_weight is {self.smoothing_weight}; expected 0 to 1."
            )
        if self.head == "orthogonal" and self.d < self.width:
            raise InvalidInputError(
                f"head is 'orthogonal' with M x D = {self.width} and d = {self.d}; expected M x D "
                "of at most d; choose a smaller D or head='linear'."
            )
        for name in ("beta", "max_norm"):
            object.__setattr__(self, name, float(getattr(self, name)))
        _as_python(self)

    @property
    def width(self) -> int:
        """Tangent coordinates over all subspaces, M x D."""
        return self.M * self.D


@dataclass(frozen=True)
class AdditiveConfig:
    """Settings of an `AdditiveCodec`.

    Attributes
    ----------
    d : int
        Width of the features.
    M : int
        Number of codebooks, whose codewords add up.
    nbits : {4, 8}
        Bits of one code.
    D : int
        Coordinates of a vector and of each codeword, at least 2.
    normalization : {"power", "unit", "none"}
        As in `CodecConfig`; ``none`` with the metrics ``l2`` and ``ip``.
    metric : {"cosine", "l2", "ip"}
        What distances of codes estimate: 2 - 2 cos, the squared Euclidean distance, or the negative
        of the inner product.

    Raises
    ------
    InvalidInputError
        A value is of another type or out of range.
    """

    d: int
    M: int = 4
    nbits: int = 8
    D: int = 16
    normalization: Normalization = "unit"
    metric: FidelityMetric = "cosine"

    def __post_init__(self) -> None:
        as_count(self.d, "d")
        check_sizes(self.M, self.D, self.nbits, least=2)
        as_choice(self.normalization, "normalization", NORMALIZATIONS)
        as_choice(self.metric, "metric", FIDELITY_METRICS)
        if self.metric != "cosine" and self.normalization != "none":
            raise InvalidInputError(
                f"normalization is {self.normalization!r} with the metric {self.metric!r}; "
                "expected 'none', as lengths of features count."
            )
        _as_python(self)

    @property
    def width(self) -> int:
        """Coordinates that the head maps to: D."""
        return self.D


@dataclass(frozen=True)
class BalancedConfig:
    """Settings of a `BalancedCodec`: those of its two parts, and their balance.

    Attributes
    ----------
    semantic : CodecConfig
        Of the semantic codes, half of all codes or one more.
    fidelity : AdditiveConfig
        Of the fidelity codes, as many or one fewer, for features of the same width.
    balance : float
        Weight of a distance by fidelity codes beside one by semantic codes, 0 to 1, where both
        have the same deviation.

    Raises
    ------
    InvalidInputError
        A value is of another type or out of range, or the parts don't fit each other.
    """

    semantic: CodecConfig
    fidelity: AdditiveConfig
    balance: float = 0.25

    def __post_init__(self) -> None:
        one, two = self.semantic, self.fidelity
        if (one.d, one.nbits) != (two.d, two.nbits) or one.M - two.M not in (0, 1):
            raise InvalidInputError(
                f"semantic has d {one.d}, nbits {one.nbits} and M {one.M}, fidelity {two.d}, "
                f"{two.nbits} and {two.M}; expected the same d and nbits, and as many codes in "
                "both or one more in semantic."
            )
        if two.metric != "cosine":
            raise InvalidInputError(
                f"fidelity has the metric {two.metric!r}; expected 'cosine', as semantic codes "
                "compare directions, too."
            )
        _check_number(self.balance, "balance")
        if not 0 <= self.balance <= 1:
            raise InvalidInputError(f"balance is {self.balance}; expected 0 to 1.")
        object.__setattr__(self, "balance", float(self.balance))

    @property
    def d(self) -> int:
        """Width of the features."""
        return self.semantic.d

    @property
    def M(self) -> int:
        """Codes of a vector: those of both parts."""
        return self.semantic.M + self.fidelity.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self.semantic.nbits


def stored_metric(metric: str | None) -> str | None:
    """Name of a metric in files."""
    return INNER if metric == "cosine" else metric


def fidelity_metric(metric: str | None) -> FidelityMetric:
    """Metric of additive codes, of what was asked for: ``cosine`` unless it is one of theirs.

    The metrics of product codes, such as the default of an index, say nothing about them.
    """
    for known in FIDELITY_METRICS:
        if metric == known:
            return known
    return "cosine"


def check_metric(metric: str, objective: str) -> None:
    """Raise `InvalidInputError` for a metric of additive codes with another objective."""
    if objective != "fidelity" and metric in (*FIDELITY_METRICS, INNER):
        raise InvalidInputError(
            f"metric is {metric!r} with the objective {objective!r}; expected 'l1', 'geodesic' or "
            "'chord'; the objective 'fidelity' has codes for the neighbours by 'cosine', 'l2' or "
            "'ip'."
        )


def balanced_parts(M: int, nbits: int = 8) -> tuple[int, int]:
    """Numbers of semantic and of fidelity codes among M codes of a `BalancedCodec`.

    Raises
    ------
    InvalidInputError
        M is less than 2.
    """
    if M < 2:
        raise InvalidInputError(
            f"M is {M} with the objective 'balanced'; expected at least 2 codes, one for each of "
            f"its parts: {2 * nbits} bits or more."
        )
    return M - M // 2, M // 2


@dataclass(frozen=True)
class PQConfig:
    """Settings of a `PQCodec`.

    Attributes
    ----------
    d : int
        Width of the vectors. Without a rotation it is a multiple of M, and subspace m has the m-th
        d / M coordinates.
    M : int
        Number of subspaces, each with its own codebook.
    nbits : {4, 8}
        Bits of one code.
    metric : {"l2", "ip"}
        Squared Euclidean distance, or the negative of the inner product.
    rotation : int
        Coordinates that vectors are rotated to before they are cut into subspaces (OPQ), a multiple
        of M and at most d; with fewer than d, the others are dropped. 0 for no rotation.

    Raises
    ------
    InvalidInputError
        A value is of another type or out of range.
    """

    d: int
    M: int
    nbits: int = 8
    metric: FlatMetric = "l2"
    rotation: int = 0

    def __post_init__(self) -> None:
        for name, low in (("d", 1), ("M", 1), ("rotation", 0)):
            as_count(getattr(self, name), name, low)
        if self.d % self.M and not self.rotation:
            raise InvalidInputError(
                f"d is {self.d} and M is {self.M}; expected d to be a multiple of M."
            )
        if self.rotation % self.M or self.rotation > self.d:
            raise InvalidInputError(
                f"rotation is {self.rotation} with d {self.d} and M {self.M}; expected a multiple "
                "of M up to d, or 0."
            )
        check_sizes(self.M, self.D, self.nbits)
        as_choice(self.metric, "metric", FLAT_METRICS)
        _as_python(self)

    @property
    def D(self) -> int:
        """Dimension of a subspace: the width of what is cut, over M."""
        return (self.rotation or self.d) // self.M


AnyConfig: TypeAlias = CodecConfig | AdditiveConfig | BalancedConfig | PQConfig
