"""From settings and weights of a codec to what encodes by them, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.config import (
    BALANCED,
    AdditiveConfig,
    AnyConfig,
    BalancedConfig,
    CodecConfig,
    PQConfig,
)
from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.codec.frozen import FrozenCodec
from hyperpq.codec.subspace_split import split_coordinates
from hyperpq.inference.additive import AdditiveCodebooks
from hyperpq.inference.balanced import BalancedCodebooks
from hyperpq.inference.flat import FlatCodebooks
from hyperpq.inference.heads import (
    EuclideanHead,
    Head,
    JoinedHeads,
    LinearHead,
    Residual,
    RotationHead,
)
from hyperpq.inference.product import ProductCodebooks
from hyperpq.inference.smoothing import MIN_CENTROIDS, Smoothing, weight_for_bits

Weights = Mapping[str, NDArray[Any]]


def freeze(config: AnyConfig, weights: Weights) -> FrozenCodec:
    """What encodes by the settings and weights of a trained codec.

    Parameters
    ----------
    config : CodecConfig, AdditiveConfig, BalancedConfig or PQConfig
        The settings.
    weights : mapping of str to ndarray
        The weights by the names of the codec's ``state_dict``; they must not change afterwards.
    """
    if isinstance(config, PQConfig):
        return _freeze_pq(config, weights)
    if isinstance(config, BalancedConfig):
        return _freeze_balanced(config, weights)
    if isinstance(config, AdditiveConfig):
        return _freeze_additive(config, weights)
    return _freeze_product(config, weights)


def approximates_features(config: AnyConfig) -> bool:
    """See `Codec.approximates_features`."""
    return isinstance(config, (AdditiveConfig, PQConfig))


def has_corrections(config: AnyConfig) -> bool:
    """See `Codec.has_corrections`."""
    return isinstance(config, AdditiveConfig) and config.metric != "ip"


def unit_of(config: AdditiveConfig, scale: float) -> float:
    """The distance of features where that of vectors is 1: a power of two."""
    return 1.0 if config.metric == "cosine" else 1 / scale**2


def space_of(
    config: CodecConfig | AdditiveConfig | PQConfig, mean: NDArray[np.float32] | None
) -> FeatureSpace:
    """How features themselves are compared, see `Codec.feature_space`, with the mean of a head."""
    if config.metric in ("l2", "ip"):
        return FeatureSpace(config.metric)
    if isinstance(config, PQConfig) or config.normalization != "power":
        return FeatureSpace("cosine")
    return FeatureSpace("cosine", root=True, mean=mean)


def _freeze_pq(config: PQConfig, weights: Weights) -> FrozenCodec:
    rotation = weights.get("rotation")
    return FrozenCodec(
        config.d,
        RotationHead(rotation),
        FlatCodebooks(weights["quantizer.codebooks"], metric=config.metric),
        space_of(config, None),
        approximates_features=approximates_features(config),
        rotation=rotation,
    )


def _freeze_additive(config: AdditiveConfig, weights: Weights) -> FrozenCodec:
    mean, bias, scale = weights["mean"], weights["bias"], weights["scale"]
    matrix = weights["weight"] * scale
    head: Head
    if config.metric == "cosine":
        head = LinearHead(config.normalization, mean, matrix, bias)
    else:
        head = EuclideanHead(mean, matrix, bias, float(scale))
    stress = float(weights["quantizer.stress"])
    return FrozenCodec(
        config.d,
        head,
        AdditiveCodebooks(weights["quantizer.codebooks"], stress, metric=config.metric),
        space_of(config, mean),
        approximates_features=approximates_features(config),
        has_corrections=has_corrections(config),
        unit=unit_of(config, float(scale)),
    )


def _freeze_product(config: CodecConfig, weights: Weights) -> FrozenCodec:
    residual = None
    if config.hidden:
        residual = Residual(*(weights[name] for name in ("up", "up_bias", "down")))
    head = LinearHead(
        config.normalization,
        weights["mean"],
        weights["weight"] * weights["scale"],
        weights["bias"],
        residual,
        _smoothing(config, weights),
    )
    books = ProductCodebooks(
        weights["quantizer.codebooks"],
        weights["quantizer.log_c"],
        metric=config.metric,
        max_norm=config.max_norm,
        geometry=config.geometry,
    )
    return FrozenCodec(config.d, head, books, space_of(config, weights["mean"]))


def _smoothing(config: CodecConfig, weights: Weights) -> Smoothing | None:
    """What smooths vectors; None if they stay as they are."""
    centroids = weights["centroids"]
    neighbours = min(config.smoothing_neighbours, len(centroids) // MIN_CENTROIDS)
    weight = weight_for_bits(config.smoothing_weight, config.M * config.nbits)
    if not (neighbours and weight):
        return None
    index = split_coordinates(centroids.shape[1], config.M, weights.get("order")).ravel()
    # Coordinates that fill up a subspace are 0.
    taken = centroids.astype(np.float32)[:, index.clip(0)] * (index >= 0).astype(np.float32)
    return Smoothing(taken, weight, neighbours)


def _freeze_balanced(config: BalancedConfig, weights: Weights) -> FrozenCodec:
    parts = []
    for name, part in (("semantic.", config.semantic), ("fidelity.", config.fidelity)):
        own = {
            key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)
        }
        parts.append(freeze(part, own))
    semantic, fidelity = parts
    factor = float(weights["factor"])
    books = BalancedCodebooks(semantic.codebooks, fidelity.codebooks, factor, BALANCED)
    head = JoinedHeads((semantic.head, fidelity.head))
    return FrozenCodec(config.d, head, books, semantic.space)
