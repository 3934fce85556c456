"""Codecs as files: weights in safetensors, settings in JSON beside them, all checked on loading.

The names of the file format are in `codec.stored_names`, and `codec.stored_weights` checks the
weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BALANCED, BalancedCodec
from hyperpq.codec.base import Codec
from hyperpq.codec.config import (
    INNER,
    AdditiveConfig,
    CodecConfig,
    PQConfig,
    stored_metric,
)
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.stored_names import (
    STORED_NAMES,
    YOUNGER,
    loaded_normalization,
    loaded_recipe,
    renamed,
)
from hyperpq.codec.stored_names import stored_recipe as stored_recipe
from hyperpq.codec.stored_weights import MAX_QUOTED, PARTS, load_weights
from hyperpq.codec.stored_weights import WEIGHTS_FILE as WEIGHTS_FILE
from hyperpq.errors import CorruptIndexError, FormatVersionError
from hyperpq.geometry.registry import GEOMETRIES
from hyperpq.quantizers.flat_metrics import FIDELITY_METRICS, FidelityMetric

AnyCodec: TypeAlias = HiHPQCodec | AdditiveCodec | BalancedCodec | PQCodec

SETTINGS_FILE = "codec.json"
_FORMAT = "hyperpq-codec"
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
_ADDITIVE_CONSTANTS = {
    "head": "linear",
    "hidden": 0,
    "dropout": 0.0,
    "average_weight": 0.0,
    "average_neighbours": 0,
    "temperature": 0.25,
    "distil_epochs": 0,
}
_ADDITIVE_LEARNED = {"M": 1, "centroids": 0, "max_norm": 1.5}


def to_files(codec: Codec) -> dict[str, bytes]:
    """Write a codec.

    Parameters
    ----------
    codec : Codec
        A trained codec.

    Returns
    -------
    dict of str to bytes
        Content of each file by its name; the same codec always gives the same bytes.

    Raises
    ------
    NotTrainedError
        The codec is not trained.
    """
    from safetensors.torch import save

    codec.check_trained()

    state = {k: v.detach().cpu().contiguous() for k, v in codec.state_dict().items()}
    stored = stored_settings(codec)
    stored |= {"format": _FORMAT, "version": _version(stored)}
    text = json.dumps(stored, indent=1, sort_keys=True) + "\n"
    return {WEIGHTS_FILE: save(state), SETTINGS_FILE: text.encode()}


def from_files(files: Mapping[str, bytes]) -> AnyCodec:
    """Read what `to_files` wrote; every shape, dtype and value is checked.

    Parameters
    ----------
    files : mapping of str to bytes
        Content of the files by their names.

    Returns
    -------
    HiHPQCodec, AdditiveCodec, BalancedCodec or PQCodec
        On the CPU, in evaluation mode.

    Raises
    ------
    CorruptIndexError
        A file is not what `to_files` writes.
    FormatVersionError
        It is what another version writes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    codec = _from_settings(files)
    try:
        state = load(files[WEIGHTS_FILE])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CorruptIndexError(
            f"{WEIGHTS_FILE} is not a safetensors file: {_reason(error)}."
        ) from error
    load_weights(codec, state)
    return codec.eval()


def stored_settings(codec: Codec) -> dict[str, Any]:
    """Everything but the weights of a codec, by the names of codec.json.

    Two codecs with the same weights and the same settings are the same codec.
    """
    if isinstance(codec, BalancedCodec):
        settings = codec.settings()
        parts = {name: stored_settings(getattr(codec, name)) for name in PARTS}
        for part in parts.values():
            # The recipe of the whole.
            del part["recipe"]
        sizes = {name: settings[name] for name in ("d", "M", "nbits", "balance")}
        recipe = {"recipe": stored_recipe(codec.recipe)}
        return {"kind": BALANCED, **sizes, "score": codec.metric, **parts, **recipe}
    settings = codec.settings()
    recipe = {"recipe": stored_recipe(settings.pop("recipe"))} if "recipe" in settings else {}
    stored = renamed(settings, STORED_NAMES) | {"score": stored_metric(codec.metric)} | recipe
    if isinstance(codec, PQCodec):
        return {"kind": "pq", **stored}
    if isinstance(codec, AdditiveCodec):
        return {**stored, **_ADDITIVE_CONSTANTS, "learned": stored["learned"] | _ADDITIVE_LEARNED}
    return stored


def difference(one: Codec, other: Codec) -> str | None:
    """In what two codecs differ, as one clause; None if they give the same codes and tables."""
    mine, theirs = _compared(one), _compared(other)
    for name in dict.fromkeys(["d", "M", "nbits", "metric", *mine, *theirs]):
        if name != "recipe" and mine.get(name) != theirs.get(name):
            return f"{name} is {mine.get(name)!r} here and {theirs.get(name)!r} there"
    weights = [to_files(codec)[WEIGHTS_FILE] for codec in (one, other)]
    return None if weights[0] == weights[1] else "the codecs were learned apart"


def _compared(codec: Codec) -> dict[str, Any]:
    """Settings of a codec, and of the parts of a balanced one by names such as ``semantic D``."""
    settings = codec.settings()
    for name in PARTS if isinstance(codec, BalancedCodec) else ():
        settings |= {f"{name} {key}": value for key, value in settings.pop(name).items()}
    return settings


