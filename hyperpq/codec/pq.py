"""`PQCodec`: flat codebooks without a learned representation, those of FAISS's `IndexPQ`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from typing_extensions import override

from hyperpq.codec.base import Codec
from hyperpq.codec.config import PQConfig
from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.codec.freezing import space_of
from hyperpq.codec.rotation import check_orthonormal
from hyperpq.errors import InvalidInputError
from hyperpq.progress import ProgressLike
from hyperpq.quantizers.fit_flat import fit_flat, fit_rotation, take_evenly
from hyperpq.quantizers.flat_metrics import FlatMetric
from hyperpq.quantizers.flat_pq import FlatProductQuantizer
from hyperpq.utils.exact_matmul import RoundedFactor
from hyperpq.utils.kept import Kept
from hyperpq.utils.validation import as_array, as_count, as_features


class PQCodec(Codec):
    """Vectors to codes and tables by flat codebooks, after a rotation if there is one.

    `fit` learns the codebooks, and `from_codebooks` takes those of another program; a new codec is
    not trained.

    Parameters
    ----------
    config : PQConfig
        Settings.

    Attributes
    ----------
    quantizer : FlatProductQuantizer
        Its codebooks are zero until the codec is trained.
    rotation : Buffer, shape (config.rotation, d), or None
        Orthonormal rows: vectors are multiplied by it before they are cut into subspaces.
    """

    config: PQConfig
    quantizer: FlatProductQuantizer

    def __init__(self, config: PQConfig) -> None:
        super().__init__(config)
        self.quantizer = FlatProductQuantizer(
            config.M, config.D, config.nbits, metric=config.metric
        )
        self.rotation: Tensor | None
        self.register_buffer("rotation", None)
        self._rounded: Kept[RoundedFactor] = Kept()
        if config.rotation:
            self.rotation = nn.Buffer(torch.zeros(config.rotation, config.d))

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        M: int,
        nbits: int = 8,
        *,
        metric: FlatMetric = "l2",
        rotation: int = 0,
        seed: int = 0,
        progress: ProgressLike = None,
    ) -> PQCodec:
        """Learn codebooks by k-means, and the rotation of OPQ if it is asked for.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Vectors, at least as many as a codebook has codewords: 256, or 16 with 4 bits. Of more
            than 65,536 that many are taken evenly.
        M : int
            Number of subspaces: codes of a vector.
        nbits : {8, 4}
            Bits of one code.
        metric : {"l2", "ip"}
            Squared Euclidean distance, or the negative of the inner product. The codebooks are the
            same for both.
        rotation : int
            Coordinates after the rotation, see `PQConfig`; ``d`` keeps all of them.
        seed : int
            The same data, seed and machine give the same codec.
        progress : Progress or bool, optional
            Told about each subspace, and each step of the rotation.

        Returns
        -------
        PQCodec
            On the CPU, in evaluation mode.

        Raises
        ------
        InvalidInputError
            A value or shape is not as described, there are fewer vectors than codewords, or d is
            not a multiple of M.
        MissingDependencyError
            faiss is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from hyperpq import PQCodec
        >>> x = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
        >>> PQCodec.fit(x, 4, rotation=8).encode(x).shape
        (300, 4)
        """
        array = as_array(x, "x")
        if array.ndim != 2 or not array.size:
            raise InvalidInputError(
                f"x has shape {array.shape}; expected (n, d) with at least one row and column."
            )
        features = as_features(array, array.shape[1])
        M, nbits = as_count(M, "M"), as_count(nbits, "nbits")
        codec = cls(PQConfig(features.shape[1], M, nbits, metric, rotation))
        seed = as_count(seed, "seed", 0)
        if len(features) < 1 << nbits:
            raise InvalidInputError(
                f"x has {len(features)} rows, and a codebook has {1 << nbits} codewords; expected "
                "at least as many rows as codewords."
            )
        rows = take_evenly(features)
        if codec.rotation is not None:
            learned = fit_rotation(rows, rotation, M, nbits, seed=seed, progress=progress)
            codec.rotation.copy_(torch.from_numpy(learned))
            rows = codec._rotated(torch.from_numpy(rows)).numpy()
        codebooks = fit_flat(rows, M, nbits, seed=seed, progress=progress)
        codec.quantizer.codebooks.copy_(torch.from_numpy(codebooks))
        codec.is_trained = True
        return codec.eval()

    @classmethod
    def from_codebooks(
        cls,
        codebooks: ArrayLike,
        *,
        metric: FlatMetric = "l2",
        rotation: ArrayLike | None = None,
    ) -> PQCodec:
        """Make a codec of given codebooks.

        Parameters
        ----------
        codebooks : array_like, shape (M, K, D)
            Finite codewords of each subspace, K = 256 or 16.
        metric : {"l2", "ip"}
            Squared Euclidean distance, or the negative of the inner product.
        rotation : array_like, shape (M * D, d), optional
            Orthonormal rows that vectors are multiplied by first; d is M * D without it.

        Raises
        ------
        InvalidInputError
            An array has another shape or values that are not finite float32, or the rows of the
            rotation are not orthonormal.
        """
        array = as_array(codebooks, "codebooks")
        if array.ndim != 3 or array.shape[1] not in (16, 256) or 0 in array.shape:
            raise InvalidInputError(
                f"codebooks have shape {array.shape}; expected (M, K, D), K 256 or 16."
            )
        M, K, D = array.shape
        words = as_features(array.reshape(M * K, D), D, "codebooks").reshape(M, K, D)
        matrix = None if rotation is None else _as_rotation(rotation, M * D)
        d = M * D if matrix is None else matrix.shape[1]
        width = 0 if matrix is None else len(matrix)
        codec = cls(PQConfig(d, M, K.bit_length() - 1, metric, width))
        codec.quantizer.codebooks.copy_(torch.from_numpy(words.copy()))
        if codec.rotation is not None and matrix is not None:
            codec.rotation.copy_(torch.from_numpy(matrix.copy()))
        codec.is_trained = True
        return codec.eval()

    @override
    @torch.no_grad()
    def vectors(self, x: Tensor) -> Tensor:
        return self._rotated(x).unflatten(1, (self.quantizer.M, self.quantizer.D))

    @override
    def feature_space(self) -> FeatureSpace:
        return space_of(self.config, None)

    @override
    @torch.inference_mode()
    def features_of_vectors(
        self, v: NDArray[np.float32], x: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        if self.rotation is None:
            return v
        if x is not None and len(self.rotation) == self.d:
            return x.copy()
        back = RoundedFactor(self.rotation.double())
        rows = torch.from_numpy(v).to(self.device).double()
        out: NDArray[np.float32] = back.left_product(rows).float().cpu().numpy()
        return out

    def _rotated(self, x: Tensor) -> Tensor:
        """Features (n, d) -> what is cut into subspaces (n, M * D); no batch shows."""
        if self.rotation is None:
            return x
        rotation = self.rotation
        factor = self._rounded.get((rotation,), lambda: RoundedFactor(rotation.T.double()))
        return factor.left_product(x.double()).float()


def _as_rotation(rotation: ArrayLike, width: int) -> NDArray[np.float32]:
    array = as_array(rotation, "rotation")
    if array.ndim != 2 or len(array) != width or array.shape[1] < width:
        raise InvalidInputError(
            f"rotation has shape {array.shape}; expected {width} rows, as wide as the codebooks "
            "together, and no fewer columns."
        )
    matrix = as_features(array, array.shape[1], "rotation")
    check_orthonormal(matrix)
    return matrix
