"""`TorchCoder`: what `FrozenCodec` does, by PyTorch on the device of a codec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hyperpq.codes import pack, unpack
from hyperpq.quantizers.additive import AdditiveQuantizer
from hyperpq.utils.validation import as_codes, as_features

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_space import FeatureSpace

# Features that are worked on at once.
_BATCH = 512


class TorchCoder:
    """A trained codec that encodes and compares on its own device.

    Its codes and tables are those of `FrozenCodec` up to the rounding of float64.

    Parameters
    ----------
    codec : Codec
        The codec, whose weights are used as they are at the time of a call.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    @property
    def d(self) -> int:
        """Width of the features."""
        return self._codec.d

    @property
    def M(self) -> int:
        """Codes of one vector."""
        return self._codec.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self._codec.nbits

    @property
    def metric(self) -> str:
        """Name of the distance that the tables add up to."""
        return self._codec.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return self._codec.code_size

    @property
    def has_corrections(self) -> bool:
        """See `Codec.has_corrections`."""
        return self._codec.has_corrections

    @property
    def approximates_features(self) -> bool:
        """See `Codec.approximates_features`."""
        return self._codec.approximates_features

    def feature_space(self) -> FeatureSpace:
        """See `Codec.feature_space`."""
        return self._codec.feature_space()

    @torch.inference_mode()
    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """See `Codec.embed`."""
        features, quantizer = as_features(x, self._codec.d), self._codec.quantizer
        out = np.empty((len(features), quantizer.spaces * quantizer.D), np.float32)
        for rows, batch in self._batches(features):
            v = quantizer.clip(self._codec.vectors(batch).double())
            out[rows] = v.flatten(1).float().cpu().numpy()
        return self._codec.features_of_vectors(out, features)

    @torch.inference_mode()
    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """See `Codec.encode`."""
        features = as_features(x, self._codec.d)
        out = np.empty((len(features), self._codec.code_size), np.uint8)
        for rows, batch in self._batches(features):
            codes = self._codec.quantizer.codes(self._points(batch))
            out[rows] = pack(codes.cpu().numpy(), self._codec.nbits)
        return out

    @torch.inference_mode()
    def tables(self, x: ArrayLike) -> NDArray[np.float32]:
        """See `Codec.tables`."""
        features = as_features(x, self._codec.d)
        out = self._empty_tables(len(features))
        for rows, batch in self._batches(features):
            out[rows] = self._in_units(self._codec.quantizer.tables(self._points(batch)))
        return out

    @torch.inference_mode()
    def code_tables(self, codes: ArrayLike) -> NDArray[np.float32]:
        """See `Codec.code_tables`."""
        packed = as_codes(codes, self._codec.code_size)
        out = self._empty_tables(len(packed))
        for start in range(0, len(packed), _BATCH):
            rows = slice(start, start + _BATCH)
            points = self._codec.quantizer.code_points(self._unpacked(packed[rows]))
            out[rows] = self._in_units(self._codec.quantizer.tables(points))
        return out

    @torch.inference_mode()
    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """See `Codec.decode`."""
        rows = self._unpacked(as_codes(codes, self._codec.code_size))
        v: NDArray[np.float32] = self._codec.quantizer.decode(rows).flatten(1).cpu().numpy()
        return self._codec.features_of_vectors(v)

    @torch.inference_mode()
    def corrections(self, codes: ArrayLike) -> NDArray[np.float64]:
        """See `Codec.corrections`."""
        rows = self._unpacked(as_codes(codes, self._codec.code_size))
        quantizer = self._codec.quantizer
        if not isinstance(quantizer, AdditiveQuantizer):
            return np.zeros(len(rows))
        out: NDArray[np.float64] = quantizer.corrections(rows).cpu().numpy()
        return out * self._codec.unit

    def _empty_tables(self, n: int) -> NDArray[np.float32]:
        return np.empty((n, self._codec.M, self._codec.quantizer.K), np.float32)

    def _in_units(self, tables: Tensor) -> NDArray[np.float32]:
        narrow: NDArray[np.float32] = tables.float().cpu().numpy()
        if self._codec.unit == 1:
            return narrow
        with np.errstate(over="ignore"):  # The caller finds what is too large.
            return narrow * np.float32(self._codec.unit)

    def _batches(self, x: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor]]:
        """Batches of rows, on the device of the codec."""
        for start in range(0, len(x), _BATCH):
            rows = slice(start, min(start + _BATCH, len(x)))
            yield rows, torch.tensor(x[rows], device=self._codec.device)

    def _unpacked(self, codes: NDArray[np.uint8]) -> Tensor:
        """Packed codes (n, code_size) -> codes (n, M), on the device of the codec."""
        unpacked = unpack(codes, self._codec.M, self._codec.nbits).copy()
        return torch.from_numpy(unpacked).to(self._codec.device)

    def _points(self, x: Tensor) -> Tensor:
        """Features (n, d) -> points (n, spaces, D) in float64, so that no batch shows."""
        return self._codec.quantizer.points(self._codec.vectors(x).double())
