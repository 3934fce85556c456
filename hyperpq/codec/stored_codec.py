"""`StoredCodec`: the settings and weights of a codec as its files hold them, checked.

Nothing here needs PyTorch: an index that is searched on a CPU never loads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.config import (
    BALANCED,
    INNER,
    AdditiveConfig,
    AnyConfig,
    BalancedConfig,
    CodecConfig,
    PQConfig,
)
from hyperpq.codec.freezing import freeze
from hyperpq.codec.frozen import FrozenCodec
from hyperpq.codec.stored_names import YOUNGER, loaded_normalization, loaded_recipe
from hyperpq.codec.stored_weights import (
    MAX_QUOTED,
    PARTS,
    WEIGHTS_FILE,
    Learned,
    Weights,
    check_factor,
    check_weights,
)
from hyperpq.codes import code_size
from hyperpq.errors import CorruptIndexError, FormatVersionError
from hyperpq.geometry.registry import CURVATURE_SIGNS, GEOMETRIES
from hyperpq.quantizers.flat_metrics import FIDELITY_METRICS, FidelityMetric

SETTINGS_FILE = "codec.json"
FORMAT = "hyperpq-codec"
# Version of the files of learned codecs, of those with the key ``kind``, and of additive codecs
# with another metric than cosine. Flat codebooks changed less often, and readers name the version
# of what they don't know.
_VERSION = 3
_VERSIONS_OF_KINDS = {"pq": 2, BALANCED: 3}
_VERSION_OF_LENGTHS = 4
# Metrics of additive codecs by their names in files.
_ADDITIVE_METRICS: dict[str, FidelityMetric] = {
    INNER if metric == "cosine" else metric: metric for metric in FIDELITY_METRICS
}

# What the files of additive codecs have beside their settings; product codes have a use for it.
ADDITIVE_CONSTANTS = {
    "head": "linear",
    "hidden": 0,
    "dropout": 0.0,
    "average_weight": 0.0,
    "average_neighbours": 0,
    "temperature": 0.25,
    "distil_epochs": 0,
}
ADDITIVE_LEARNED = {"M": 1, "centroids": 0, "max_norm": 1.5}


@dataclass(frozen=True, eq=False)
class StoredCodec:
    """Settings and weights of a trained codec.

    Attributes
    ----------
    config : CodecConfig, AdditiveConfig, BalancedConfig or PQConfig
        The settings.
    learned : Learned or None
        Further sizes of a learned codec; None for flat codebooks, and for a codec of two parts.
    recipe : dict
        How it was trained, see `Codec`.
    weights : mapping of str to ndarray
        By the names of the codec's ``state_dict``.
    parts : dict of str to StoredCodec
        The parts of a balanced codec, whose weights are among those above by longer names.
    """

    config: AnyConfig
    learned: Learned | None
    recipe: dict[str, Any]
    weights: Weights
    parts: dict[str, StoredCodec] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> StoredCodec:
        """Read what `serialization.to_files` wrote; every shape, dtype and value is checked.

        Parameters
        ----------
        files : mapping of str to bytes
            Content of the files by their names.

        Raises
        ------
        CorruptIndexError
            A file is not what `to_files` writes.
        FormatVersionError
            It is what another version writes.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        settings = _Settings.read(files)
        try:
            state = load(files[WEIGHTS_FILE])
        # A type that NumPy does not have is none of a codec.
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptIndexError(
                f"{WEIGHTS_FILE} is not a safetensors file: {_reason(error)}."
            ) from error
        return settings.with_weights(state)

    @property
    def curvatures(self) -> NDArray[np.float32]:
        """Curvatures of the subspaces, with their signs; none where codebooks are flat."""
        if isinstance(self.config, BalancedConfig):
            return self.parts[PARTS[0]].curvatures
        if not isinstance(self.config, CodecConfig):
            return np.empty(0, np.float32)
        log_c: NDArray[np.float32] = self.weights["quantizer.log_c"]
        return np.float32(CURVATURE_SIGNS[self.config.geometry]) * np.exp(log_c)

    @property
    def d(self) -> int:
        """Width of the features."""
        return self.config.d

    @property
    def M(self) -> int:
        """Codes of one vector."""
        return self.config.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self.config.nbits

    @property
    def metric(self) -> str:
        """Name of the distance that tables add up to."""
        return BALANCED if isinstance(self.config, BalancedConfig) else self.config.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.M, self.nbits)

    @property
    def n_sample(self) -> int | None:
        """Vectors of the training that it keeps; None for flat codebooks."""
        part = self.parts.get(PARTS[0], self)
        return None if part.learned is None else part.learned.sample

    def freeze(self) -> FrozenCodec:
        """What encodes and compares by this codec on a CPU."""
        return freeze(self.config, self.weights)


