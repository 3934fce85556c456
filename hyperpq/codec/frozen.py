"""`FrozenCodec`: a trained codec as encoding and searching on a CPU need it, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.codes import code_size, pack, unpack
from hyperpq.inference.codebooks import Codebooks, Float64s
from hyperpq.inference.heads import Head
from hyperpq.utils.exact_products import RoundedMatrix
from hyperpq.utils.forks import blas
from hyperpq.utils.validation import as_codes, as_features

# Features that are worked on at once: what they become in float64 stays in the caches. With 2,048
# of 1,280 numbers, vectors took 1.3 to 1.8 times as long.
_BATCH = 512


@dataclass(frozen=True, eq=False)
class FrozenCodec:
    """A head and codebooks, which do not change.

    Attributes
    ----------
    d : int
        Width of features.
    head : Head
        Features to vectors.
    codebooks : Codebooks
        Vectors to codes and tables.
    space : FeatureSpace
        How features themselves are compared.
    approximates_features, has_corrections : bool
        See `Codec`.
    unit : float
        What distances of codebooks are multiplied by.
    rotation : ndarray, shape (spaces * D, d), float32, or None
        Orthonormal rows by which vectors are turned back into features, where they are rotated
        features.
    """

    d: int
    head: Head
    codebooks: Codebooks
    space: FeatureSpace
    approximates_features: bool = False
    has_corrections: bool = False
    unit: float = 1.0
    rotation: NDArray[np.float32] | None = None

    @property
    def M(self) -> int:
        """Codes of one vector."""
        return self.codebooks.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self.codebooks.nbits

    @property
    def metric(self) -> str:
        """Name of the distance that the tables add up to."""
        return self.codebooks.metric

    def feature_space(self) -> FeatureSpace:
        """How features themselves are compared where a search is refined by them."""
        return self.space

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.codebooks.M, self.codebooks.nbits)

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Features (n, d) -> vectors before quantization (n, spaces * D), see `Codec.embed`."""
        books = self.codebooks
        features = as_features(x, self.d)
        out = np.empty((len(features), books.spaces * books.D), np.float32)
        for rows in _batches(len(features)):
            with blas:
                v = books.clip(self._vectors(features[rows]))
            out[rows] = v.reshape(len(v), -1)
        # Of rotated features the part that the rotation keeps, which may be all of it.
        if self.rotation is not None and len(self.rotation) == self.d:
            return features.copy()
        return self._rotated_back(out)

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Features (n, d) -> codes (n, code_size), see `Codec.encode`."""
        features = as_features(x, self.d)
        out = np.empty((len(features), self.code_size), np.uint8)
        for rows in _batches(len(features)):
            with blas:
                v = self._vectors(features[rows])
                codes = self.codebooks.codes(self.codebooks.points(v))
            out[rows] = pack(codes, self.codebooks.nbits)
        return out

    def tables(self, x: ArrayLike) -> NDArray[np.float32]:
        """Queries (nq, d) -> tables (nq, M, K), see `Codec.tables`."""
        features = as_features(x, self.d)
        out = self._empty_tables(len(features))
        for rows in _batches(len(features)):
            with blas:
                v = self._vectors(features[rows])
                tables = self.codebooks.tables(self.codebooks.points(v))
            self._write_in_units(tables, out[rows])
        return out

    def code_tables(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes (n, code_size) -> tables (n, M, K) of what they decode to, see `Codec`."""
        packed = as_codes(codes, self.code_size)
        out = self._empty_tables(len(packed))
        for rows in _batches(len(packed)):
            points = self.codebooks.code_points(self._unpacked(packed[rows]))
            with blas:
                tables = self.codebooks.tables(points)
            self._write_in_units(tables, out[rows])
        return out

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes (n, code_size) -> vectors of their codewords (n, spaces * D), see `Codec`."""
        rows = self._unpacked(as_codes(codes, self.code_size))
        width = self.codebooks.spaces * self.codebooks.D
        v = self.codebooks.decode(rows).reshape(len(rows), width).astype(np.float32)
        return self._rotated_back(v)

    def corrections(self, codes: ArrayLike) -> Float64s:
        """Codes (n, code_size) -> what makes their distances more exact (n,), see `Codec`."""
        rows = self._unpacked(as_codes(codes, self.code_size))
        return self.codebooks.corrections(rows) * self.unit

    def _vectors(self, x: NDArray[np.float32]) -> Float64s:
        """Features (n, d) -> vectors (n, spaces, D)."""
        shape = (len(x), self.codebooks.spaces, self.codebooks.D)
        return self.head(x).reshape(shape).astype(np.float64)

    def _rotated_back(self, v: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.rotation is None:
            return v
        factor = RoundedMatrix(self.rotation.astype(np.float64))
        out = np.empty((len(v), self.d), np.float32)
        for rows in _batches(len(v)):
            with blas:
                out[rows] = factor.left_product(v[rows].astype(np.float64))
        return out

    def _empty_tables(self, n: int) -> NDArray[np.float32]:
        return np.empty((n, self.codebooks.M, 1 << self.codebooks.nbits), np.float32)

    def _write_in_units(self, tables: Float64s, out: NDArray[np.float32]) -> None:
        with np.errstate(over="ignore"):  # The caller finds what is too large.
            out[...] = tables
            if self.unit != 1:
                out *= np.float32(self.unit)

    def _unpacked(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return unpack(codes, self.codebooks.M, self.codebooks.nbits)


def _batches(n: int) -> Iterator[slice]:
    for start in range(0, n, _BATCH):
        yield slice(start, min(start + _BATCH, n))
