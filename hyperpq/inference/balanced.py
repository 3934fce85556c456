"""`BalancedCodebooks`: the codebooks of both parts of a `BalancedCodec`, side by side."""

from __future__ import annotations

import numpy as np

from hyperpq.inference.codebooks import Codebooks, Codes, Float64s


class BalancedCodebooks:
    """Two kinds of codebooks as one; the distances of the second are multiplied by a factor.

    Parameters
    ----------
    semantic, fidelity : Codebooks
        The parts.
    factor : float
        Of the distances of the second.
    metric : str
        Name of the distance.
    """

    spaces = 1

    def __init__(
        self, semantic: Codebooks, fidelity: Codebooks, factor: float, metric: str
    ) -> None:
        self._parts = (semantic, fidelity)
        self._factor, self.metric = factor, metric
        self._widths = [part.spaces * part.D for part in self._parts]
        self.D = sum(self._widths)
        self.M, self.nbits = semantic.M + fidelity.M, semantic.nbits

    def clip(self, v: Float64s) -> Float64s:
        """Vectors (n, 1, D) -> those that codewords can reach."""
        return self._joined([part.clip(own) for part, own in self._split(v)])

    def points(self, v: Float64s) -> Float64s:
        """Vectors (n, 1, D) -> points (n, 1, D)."""
        return self._joined([part.points(own) for part, own in self._split(v)])

    def codes(self, x: Float64s) -> Codes:
        """Points (n, 1, D) -> codes (n, M): the semantic ones first."""
        return np.concatenate([part.codes(own) for part, own in self._split(x)], 1)

    def tables(self, x: Float64s) -> Float64s:
        """Points (nq, 1, D) of queries -> distances (nq, M, K), which add up over M."""
        semantic, fidelity = (part.tables(own) for part, own in self._split(x))
        return np.concatenate([semantic, fidelity * self._factor], 1)

    def decode(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> vectors (n, 1, D)."""
        return self._joined([part.decode(own) for part, own in self._split_codes(codes)])

    def code_points(self, codes: Codes) -> Float64s:
        """Codes (n, M) -> points (n, 1, D)."""
        return self._joined([part.code_points(own) for part, own in self._split_codes(codes)])

    def corrections(self, codes: Codes) -> Float64s:
        """Zeros (n,): balanced codes are not ranked again without features."""
        return np.zeros(len(codes))

    def _split(self, v: Float64s) -> list[tuple[Codebooks, Float64s]]:
        shares = np.split(v[:, 0], self._widths[:1], 1)
        return [
            (part, share.reshape(len(v), part.spaces, part.D))
            for part, share in zip(self._parts, shares, strict=True)
        ]

    def _split_codes(self, codes: Codes) -> list[tuple[Codebooks, Codes]]:
        at = self._parts[0].M
        return list(zip(self._parts, (codes[:, :at], codes[:, at:]), strict=True))

    @staticmethod
    def _joined(parts: list[Float64s]) -> Float64s:
        return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)[:, None]
