"""Codecs as files: weights in safetensors, settings in JSON beside them.

`codec.stored_codec` reads them, and checks everything. The names of the file format are in
`codec.stored_names`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.base import Codec
from hyperpq.codec.config import (
    BALANCED,
    AdditiveConfig,
    BalancedConfig,
    PQConfig,
    stored_metric,
)
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codec.stored_codec import (
    ADDITIVE_CONSTANTS,
    ADDITIVE_LEARNED,
    FORMAT,
    StoredCodec,
    version_of,
)
from hyperpq.codec.stored_codec import SETTINGS_FILE as SETTINGS_FILE
from hyperpq.codec.stored_names import STORED_NAMES, renamed
from hyperpq.codec.stored_names import stored_recipe as stored_recipe
from hyperpq.codec.stored_weights import PARTS
from hyperpq.codec.stored_weights import WEIGHTS_FILE as WEIGHTS_FILE

AnyCodec: TypeAlias = HiHPQCodec | AdditiveCodec | BalancedCodec | PQCodec


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
    stored |= {"format": FORMAT, "version": version_of(stored)}
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
    return of_stored(StoredCodec.read(files))


def of_stored(stored: StoredCodec) -> AnyCodec:
    """The codec of checked settings and weights, on the CPU, in evaluation mode."""
    config, codec = stored.config, _empty(stored)
    if isinstance(config, BalancedConfig):
        codec.is_trained = True
    else:
        codec.load_state_dict(
            {name: torch.from_numpy(value) for name, value in stored.weights.items()}
        )
        if isinstance(codec, HiHPQCodec):
            codec.set_centroids(codec.centroids)
        codec.is_trained = True
    codec.recipe = stored.recipe
    return codec.eval()


def _empty(stored: StoredCodec) -> AnyCodec:
    """A codec with the settings of a stored one, and tensors of its sizes."""
    config, learned = stored.config, stored.learned
    if isinstance(config, PQConfig):
        return PQCodec(config)
    if isinstance(config, BalancedConfig):
        semantic, fidelity = (of_stored(stored.parts[name]) for name in PARTS)
        assert isinstance(semantic, HiHPQCodec)
        assert isinstance(fidelity, AdditiveCodec)
        factor = float(stored.weights["factor"])
        return BalancedCodec(semantic, fidelity, config.balance, factor=factor)
    assert learned is not None  # all but flat codebooks are learned
    codec: HiHPQCodec | AdditiveCodec
    codec = AdditiveCodec(config) if isinstance(config, AdditiveConfig) else HiHPQCodec(config)
    codec.sample = nn.Buffer(torch.zeros(learned.sample, learned.F, dtype=torch.float16))
    if isinstance(codec, HiHPQCodec):
        codec.learned_log_c = nn.Buffer(torch.zeros(learned.M0))
        # What smooths with them is made once they are loaded.
        codec.centroids = nn.Buffer(torch.zeros(learned.centroids, learned.F, dtype=torch.float16))
        codec.learned_max_norm = learned.max_norm
        if "order" in stored.weights:
            codec.order = nn.Buffer(torch.zeros(learned.F, dtype=torch.int64))
    return codec


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
        return {**stored, **ADDITIVE_CONSTANTS, "learned": stored["learned"] | ADDITIVE_LEARNED}
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
