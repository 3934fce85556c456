"""`Codec`: features to codes, to distance tables and back, in batches."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from typing_extensions import Self, override

from hyperpq.codec import freezing
from hyperpq.codes import code_size
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.utils.devices import limit_torch_threads
from hyperpq.utils.kept import Kept

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.codec.config import AdditiveConfig, BalancedConfig, CodecConfig, PQConfig
    from hyperpq.codec.feature_space import FeatureSpace
    from hyperpq.codec.frozen import FrozenCodec
    from hyperpq.quantizers.base import Quantizer

# The threads of PyTorch do not survive a fork: its next parallel loop would wait for them forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
# PyTorch starts as many threads as the machine has cores, also where a container allows fewer.
limit_torch_threads()


class Codec(nn.Module, ABC):
    """A map from features to vectors, and a quantizer of these.

    Parameters
    ----------
    config : CodecConfig, AdditiveConfig, BalancedConfig or PQConfig
        Settings.

    Attributes
    ----------
    config
        As given.
    quantizer : Quantizer
        Quantizer of the vectors, which a subclass makes.
    is_trained : bool
        Whether the codec can be used.
    is_learned : bool
        Whether training went beyond PCA and k-means, which it leaves where items are too few, where
        learning did not help, or with ``epochs=0``. It is known after a training and not stored
        with the codec: True for one that was read from files.
    recipe : dict
        How the codec was trained: the fields of the `Recipe` by name; empty where nothing was
        trained.
    """

    config: CodecConfig | AdditiveConfig | BalancedConfig | PQConfig
    quantizer: Quantizer

    def __init__(self, config: CodecConfig | AdditiveConfig | BalancedConfig | PQConfig) -> None:
        super().__init__()
        self.config = config
        self.is_trained = False
        self.is_learned = True
        self.recipe: dict[str, Any] = {}
        self._frozen: Kept[FrozenCodec] = Kept()

    @override
    def train(self, mode: bool = True) -> Self:
        """Set PyTorch's training mode, as of any module; it does not learn from data.

        Encoding does not depend on the mode. `HiHPQIndex.train` and `PQCodec.fit` learn a codec.

        Raises
        ------
        InvalidInputError
            The mode is not True or False.
        """
        if not isinstance(mode, bool):
            raise InvalidInputError(
                f"mode is of type {type(mode).__name__}; expected True or False, as train switches "
                "PyTorch's training mode; to learn a codec call HiHPQIndex.train(x) or "
                "PQCodec.fit(x)."
            )
        return super().train(mode)

    @abstractmethod
    def vectors(self, x: Tensor) -> Tensor:
        """Map features to the vectors that are quantized.

        Parameters
        ----------
        x : Tensor, shape (n, d), float32
            Features on the codec's device.

        Returns
        -------
        Tensor, shape (n, spaces, D), float32
            Each row has the same bits in any batch.
        """

    @property
    def has_corrections(self) -> bool:
        """Whether the best codes of a search can be ranked again without features."""
        return freezing.has_corrections(self.config)

    def corrections(self, codes: ArrayLike) -> NDArray[np.float64]:
        """What makes distances of codes more exact, from the codes alone, see `AdditiveCodec`.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n,), float64
            To be added to the sum of table entries of any query; 0 for codes whose table entries
            say all that is known.

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `decode`.
        """
        return self.coder().corrections(codes)

    @property
    def unit(self) -> float:
        """What distances of the quantizer are multiplied by, to be those of the codec."""
        return 1.0

    @property
    def approximates_features(self) -> bool:
        """Whether distances of codes stand for distances of the features.

        If so, these replace them where a search is refined; otherwise both are added up, as the
        codes know what the features do not.
        """
        return freezing.approximates_features(self.config)

    @abstractmethod
    def feature_space(self) -> FeatureSpace:
        """How features themselves are compared where a search is refined by them."""

    @property
    def d(self) -> int:
        """Width of the features."""
        return self.config.d

    @property
    def M(self) -> int:
        """Codes of one vector: number of subspaces, or of codebooks that add up."""
        return self.quantizer.M

    @property
    def nbits(self) -> int:
        """Bits of one code."""
        return self.quantizer.nbits

    @property
    def metric(self) -> str:
        """Name of the distance that the tables add up to."""
        return self.quantizer.metric

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.M, self.nbits)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.codebooks.device

    def settings(self) -> dict[str, Any]:
        """Everything but the weights, as JSON types.

        The names are those of this version; `hyperpq.codec.serialization` maps them to those of
        the file format.
        """
        return {**asdict(self.config), "metric": self.metric}

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Map features to vectors before quantization: a continuous representation.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features.

        Returns
        -------
        ndarray, shape (n, spaces * D), float32
            The clipped tangent vectors of a `HiHPQCodec` (n, M * D), the vectors of an
            `AdditiveCodec` (n, D), the features themselves of a `PQCodec` (n, d). `decode` gives
            the quantized counterpart in the same space.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        InvalidInputError
            See `hyperpq.utils.validation.as_features`.
        """
        return self.coder().embed(x)

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Encode features.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Features.

        Returns
        -------
        ndarray, shape (n, code_size), uint8
            Codes, packed as `hyperpq.codes.pack` describes.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        InvalidInputError
            See `hyperpq.utils.validation.as_features`.
        """
        return self.coder().encode(x)

    def tables(self, x: ArrayLike) -> NDArray[np.float32]:
        """Distances from queries to every codeword, the ADC tables.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Query features.

        Returns
        -------
        ndarray, shape (nq, M, K), float32
            ``out[q, m, k]`` is what codeword k of codebook m adds to the distance of query q: the
            distance in subspace m (metric ``l1``), its square (``geodesic``), the squared chord
            (``chord``), or a share of the squared distance (``cosine``, ``l2``) or of the negated
            inner product (``ip``).

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        InvalidInputError
            See `hyperpq.utils.validation.as_features`.
        """
        return self.coder().tables(x)

    def code_tables(self, codes: ArrayLike) -> NDArray[np.float32]:
        """`tables` of queries that lie where codes are decoded to.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n, M, K), float32

        Raises
        ------
        NotTrainedError, InvalidInputError
            See `decode`.
        """
        return self.coder().code_tables(codes)

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Decode codes to the vectors of their codewords, in the space of `embed`.

        Parameters
        ----------
        codes : array_like, shape (n, code_size), uint8
            What `encode` returned.

        Returns
        -------
        ndarray, shape (n, spaces * D), float32

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        InvalidInputError
            The codes have another dtype or width.
        """
        return self.coder().decode(codes)

    def frozen(self) -> FrozenCodec:
        """The codec as it is now, in NumPy: it does not change with the weights.

        An index encodes and searches with it, and so does this codec on a CPU.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        """
        self.check_trained()
        tensors = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.endswith("sample")
        }

        def make() -> FrozenCodec:
            arrays = {name: tensor.cpu().numpy().copy() for name, tensor in tensors.items()}
            return freezing.freeze(self.config, arrays)

        return self._frozen.get(tuple(tensors.values()), make)

    def features_of_vectors(
        self, v: NDArray[np.float32], x: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Vectors (n, spaces * D) in the space of `embed`, of the features x (n, d) if given."""
        return v

    def coder(self) -> Coder:
        """What encodes and compares on the device of the codec, with its present weights.

        Raises
        ------
        NotTrainedError
            The codec is not trained.
        """
        self.check_trained()
        if self.device.type == "cpu":
            return self.frozen()
        from hyperpq.codec.torch_coder import TorchCoder

        return TorchCoder(self)

    def check_trained(self) -> None:
        """Raise `NotTrainedError` unless the codec can be used."""
        if not self.is_trained:
            raise NotTrainedError(
                "the codec is not trained; expected one that HiHPQIndex.train(x) or PQCodec.fit(x) "
                "made, or that HiHPQIndex.load(path) opened."
            )
