"""Codecs as files: weights in safetensors, settings in JSON beside them, all checked on load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.errors import CorruptIndexError, FormatVersionError
from hyperpq.quantizers.additive import INNER
from hyperpq.quantizers.product import CURVATURE_RANGE

WEIGHTS_FILE, SETTINGS_FILE = "codec.safetensors", "codec.json"
_FORMAT = "hyperpq-codec"
# Of learned codecs, and of plain codebooks, which stayed as they were.
_VERSION, _PLAIN_VERSION = 3, 2
# Characters of a message that a stranger's file may fill.
_LONGEST = 300


def to_files(codec: HiHPQCodec | PQCodec) -> dict[str, bytes]:
    """File name -> content."""
    from safetensors.torch import save

    state = {k: v.detach().cpu().contiguous() for k, v in codec.state_dict().items()}
    own = codec.settings()
    settings = {"format": _FORMAT, "version": _version(own), **own}
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    return {WEIGHTS_FILE: save(state), SETTINGS_FILE: text.encode()}


def _version(settings: Mapping[str, Any]) -> int:
    return _PLAIN_VERSION if "kind" in settings else _VERSION


def difference(one: HiHPQCodec | PQCodec, other: HiHPQCodec | PQCodec) -> str | None:
    """In what two codecs differ, one clause; None if they give the same codes and tables."""
    mine, theirs = one.settings(), other.settings()
    for name in dict.fromkeys(["d", "M", "nbits", "score", *mine, *theirs]):
        if name != "recipe" and mine.get(name) != theirs.get(name):
            return f"{name} is {mine.get(name)!r} here and {theirs.get(name)!r} there"
    weights = [to_files(codec)[WEIGHTS_FILE] for codec in (one, other)]
    return None if weights[0] == weights[1] else "the codecs were learned apart"


def from_files(files: Mapping[str, bytes]) -> HiHPQCodec | PQCodec:
    """Inverse of `to_files`; every shape, dtype and value is checked.

    Raises
    ------
    CorruptIndexError
        A file isn't what `to_files` writes.
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
            f"{WEIGHTS_FILE} isn't a safetensors file: {str(error)[:_LONGEST]}."
        ) from error
    _load(codec, state)
    return codec.eval()


def _from_settings(files: Mapping[str, bytes]) -> HiHPQCodec | PQCodec:
    """An empty codec of the recorded sizes, which the weights must hold: no memory before."""
    try:
        settings = json.loads(files[SETTINGS_FILE])
        if settings["format"] != _FORMAT:
            raise ValueError(f"format {settings['format']}")
        if settings["version"] != _version(settings):
            raise FormatVersionError(
                f"{SETTINGS_FILE} has version {ascii(settings['version'])[:60]}, this hyperpq "
                f"reads version {_version(settings)}; build the index again, or open it with the "
                "hyperpq that wrote it."
            )
        length = len(files[WEIGHTS_FILE])
        if "kind" not in settings:
            return _empty_learned(settings, length)
        if settings["kind"] != "pq":
            raise ValueError(f"the kind is {settings['kind']!r}")
        return _empty_plain(settings, length)
    # RecursionError: JSON nested too deep.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptIndexError(
            f"{SETTINGS_FILE} isn't the settings of a codec: {str(error)[:_LONGEST]}."
        ) from error


def _sizes(table: Mapping[str, Any], *names: str, low: int = 1) -> list[int]:
    sizes = [table[name] for name in names]
    if not all(type(size) is int and size >= low for size in sizes):
        raise ValueError(f"{', '.join(names)} are {sizes}")
    return sizes


def _fits(floats: int, nbits: int, length: int) -> None:
    """Refuse sizes that need more float32 than the weights' file of this length holds."""
    if nbits > 8 or 4 * floats > length:
        raise ValueError(f"its sizes are more than the {length} bytes of {WEIGHTS_FILE} hold")


def _empty_plain(settings: Mapping[str, Any], length: int) -> PQCodec:
    d, M, nbits = _sizes(settings, "d", "M", "nbits")
    _fits(d * 2 ** min(nbits, 8), nbits, length)
    return PQCodec(d, M, nbits, metric=settings["score"])


def _empty_learned(settings: Mapping[str, Any], length: int) -> HiHPQCodec:
    learned = settings["learned"]
    d, M, D, nbits = _sizes(settings, "d", "M", "D", "nbits")
    M0, F = _sizes(learned, "M", "F")
    hidden, *_ = _sizes(settings, "hidden", "average_neighbours", "distil_epochs", low=0)
    sample, centroids = _sizes(learned, "sample", "centroids", low=0)
    additive = settings["score"] == INNER
    width = D if additive else M * D
    if F % M0 or (additive and (M0, F) != (1, D)):
        raise ValueError(f"the learned M and F are {M0}, {F}, with metric {INNER} 1 and {D}")
    floats = d * width + M * D * 2 ** min(nbits, 8) + hidden * (d + width) + M0
    _fits(floats + (sample + centroids) * F // 2, nbits, length)
    names = ["conditioning", "head", "hidden", "dropout"]
    names += ["average_weight", "average_neighbours", "temperature", "distil_epochs"]
    names += [] if additive else ["beta", "max_norm"]
    metric = settings["score"]
    codec = HiHPQCodec(d, M, nbits, D=D, metric=metric, **{name: settings[name] for name in names})
    codec.set_sample(torch.zeros(sample, F, dtype=torch.float16), torch.zeros(M0))
    # What averages with them is made once they are loaded.
    codec.centroids = nn.Buffer(torch.zeros(centroids, F, dtype=torch.float16))
    codec.learned_norm = float(learned["max_norm"])
    if not 0 < codec.learned_norm < float("inf"):
        raise ValueError(f"the learned max_norm is {learned['max_norm']}")
    codec.recipe = dict(settings["recipe"])
    return codec


def _load(codec: HiHPQCodec | PQCodec, state: Mapping[str, Tensor]) -> None:
    """Take over checked weights."""
    own = codec.state_dict()
    if set(state) != set(own):
        raise CorruptIndexError(
            f"{WEIGHTS_FILE} holds {str(sorted(state))[:_LONGEST]}; expected {sorted(own)}."
        )
    for name, value in state.items():
        want = own[name]
        if value.shape != want.shape or value.dtype != want.dtype:
            raise CorruptIndexError(
                f"{name} in {WEIGHTS_FILE} is {value.dtype} {tuple(value.shape)}; "
                f"expected {want.dtype} {tuple(want.shape)}."
            )
        if not torch.isfinite(value).all():
            raise CorruptIndexError(f"{name} in {WEIGHTS_FILE} has NaN or infinite values.")
    low, high = CURVATURE_RANGE
    for name in {"quantizer.log_c", "learned_log_c"} & set(state):
        c = state[name].exp()
        if not ((c > low * 0.99) & (c < high * 1.01)).all():
            raise CorruptIndexError(
                f"curvatures in {WEIGHTS_FILE} leave the range {low} to {high}."
            )
    if "quantizer.stress" in state and not state["quantizer.stress"] >= 0:
        raise CorruptIndexError(f"quantizer.stress in {WEIGHTS_FILE} is negative.")
    codec.load_state_dict(dict(state))
    if isinstance(codec, HiHPQCodec):
        codec.set_centroids(codec.centroids)
        codec.is_trained = True
