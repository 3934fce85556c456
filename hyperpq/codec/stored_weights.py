"""The weights of a codec: what a file holds is checked by name, shape, type and value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.config import AdditiveConfig, CodecConfig, PQConfig
from hyperpq.codec.rotation import check_orthonormal
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.geometry.registry import CURVATURE_RANGE

WEIGHTS_FILE = "codec.safetensors"
PARTS = ("semantic", "fidelity")
"""The codecs in a balanced one."""
MAX_QUOTED = 300
"""Characters of a file that a message quotes at most."""

Weights = Mapping[str, NDArray[Any]]


class Learned(NamedTuple):
    """Sizes of a learned codec that are not among the settings of its codes.

    Attributes
    ----------
    M0 : int
        Subspaces that the representation was learned on.
    F : int
        Its coordinates.
    sample, centroids : int
        Rows of the sample and of the centroids.
    max_norm : float
        Clip radius of these subspaces.
    """

    M0: int
    F: int
    sample: int
    centroids: int
    max_norm: float


def check_weights(
    config: CodecConfig | AdditiveConfig | PQConfig,
    learned: Learned | None,
    state: Weights,
    part: str = "",
) -> None:
    """Refuse weights that are not those of a codec.

    Parameters
    ----------
    config : CodecConfig, AdditiveConfig or PQConfig
        Its settings.
    learned : Learned or None
        Further sizes; None for flat codebooks.
    state : mapping of str to ndarray
        The weights in the file.
    part : str
        What their names in the file begin with, in a codec of several parts.

    Raises
    ------
    CorruptIndexError
        If they are not those of such a codec.
    """
    want = _expected(config, learned)
    if isinstance(config, CodecConfig) and learned is not None and "order" in state:
        # Only codecs with reordered coordinates have it.
        want["order"] = np.dtype(np.int64), (learned.F,)
    check_arrays(state, want, part)
    low, high = CURVATURE_RANGE
    for name in {"quantizer.log_c", "learned_log_c"} & set(state):
        c = np.exp(state[name])
        if not ((c > low * 0.99) & (c < high * 1.01)).all():
            raise CorruptIndexError(
                f"{part}{name} in {WEIGHTS_FILE} has curvatures of {float(c.min()):g} to "
                f"{float(c.max()):g}; expected {low} to {high}."
            )
    if "order" in state and np.sort(state["order"]).tolist() != [*range(len(state["order"]))]:
        raise CorruptIndexError(
            f"{part}order in {WEIGHTS_FILE} is not an order of {len(state['order'])} coordinates; "
            "expected each of them once."
        )
    if "quantizer.stress" in state and not state["quantizer.stress"] >= 0:
        raise CorruptIndexError(
            f"{part}quantizer.stress in {WEIGHTS_FILE} is negative; expected 0 or more."
        )
    if isinstance(config, AdditiveConfig) and config.metric != "cosine":
        _check_scale(float(state["scale"]), part)
    if "rotation" in state:
        try:
            check_orthonormal(state["rotation"])
        except InvalidInputError as error:
            raise CorruptIndexError(f"{WEIGHTS_FILE}: {error}") from error


def check_factor(state: Weights) -> None:
    """Refuse what a balanced codec has beside the weights of its parts, if it is something else."""
    check_arrays(state, {"factor": (np.dtype(np.float32), ())})
    if not state["factor"] >= 0:
        raise CorruptIndexError(f"factor in {WEIGHTS_FILE} is negative; expected 0 or more.")


def _expected(
    config: CodecConfig | AdditiveConfig | PQConfig, learned: Learned | None
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each of the weights."""
    single, half = np.dtype(np.float32), np.dtype(np.float16)
    books = single, (config.M, 1 << config.nbits, config.D)
    want: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]
    if isinstance(config, PQConfig):
        want = {"quantizer.codebooks": books}
        if config.rotation:
            want["rotation"] = single, (config.rotation, config.d)
        return want
    assert learned is not None  # all but flat codebooks are learned
    d, width = config.d, config.width
    want = {
        "mean": (single, (d,)),
        "weight": (single, (d, width)),
        "scale": (single, ()),
        "bias": (single, (width,)),
        "sample": (half, (learned.sample, learned.F)),
        "centroids": (half, (learned.centroids, learned.F)),
        "learned_log_c": (single, (learned.M0,)),
        "quantizer.codebooks": books,
    }
    if isinstance(config, AdditiveConfig):
        return want | {"quantizer.stress": (single, ())}
    want["quantizer.log_c"] = single, (config.M,)
    if config.hidden:
        want["up"] = single, (d, config.hidden)
        want["up_bias"] = single, (config.hidden,)
        want["down"] = single, (config.hidden, width)
    return want


def check_arrays(
    state: Weights,
    want: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    part: str = "",
) -> None:
    """Refuse weights with other names, types or shapes than those wanted, or that aren't finite."""
    if set(state) != set(want):
        raise CorruptIndexError(
            f"{WEIGHTS_FILE} holds {str(sorted(part + name for name in state))[:MAX_QUOTED]}; "
            f"expected {sorted(part + name for name in want)}."
        )
    for name, value in state.items():
        dtype, shape = want[name]
        if value.shape != shape or value.dtype != dtype:
            raise CorruptIndexError(
                f"{part}{name} in {WEIGHTS_FILE} is {value.dtype} {value.shape}; "
                f"expected {dtype} {shape}."
            )
        if not np.isfinite(value).all():
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