@dataclass(frozen=True)
class _Settings:
    """A `StoredCodec` without its weights."""

    config: AnyConfig
    learned: Learned | None
    recipe: dict[str, Any]
    parts: dict[str, _Settings] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> _Settings:
        """The settings in a file, whose sizes the file of weights must hold."""
        try:
            stored = json.loads(files[SETTINGS_FILE])
            if stored["format"] != FORMAT:
                raise ValueError(f"format is {stored['format']!r}; expected {FORMAT!r}")
            if stored["version"] != version_of(stored):
                raise FormatVersionError(
                    f"{SETTINGS_FILE} has version {ascii(stored['version'])[:60]}; this hyperpq "
                    f"reads version {version_of(stored)}; build the index again or open it with "
                    "the hyperpq that wrote it."
                )
            length = len(files[WEIGHTS_FILE])
            if stored.get("kind") == "pq":
                return _pq_settings(stored, length)
            recipe = loaded_recipe(dict(stored["recipe"]))
            if stored.get("kind") == BALANCED:
                return _balanced_settings(stored, length, recipe)
            if stored["score"] in _ADDITIVE_METRICS:
                return _additive_settings(stored, length, recipe)
            return _product_settings(stored, length, recipe)
        # RecursionError: JSON nested too deep.
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptIndexError(
                f"{SETTINGS_FILE} does not hold the settings of a codec: {_reason(error)}."
            ) from error

    def with_weights(self, state: Weights, part: str = "") -> StoredCodec:
        """The codec with the weights in a file, once they are checked."""
        if isinstance(self.config, BalancedConfig):
            own, parts = dict(state), {}
            for name, settings in self.parts.items():
                start = f"{name}."
                of_part = {
                    key.removeprefix(start): own.pop(key) for key in state if key.startswith(start)
                }
                parts[name] = settings.with_weights(of_part, start)
            check_factor(own)
            return StoredCodec(self.config, None, self.recipe, state, parts)
        check_weights(self.config, self.learned, state, part)
        return StoredCodec(self.config, self.learned, self.recipe, state)


def version_of(stored: Mapping[str, Any]) -> int:
    """Version of the files of a codec with these stored settings."""
    if "kind" not in stored:
        others = [name for name in _ADDITIVE_METRICS if name != INNER]
        return _VERSION_OF_LENGTHS if stored.get("score") in others else _VERSION
    if stored["kind"] not in _VERSIONS_OF_KINDS:
        expected = " or ".join(map(repr, _VERSIONS_OF_KINDS))
        raise ValueError(f"kind is {stored['kind']!r}; expected {expected}")
    return _VERSIONS_OF_KINDS[stored["kind"]]


def _reason(error: Exception) -> str:
    """What is wrong with a file, as a short clause."""
    if isinstance(error, KeyError):
        return f"{str(error)[:MAX_QUOTED]} is missing"
    return str(error)[:MAX_QUOTED].rstrip(".")


def _sizes(table: Mapping[str, Any], *names: str, low: int = 1) -> list[int]:
    sizes = [table[name] for name in names]
    if not all(type(size) is int and size >= low for size in sizes):
        raise ValueError(f"{', '.join(names)} are {sizes}; expected integers from {low} on")
    return sizes


def _check_memory(floats: int, nbits: int, length: int) -> None:
    """Refuse sizes that need more float32 than a file of weights of this length holds."""
    if nbits > 8 or 4 * floats > length:
        raise ValueError(f"the sizes are more than the {length} bytes of {WEIGHTS_FILE} hold")


def _codewords(M: int, nbits: int) -> int:
    """Number of all codewords, of sizes that nobody has checked yet."""
    return M * 2 ** min(nbits, 8)


def _pq_settings(stored: Mapping[str, Any], length: int) -> _Settings:
    d, M, nbits = _sizes(stored, "d", "M", "nbits")
    (rotation,) = _sizes({"rotation": 0, **stored}, "rotation", low=0)
    _check_memory((rotation or d) * _codewords(1, nbits) + rotation * d, nbits, length)
    return _Settings(PQConfig(d, M, nbits, stored["score"], rotation), None, {})


