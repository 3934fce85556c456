"""`Codebooks`: the part that the codebooks of a trained codec play, whatever their kind."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Codes = NDArray[np.uint8]


class Codebooks(Protocol):
    """Vectors to codes of M codewords, and queries to tables of distances.

    A vector is an array of shape (spaces, D): one row for each subspace of a product quantizer, a
    single row for codewords that add up.
    """

    @property
    def M(self) -> int:
        """Codes of one vector."""

    @property
    def D(self) -> int:
        """Coordinates of a vector in each of its ``spaces`` rows."""

    @property
    def nbits(self) -> int:
        """Bits of one code, 4 or 8."""

    @property
    def spaces(self) -> int:
        """Rows of a vector: M, or 1 where codewords add up."""

    @property
    def metric(self) -> str:
        """What the sums of table entries are."""

    def clip(self, v: Float64s) -> Float64s:
        """Vectors (n, spaces, D) -> those that codewords can reach."""

    def points(self, v: Float64s) -> Float64s:
        """Vectors (n, spaces, D) -> points (n, spaces, D), which `codes` and `tables` take."""

    def codes(self, x: Float64s) -> Codes:
        """Points (n, spaces, D) -> codes (n, M)."""

    def tables(self, x: Float64s) -> Float64s:
        """Points (nq, spaces, D) of queries -> distances (nq, M, K), which add up over M."""

    def decode(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> vectors (n, spaces, D)."""

    def code_points(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> points (n, spaces, D): those of the decoded vectors."""

    def corrections(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> what makes their distances more exact (n,), see `AdditiveCodebooks`."""
