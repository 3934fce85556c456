"""Codecs as files: weights in safetensors, settings in JSON beside them, all checked on loading.

The file format (docs/reference/format.md) has names of its own, which released versions wrote and
read. They occur in this module alone: `Codec.settings` and `Codec.recipe` have the names of the
code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BALANCED, BalancedCodec
from hyperpq.codec.base import Codec
from hyperpq.codec.config import (
    INNER,
    AdditiveConfig,
    CodecConfig,
    Normalization,
    PQConfig,
    stored_metric,
)
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec, check_orthonormal
from hyperpq.errors import CorruptIndexError, FormatVersionError, InvalidInputError
from hyperpq.geometry.registry import CURVATURE_RANGE, GEOMETRIES
from hyperpq.quantizers.flat_metrics import FIDELITY_METRICS, FidelityMetric

AnyCodec: TypeAlias = HiHPQCodec | AdditiveCodec | BalancedCodec | PQCodec

WEIGHTS_FILE, SETTINGS_FILE = "codec.safetensors", "codec.json"
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
# Characters of a file that a message quotes at most.
_MAX_QUOTED = 300

STORED_NAMES = {
    "metric": "score",
    "normalization": "conditioning",
    "smoothing_weight": "average_weight",
    "smoothing_neighbours": "average_neighbours",
}
"""Settings whose names in codec.json are other ones."""
STORED_RECIPE_NAMES = {
    "normalization": "conditioning",
    "smoothing_weight": "average_weight",
    "smoothing_neighbours": "average_neighbours",
    "holdout_check": "guard",
    "image_weight": "picture_weight",
    "positive_weight": "partner_weight",
    "walk_steps": "walk",
    "augmentation": "views",
}
"""Fields of a recipe whose names in codec.json are other ones."""
_STORED_NORMALIZATIONS: dict[Normalization, str] = {"power": "root", "unit": "unit", "none": "none"}
# Fields that are younger than the format: they are written only if they have another value.
_YOUNGER = {"geometry": "lorentz", "straight_through": False, "rotation": 0, "balance": 0.25}
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
_PARTS = ("semantic", "fidelity")  # of a balanced codec


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
    _load(codec, state)
    return codec.eval()


def stored_settings(codec: Codec) -> dict[str, Any]:
    """Everything but the weights of a codec, by the names of codec.json.

    Two codecs with the same weights and the same settings are the same codec.
    """
    if isinstance(codec, BalancedCodec):
        settings = codec.settings()
        parts = {name: stored_settings(getattr(codec, name)) for name in _PARTS}
        for part in parts.values():
            # The recipe of the whole.
            del part["recipe"]
        sizes = {name: settings[name] for name in ("d", "M", "nbits", "balance")}
        recipe = {"recipe": stored_recipe(codec.recipe)}
        return {"kind": BALANCED, **sizes, "score": codec.metric, **parts, **recipe}
    settings = codec.settings()
    recipe = {"recipe": stored_recipe(settings.pop("recipe"))} if "recipe" in settings else {}
    stored = _renamed(settings, STORED_NAMES) | {"score": stored_metric(codec.metric)} | recipe
    if isinstance(codec, PQCodec):
        return {"kind": "pq", **stored}
    if isinstance(codec, AdditiveCodec):
        return {**stored, **_ADDITIVE_CONSTANTS, "learned": stored["learned"] | _ADDITIVE_LEARNED}
    return stored


def stored_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe by the names of codec.json."""
    return _renamed(recipe, STORED_RECIPE_NAMES)