def _additive_settings(stored: Mapping[str, Any], length: int, recipe: dict[str, Any]) -> _Settings:
    learned = stored["learned"]
    d, M, D, nbits = _sizes(stored, "d", "M", "D", "nbits")
    F, (sample,) = _sizes(learned, "M", "F")[1], _sizes(learned, "sample", low=0)
    if (learned["M"], F) != (1, D):
        raise ValueError(f"the learned M and F are {learned['M']}, {F}; expected 1 and {D}")
    _check_memory(d * D + _codewords(M, nbits) * D + sample * F // 2, nbits, length)
    wrong = [name for name, value in ADDITIVE_CONSTANTS.items() if stored[name] != value]
    if wrong:
        raise ValueError(f"{wrong[0]} is {stored[wrong[0]]!r} with the metric {stored['score']!r}")
    max_norm = _check_max_norm(learned["max_norm"])
    metric = _ADDITIVE_METRICS[stored["score"]]
    config = AdditiveConfig(d, M, nbits, D, loaded_normalization(stored), metric)
    return _Settings(config, Learned(1, F, sample, 0, max_norm), recipe)


def _geometry(stored: Mapping[str, Any]) -> Any:
    """Name of the geometry; newer versions may have more of them."""
    name = stored.get("geometry", YOUNGER["geometry"])
    if isinstance(name, str) and name not in GEOMETRIES:
        raise FormatVersionError(
            f"{SETTINGS_FILE} has the geometry {ascii(name)[:60]}; this hyperpq knows "
            f"{', '.join(map(repr, GEOMETRIES))}; open the index with the hyperpq that wrote it."
        )
    return name


def _product_settings(stored: Mapping[str, Any], length: int, recipe: dict[str, Any]) -> _Settings:
    learned = stored["learned"]
    d, M, D, nbits = _sizes(stored, "d", "M", "D", "nbits")
    M0, F = _sizes(learned, "M", "F")
    hidden, *_ = _sizes(stored, "hidden", "average_neighbours", "distil_epochs", low=0)
    sample, centroids = _sizes(learned, "sample", "centroids", low=0)
    if F % M0:
        raise ValueError(f"the learned M and F are {M0}, {F}; expected F to be a multiple of M")
    floats = d * M * D + _codewords(M, nbits) * D + hidden * (d + M * D) + M0
    _check_memory(floats + (sample + centroids) * F // 2, nbits, length)
    if max(1, -(-F // M)) != D:
        raise ValueError(f"D is {D} with M {M} and the learned F {F}; expected F / M, rounded up")
    config = CodecConfig(
        d,
        M,
        nbits,
        D,
        metric=stored["score"],
        beta=stored["beta"],
        max_norm=stored["max_norm"],
        normalization=loaded_normalization(stored),
        head=stored["head"],
        hidden=hidden,
        dropout=stored["dropout"],
        smoothing_weight=stored["average_weight"],
        smoothing_neighbours=stored["average_neighbours"],
        temperature=stored["temperature"],
        distil_epochs=stored["distil_epochs"],
        geometry=_geometry(stored),
    )
    max_norm = _check_max_norm(learned["max_norm"])
    return _Settings(config, Learned(M0, F, sample, centroids, max_norm), recipe)


def _balanced_settings(stored: Mapping[str, Any], length: int, recipe: dict[str, Any]) -> _Settings:
    sizes = _sizes(stored, "d", "M", "nbits")
    # Both parts have the recipe of the whole.
    semantic = _product_settings(stored["semantic"], length, recipe)
    fidelity = _additive_settings(stored["fidelity"], length, recipe)
    assert isinstance(semantic.config, CodecConfig)
    assert isinstance(fidelity.config, AdditiveConfig)
    config = BalancedConfig(semantic.config, fidelity.config, stored["balance"])
    if sizes != [config.d, config.M, config.nbits]:
        raise ValueError(
            f"d, M and nbits are {sizes}; expected {[config.d, config.M, config.nbits]}, as the "
            "parts have"
        )
    metrics = (stored["score"], stored["fidelity"]["score"])
    if metrics != (BALANCED, INNER):
        raise ValueError(
            f"score is {metrics[0]!r} and that of the fidelity part {metrics[1]!r}; expected "
            f"{BALANCED!r} and {INNER!r}"
        )
    return _Settings(config, None, recipe, dict(zip(PARTS, (semantic, fidelity), strict=True)))


def _check_max_norm(value: Any) -> float:
    max_norm = float(value)
    if not 0 < max_norm < float("inf"):
        raise ValueError(f"the learned max_norm is {value}; expected a positive number")
    return max_norm