def _version(stored: Mapping[str, Any]) -> int:
    if "kind" not in stored:
        others = [name for name in _ADDITIVE_METRICS if name != INNER]
        return _VERSION_OF_LENGTHS if stored.get("score") in others else _VERSION
    if stored["kind"] not in _VERSIONS_OF_KINDS:
        expected = " or ".join(map(repr, _VERSIONS_OF_KINDS))
        raise ValueError(f"kind is {stored['kind']!r}; expected {expected}")
    return _VERSIONS_OF_KINDS[stored["kind"]]


def _from_settings(files: Mapping[str, bytes]) -> AnyCodec:
    """An empty codec of the stored sizes, which the weights must hold: no memory before."""
    try:
        stored = json.loads(files[SETTINGS_FILE])
        if stored["format"] != _FORMAT:
            raise ValueError(f"format is {stored['format']!r}; expected {_FORMAT!r}")
        if stored["version"] != _version(stored):
            raise FormatVersionError(
                f"{SETTINGS_FILE} has version {ascii(stored['version'])[:60]}; this hyperpq reads "
                f"version {_version(stored)}; build the index again or open it with the hyperpq "
                "that wrote it."
            )
        length = len(files[WEIGHTS_FILE])
        if stored.get("kind") == "pq":
            return _empty_pq(stored, length)
        codec: HiHPQCodec | AdditiveCodec | BalancedCodec
        if stored.get("kind") == BALANCED:
            codec = _empty_balanced(stored, length)
        elif stored["score"] in _ADDITIVE_METRICS:
            codec = _empty_additive(stored, length)
        else:
            codec = _empty_hihpq(stored, length)
        codec.recipe = loaded_recipe(dict(stored["recipe"]))
        return codec
    # RecursionError: JSON nested too deep.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptIndexError(
            f"{SETTINGS_FILE} does not hold the settings of a codec: {_reason(error)}."
        ) from error


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


def _empty_pq(stored: Mapping[str, Any], length: int) -> PQCodec:
    d, M, nbits = _sizes(stored, "d", "M", "nbits")
    (rotation,) = _sizes({"rotation": 0, **stored}, "rotation", low=0)
    _check_memory((rotation or d) * _codewords(1, nbits) + rotation * d, nbits, length)
    return PQCodec(PQConfig(d, M, nbits, stored["score"], rotation))


def _empty_additive(stored: Mapping[str, Any], length: int) -> AdditiveCodec:
    learned = stored["learned"]
    d, M, D, nbits = _sizes(stored, "d", "M", "D", "nbits")
    F, (sample,) = _sizes(learned, "M", "F")[1], _sizes(learned, "sample", low=0)
    if (learned["M"], F) != (1, D):
        raise ValueError(f"the learned M and F are {learned['M']}, {F}; expected 1 and {D}")
    _check_memory(d * D + _codewords(M, nbits) * D + sample * F // 2, nbits, length)
    wrong = [name for name, value in _ADDITIVE_CONSTANTS.items() if stored[name] != value]
    if wrong:
        raise ValueError(f"{wrong[0]} is {stored[wrong[0]]!r} with the metric {stored['score']!r}")
    _check_max_norm(learned["max_norm"])
    metric = _ADDITIVE_METRICS[stored["score"]]
    codec = AdditiveCodec(AdditiveConfig(d, M, nbits, D, loaded_normalization(stored), metric))
    codec.sample = nn.Buffer(torch.zeros(sample, F, dtype=torch.float16))
    return codec


def _geometry(stored: Mapping[str, Any]) -> Any:
    """Name of the geometry; newer versions may have more of them."""
    name = stored.get("geometry", YOUNGER["geometry"])
    if isinstance(name, str) and name not in GEOMETRIES:
        raise FormatVersionError(
            f"{SETTINGS_FILE} has the geometry {ascii(name)[:60]}; this hyperpq knows "
            f"{', '.join(map(repr, GEOMETRIES))}; open the index with the hyperpq that wrote it."
        )
    return name


def _empty_hihpq(stored: Mapping[str, Any], length: int) -> HiHPQCodec:
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
    codec = HiHPQCodec(config)
    codec.sample = nn.Buffer(torch.zeros(sample, F, dtype=torch.float16))
    codec.learned_log_c = nn.Buffer(torch.zeros(M0))
    # What smooths with them is made once they are loaded.
    codec.centroids = nn.Buffer(torch.zeros(centroids, F, dtype=torch.float16))
    codec.learned_max_norm = _check_max_norm(learned["max_norm"])
    return codec


def _empty_balanced(stored: Mapping[str, Any], length: int) -> BalancedCodec:
    sizes = _sizes(stored, "d", "M", "nbits")
    semantic = _empty_hihpq(stored["semantic"], length)
    fidelity = _empty_additive(stored["fidelity"], length)
    codec = BalancedCodec(semantic, fidelity, stored["balance"], factor=0.0)
    if sizes != [codec.d, codec.M, codec.nbits]:
        raise ValueError(
            f"d, M and nbits are {sizes}; expected {[codec.d, codec.M, codec.nbits]}, as the parts "
            "have"
        )
    metrics = (stored["score"], stored["fidelity"]["score"])
    if metrics != (codec.metric, INNER):
        raise ValueError(
            f"score is {metrics[0]!r} and that of the fidelity part {metrics[1]!r}; expected "
            f"{codec.metric!r} and {INNER!r}"
        )
    # Both parts have the recipe of the whole.
    semantic.recipe = fidelity.recipe = loaded_recipe(dict(stored["recipe"]))
    return codec


def _check_max_norm(value: Any) -> float:
    max_norm = float(value)
    if not 0 < max_norm < float("inf"):
        raise ValueError(f"the learned max_norm is {value}; expected a positive number")
    return max_norm
