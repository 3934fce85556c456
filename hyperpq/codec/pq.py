"""`PQCodec`: flat codebooks without a learned map, those of FAISS's `IndexPQ`."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from typing_extensions import override

from hyperpq.codec.base import Codec
from hyperpq.codec.config import PQConfig
from hyperpq.errors import InvalidInputError
from hyperpq.quantizers.flat_pq import FlatMetric, FlatProductQuantizer
from hyperpq.utils.validation import as_array, as_features


class PQCodec(Codec):
    """Vectors to codes and tables by flat codebooks, without anything learned.

    Parameters
    ----------
    config : PQConfig
        Settings.

    Attributes
    ----------
    quantizer : FlatProductQuantizer
        Its codebooks are zero until they are loaded; see `from_codebooks`.
    """

    config: PQConfig
    quantizer: FlatProductQuantizer

    def __init__(self, config: PQConfig) -> None:
        super().__init__(config)
        self.quantizer = FlatProductQuantizer(
            config.M, config.D, config.nbits, metric=config.metric
        )
        self.is_trained = True

    @classmethod
    def from_codebooks(cls, codebooks: ArrayLike, *, metric: FlatMetric = "l2") -> PQCodec:
        """Make a codec of given codebooks.

        Parameters
        ----------
        codebooks : array_like, shape (M, K, D)
            Finite codewords of each subspace, K = 256 or 16.
        metric : {"l2", "ip"}
            Squared Euclidean distance, or the negative of the inner product.

        Raises
        ------
        InvalidInputError
            The codebooks have another shape, or values that are not finite float32.
        """
        array = as_array(codebooks, "codebooks")
        if array.ndim != 3 or array.shape[1] not in (16, 256) or 0 in array.shape:
            raise InvalidInputError(
                f"codebooks have shape {array.shape}; expected (M, K, D), K 256 or 16."
            )
        M, K, D = array.shape
        words = as_features(array.reshape(M * K, D), D, "codebooks").reshape(M, K, D)
        codec = cls(PQConfig(M * D, M, K.bit_length() - 1, metric))
        codec.quantizer.codebooks.copy_(torch.from_numpy(words.copy()))
        return codec.eval()

    @override
    def vectors(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.quantizer.M, self.quantizer.D))
