"""The weights of a codec: what a file holds is checked by name, shape, type and value."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.base import Codec
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import check_orthonormal
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.geometry.registry import CURVATURE_RANGE

WEIGHTS_FILE = "codec.safetensors"
PARTS = ("semantic", "fidelity")
"""The codecs in a balanced one."""
MAX_QUOTED = 300
"""Characters of a file that a message quotes at most."""


def load_weights(codec: Codec, state: Mapping[str, Tensor], part: str = "") -> None:
    """Give a codec its weights once they are checked.

    Parameters
    ----------
    codec : Codec
        An empty codec of the stored sizes.
    state : mapping of str to Tensor
        The weights in the file.
    part : str
        What their names in the file begin with, in a codec of several parts.

    Raises
    ------
    CorruptIndexError
        If they are not those of such a codec.
    """
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


def _load_balanced(codec: BalancedCodec, state: Mapping[str, Tensor]) -> None:
    """Give a balanced codec its weights once they are checked."""
    own = dict(state)
    for name in PARTS:
        start = f"{name}."
        of_part = {key.removeprefix(start): own.pop(key) for key in state if key.startswith(start)}
        load_weights(getattr(codec, name), of_part, start)
    _check_weights(own, {"factor": codec.factor})
    if not own["factor"] >= 0:
        raise CorruptIndexError(f"factor in {WEIGHTS_FILE} is negative; expected 0 or more.")
    codec.factor.copy_(own["factor"])
    codec.is_trained = True


def _check_weights(state: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str = "") -> None:
    """Refuse weights whose names, shapes or types are not those of a codec, or are not finite."""
    if set(state) != set(own):
        raise CorruptIndexError(
            f"{WEIGHTS_FILE} holds {str(sorted(part + name for name in state))[:MAX_QUOTED]}; "
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
