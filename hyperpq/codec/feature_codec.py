"""`FeatureCodec`: features as the bytes that an index keeps beside their codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_array, as_choice, as_count, as_features

FeatureKind = Literal["int8", "float16", "float32"]
"""How a feature is kept, see `FeatureCodec`."""
KeptFeatures = Literal["none", "int8", "float16", "float32"]
"""What an index keeps of features: nothing, or each of them in one of the kinds."""
KINDS: tuple[FeatureKind, ...] = get_args(FeatureKind)
KEPT: tuple[KeptFeatures, ...] = get_args(KeptFeatures)

# Rows that are converted at once: 10 MB of float64 at d = 1280.
_BATCH = 1024
_FLOAT32, _FLOAT16 = np.dtype("<f4"), np.dtype("<f2")
# With a scale of 17 bits the product with a level of 7 bits is a float32 without rounding.
_LEVELS, _SCALE_BITS = 127, 17
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class _Format(NamedTuple):
    """One kind: bytes before the d values, bytes of a value, and the two maps of a batch."""

    head: int
    width: int
    encode: Callable[[NDArray[np.float32]], NDArray[np.uint8]]
    decode: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class FeatureCodec:
    """A map from features to bytes of a fixed length, and back.

    The bytes do not depend on the batch or the processor.

    Parameters
    ----------
    kind : {"int8", "float16", "float32"}
        ``int8``: a float32, the scale of the row, and then d signed bytes q; a value is
        ``scale * q``. The scale is the smallest number of 17 significant bits, from 2^-126 on, with
        which no absolute value of the row is above 127 scales. So an error is at most half a scale,
        and features that were read are written as the same bytes again. ``float16``: d values of
        16 bits, with a relative error of at most 2^-11 from 2^-14 on and an error of at most 2^-25
        below. ``float32``: the values as they are. All numbers are little-endian.
    d : int
        Width of the features.

    Raises
    ------
    InvalidInputError
        The kind is unknown, or the width is no positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> from hyperpq.codec import FeatureCodec
    >>> codec = FeatureCodec("int8", 3)
    >>> codec.size
    7
    >>> codec.decode(codec.encode(np.array([[0, 1, -127]])))
    array([[   0.,    1., -127.]], dtype=float32)
    """

    kind: FeatureKind
    d: int

    def __post_init__(self) -> None:
        as_choice(self.kind, "kind", KINDS)
        object.__setattr__(self, "d", as_count(self.d, "d"))

    @property
    def size(self) -> int:
        """Bytes of one feature."""
        form = _FORMATS[self.kind]
        return form.head + form.width * self.d

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Convert features to bytes.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features.

        Returns
        -------
        ndarray, shape (n, size), uint8

        Raises
        ------
        InvalidInputError
            See `hyperpq.utils.validation.as_features`; or a value is too large for the kind
            ``float16``, which ends at 65,504.
        """
        features = as_features(x, self.d)
        out = np.empty((len(features), self.size), np.uint8)
        for start in range(0, len(features), _BATCH):
            rows = slice(start, start + _BATCH)
            out[rows] = _FORMATS[self.kind].encode(features[rows])
        return out

    def decode(self, rows: ArrayLike) -> NDArray[np.float32]:
        """Convert bytes to features.

        Parameters
        ----------
        rows : array_like, shape (n, size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n, d), float32

        Raises
        ------
        InvalidInputError
            The bytes have another dtype or width.
        """
        given = as_array(rows, "rows")
        if given.dtype != np.uint8 or given.ndim != 2 or given.shape[1] != self.size:
            raise InvalidInputError(
                f"rows have dtype {given.dtype} and shape {given.shape}; expected uint8 of shape "
                f"(n, {self.size}), as FeatureCodec.encode returns them."
            )
        out = np.empty((len(given), self.d), np.float32)
        for start in range(0, len(given), _BATCH):
            some = slice(start, start + _BATCH)
            out[some] = _FORMATS[self.kind].decode(np.ascontiguousarray(given[some]))
        return out


def feature_codec(kind: object, d: int) -> FeatureCodec | None:
    """How an index keeps its features of width d; None if it keeps none.

    Parameters
    ----------
    kind : {"none", "int8", "float16", "float32"}
        What is kept.
    d : int
        Width of the features.

    Raises
    ------
    InvalidInputError
        Another kind.
    """
    kept = as_choice(kind, "features", KEPT)
    return None if kept == "none" else FeatureCodec(kept, d)


def _to_int8(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    wide = x.astype(np.float64)
    mantissa, exponent = np.frexp(np.abs(wide).max(1) / _LEVELS)
    scale = np.ldexp(np.ceil(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    scale = np.maximum(scale, _SMALLEST)
    levels = np.rint(wide / scale[:, None]).astype(np.int8)
    return np.hstack([_as_bytes(scale[:, None], _FLOAT32), levels.view(np.uint8)])


def _from_int8(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    scale = rows[:, : _FLOAT32.itemsize].copy().view(_FLOAT32).astype(np.float64)
    levels = rows[:, _FLOAT32.itemsize :].view(np.int8)
    # 127 scales can lie above the largest float32, by 2^-16 of it.
    return np.clip(scale * levels, -_LARGEST, _LARGEST).astype(np.float32)


def _to_float16(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise InvalidInputError(
            f"x has values of up to {np.abs(x).max():.3g}, too large for features of the kind "
            "'float16', which end at 65,504; expected smaller values; choose 'int8' or 'float32'."
        )
    return _as_bytes(half, _FLOAT16)


def _from_float16(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    return rows.view(_FLOAT16).astype(np.float32)


def _to_float32(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    return _as_bytes(x, _FLOAT32)


def _from_float32(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    return rows.view(_FLOAT32).astype(np.float32)


def _as_bytes(values: NDArray[np.floating], dtype: np.dtype[np.floating]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values, dtype).view(np.uint8)


_FORMATS: dict[FeatureKind, _Format] = {
    "int8": _Format(4, 1, _to_int8, _from_int8),
    "float16": _Format(0, 2, _to_float16, _from_float16),
    "float32": _Format(0, 4, _to_float32, _from_float32),
}