def loaded_recipe(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe from codec.json by their names in the code; others stay as they are."""
    names = {old: new for new, old in STORED_RECIPE_NAMES.items()}
    recipe = {names.get(name, name): value for name, value in stored.items()}
    for new, old in _STORED_NORMALIZATIONS.items():
        if stored.get("conditioning") == old:
            recipe["normalization"] = new
    return recipe


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
    for name in _PARTS if isinstance(codec, BalancedCodec) else ():
        settings |= {f"{name} {key}": value for key, value in settings.pop(name).items()}
    return settings


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Settings by their stored names, without younger ones that have their first value."""
    stored = {
        names.get(name, name): value
        for name, value in values.items()
        if name not in _YOUNGER or value != _YOUNGER[name]
    }
    for new, old in _STORED_NORMALIZATIONS.items():
        if values.get("normalization") == new:
            stored["conditioning"] = old
    return stored


def _normalization(stored: Mapping[str, Any]) -> Normalization:
    for new, old in _STORED_NORMALIZATIONS.items():
        if stored["conditioning"] == old:
            return new
    expected = ", ".join(_STORED_NORMALIZATIONS.values())
    raise ValueError(f"conditioning is {stored['conditioning']!r}; expected one of {expected}")


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
        return f"{str(error)[:_MAX_QUOTED]} is missing"
    return str(error)[:_MAX_QUOTED].rstrip(".")


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
    codec = AdditiveCodec(AdditiveConfig(d, M, nbits, D, _normalization(stored), metric))
    codec.sample = nn.Buffer(torch.zeros(sample, F, dtype=torch.float16))
    return codec


def _geometry(stored: Mapping[str, Any]) -> Any:
    """Name of the geometry; newer versions may have more of them."""
    name = stored.get("geometry", _YOUNGER["geometry"])
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
        normalization=_normalization(stored),
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


def _load_balanced(codec: BalancedCodec, state: Mapping[str, Tensor]) -> None:
    """Give a balanced codec its weights once they are checked."""
    own = dict(state)
    for name in _PARTS:
        start = f"{name}."
        of_part = {key.removeprefix(start): own.pop(key) for key in state if key.startswith(start)}
        _load(getattr(codec, name), of_part, start)
    _check_weights(own, {"factor": codec.factor})
    if not own["factor"] >= 0:
        raise CorruptIndexError(f"factor in {WEIGHTS_FILE} is negative; expected 0 or more.")
    codec.factor.copy_(own["factor"])
    codec.is_trained = True


def _check_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str = "") -> None:
    """Refuse weights whose names, shapes or types are not those of a codec, or are not finite."""
    if set(state) != set(own):
        raise CorruptIndexError(
            f"{WEIGHTS_FILE} holds {str(sorted(part + name for name in state))[:_MAX_QUOTED]}; "
            f"expected {sorted(part + name for name in own)}."
        )
    for name, value in state.items():
        want = own[name]
        if value.shape != want.shape or value.dtype != want.dtype:
            raise CorruptIndexError(
                f"{part}{name} in {WEIGHTS_FILE} is {value.dtype} {tuple(value.shape)}; "
                f"expected {want.dtype} {tuple(want.shape)}."
            )
        if not torch.isfinite(value).all():
            raise CorruptIndexError(
                f"{part}{name} in {WEIGHTS_FILE} has NaN or infinite values; expected finite "
                "numbers."
            )


def _check_scale(scale: float, part: str) -> None:
    """Refuse a scale that is no power of two, or whose square is no float32."""
    if math.frexp(scale)[0] != 0.5 or not 2**-63 <= scale <= 2**63:
        raise CorruptIndexError(
            f"{part}scale in {WEIGHTS_FILE} is {scale:g}; expected a power of two from 2^-63 to "
            "2^63."
        )


def _load(codec: Codec, state: Mapping[str, Tensor], part: str = "") -> None:
    """Give a codec its weights once they are checked; ``part`` begins their names in the file."""
    if isinstance(codec, BalancedCodec):
        _load_balanced(codec, state)
        return
    if isinstance(codec, HiHPQCodec) and "order" in state:
        # Only codecs with reordered coordinates have it.
        codec.order = nn.Buffer(torch.zeros(codec.sample.shape[1], dtype=torch.int64))
    _check_weights(state, codec.state_dict(), part)
    low, high = CURVATURE_RANGE
    for name in {"quantizer.log_c", "learned_log_c"} & set(state):
        c = state[name].exp()
        if not ((c > low * 0.99) & (c < high * 1.01)).all():
            raise CorruptIndexError(
                f"{part}{name} in {WEIGHTS_FILE} has curvatures of {float(c.min()):g} to "
                f"{float(c.max()):g}; expected {low} to {high}."
            )
    if "order" in state and state["order"].sort().values.tolist() != [*range(len(state["order"]))]:
        raise CorruptIndexError(
            f"{part}order in {WEIGHTS_FILE} is not an order of {len(state['order'])} coordinates; "
            "expected each of them once."
        )
    if "quantizer.stress" in state and not state["quantizer.stress"] >= 0:
        raise CorruptIndexError(
            f"{part}quantizer.stress in {WEIGHTS_FILE} is negative; expected 0 or more."
        )
    if isinstance(codec, AdditiveCodec) and codec.metric != "cosine":
        _check_scale(float(state["scale"]), part)
    if "rotation" in state:
        try:
            check_orthonormal(state["rotation"].numpy())
        except InvalidInputError as error:
            raise CorruptIndexError(f"{WEIGHTS_FILE}: {error}") from error
    codec.load_state_dict(dict(state))
    if isinstance(codec, HiHPQCodec):
        codec.set_centroids(codec.centroids)
    codec.is_trained = True
