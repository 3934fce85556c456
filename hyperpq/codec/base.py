"""What codecs have in common: blocks of features through vectors to codes and tables, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hyperpq.codes import code_size, pack, unpack
from hyperpq.errors import NotTrainedError
from hyperpq.utils.validation import as_codes, as_features

UNTRAINED = "the codec isn't trained; call train(x) first or load a trained one."
_ROWS = 2048


class Codec(nn.Module, ABC):
    """A map from features to vectors, and a quantizer of these.

    Attributes
    ----------
    d : int
        Width of the features.
    quantizer : Module
        With ``codebooks``, ``M``, ``spaces``, ``D``, ``nbits``, ``K``, ``metric`` and the methods
        ``clip``, ``points``, ``codes``, ``tables`` and ``decode`` of `LorentzProductQuantizer`.
    is_trained : bool
    recipe : dict
        How it was learned; empty where nothing was.
    """

    quantizer: Any

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d, self.is_trained = d, False
        self.recipe: dict[str, Any] = {}

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """Features (n, d) on the codec's device -> the vectors (n, M, D) that are quantized.

        Float32, and of each row the same bits in any batch.
        """

    @property
    def M(self) -> int:
        """Codes of one vector: number of subspaces, or of codebooks that add up."""
        return int(self.quantizer.M)

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.quantizer.M, self.quantizer.nbits)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.quantizer.codebooks.device
        return device

    def _blocks(self, x: NDArray[np.float32]) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows, on the codec's device."""
        for start in range(0, len(x), _ROWS):
            rows = slice(start, min(start + _ROWS, len(x)))
            yield rows, torch.tensor(x[rows], device=self.device)

    def _points(self, x: Tensor) -> Tensor:
        """Features (n, d) -> points (n, M, D) float64, so that rounding doesn't show batches."""
        return cast(Tensor, self.quantizer.points(self.vectors(x).double()))

    def _features(self, x: Any) -> NDArray[np.float32]:
        if not self.is_trained:
            raise NotTrainedError(UNTRAINED)
        return as_features(x, self.d)

    @torch.inference_mode()
    def embed(self, x: Any) -> NDArray[np.float32]:
        """Continuous representation of features: the vectors before quantization.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features.

        Returns
        -------
        ndarray, shape (n, M * D), float32
            Tangent vectors of a `HiHPQCodec`, clipped; (n, D) with the metric ``inner``. `decode`
            gives the quantized counterpart in the same space.

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.quantizer.spaces * self.quantizer.D), np.float32)
        for rows, block in self._blocks(x):
            v = self.quantizer.clip(self.vectors(block).double())
            out[rows] = v.flatten(1).float().cpu().numpy()
        return out

    @torch.inference_mode()
    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Features (n, d) -> codes (n, code_size) uint8, packed as `codes.pack` says.

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.code_size), np.uint8)
        for rows, block in self._blocks(x):
            codes = self.quantizer.codes(self._points(block))
            out[rows] = pack(codes.cpu().numpy(), self.quantizer.nbits)
        return out

    @torch.inference_mode()
    def tables(self, x: Any) -> NDArray[np.float32]:
        """Scores from queries to every codeword, the ADC tables.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Query features.

        Returns
        -------
        ndarray, shape (nq, M, K), float32
            ``out[q, m, k]`` is the metric of codeword k of subspace m: the Lorentzian distance
            (``l1``), its square (``geodesic``), the squared chord (``chord``), or a share of the
            squared distance (``inner``, ``l2``) or of the negated inner product (``ip``).

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `validation.as_features`.
        """
        x = self._features(x)
        out = np.empty((len(x), self.quantizer.M, self.quantizer.K), np.float32)
        for rows, block in self._blocks(x):
            out[rows] = self.quantizer.tables(self._points(block)).float().cpu().numpy()
        return out

    @torch.inference_mode()
    def decode(self, codes: Any) -> NDArray[np.float32]:
        """Codes -> vectors of their codewords, the space of `embed`.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n, M * D), float32

        Raises
        ------
        NotTrainedError, InvalidInputError
            Untrained, or codes of another dtype or width.
        """
        if not self.is_trained:
            raise NotTrainedError(UNTRAINED)
        codes = as_codes(codes, self.code_size)
        unpacked = unpack(codes, self.quantizer.M, self.quantizer.nbits)
        v = self.quantizer.decode(torch.from_numpy(unpacked.copy()).to(self.device))
        out: NDArray[np.float32] = v.flatten(1).cpu().numpy()
        return out
