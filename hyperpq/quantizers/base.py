"""`Quantizer`: the part that product and additive quantizers play in a codec."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Quantizer(Protocol):
    """Vectors to codes of M codewords, and queries to tables of distances.

    All are torch modules besides. A vector is an array of shape (spaces, D): one row for each
    subspace of a product quantizer, a single row for an additive quantizer.
    """

    @property
    def M(self) -> int:
        """Codes of one vector."""

    @property
    def D(self) -> int:
        """Coordinates of a vector in each of its ``spaces`` rows."""

    @property
    def K(self) -> int:
        """Codewords of a codebook, ``2**nbits``."""

    @property
    def nbits(self) -> int:
        """Bits of one code, 4 or 8."""

    @property
    def spaces(self) -> int:
        """Rows of a vector: M, or 1 where codewords add up."""

    @property
    def metric(self) -> str:
        """What the sums of table entries are."""

    @property
    def codebooks(self) -> Tensor:
        """Codewords, shape (M, K, D)."""

    @property
    def curvatures(self) -> Tensor:
        """Curvatures with their signs, shape (M,); (0,) where none was learned."""

    def clip(self, v: Tensor) -> Tensor:
        """Vectors (n, spaces, D) -> those that codewords can reach."""

    def points(self, v: Tensor) -> Tensor:
        """Vectors (n, spaces, D) -> points (n, spaces, D), which `codes` and `tables` take."""

    def codes(self, x: Tensor) -> Tensor:
        """Points (n, spaces, D) -> codes (n, M), uint8."""

    def tables(self, x: Tensor) -> Tensor:
        """Points (nq, spaces, D) of queries -> distances (nq, M, K), which add up over M."""

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, M) -> vectors (n, spaces, D)."""

    def code_points(self, codes: Tensor) -> Tensor:
        """Codes (n, M) -> points (n, spaces, D) in float64: those of the decoded vectors."""
