"""`Coder`: what an index asks of its codec, on a CPU or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

    from hyperpq.codec.base import Codec
    from hyperpq.codec.feature_space import FeatureSpace


class Coder(Protocol):
    """A trained codec that encodes features and compares queries with codes.

    The properties and methods are those of `Codec`.
    """

    @property
    def d(self) -> int:
        """Width of the features."""

    @property
    def M(self) -> int:
        """Codes of one vector."""

    @property
    def nbits(self) -> int:
        """Bits of one code."""

    @property
    def metric(self) -> str:
        """Name of the distance that the tables add up to."""

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""

    @property
    def has_corrections(self) -> bool:
        """Whether the best codes of a search can be ranked again without features."""

    @property
    def approximates_features(self) -> bool:
        """Whether distances of codes stand for distances of the features."""

    def feature_space(self) -> FeatureSpace:
        """How features themselves are compared where a search is refined by them."""

    def embed(self, x: ArrayLike) -> NDArray[np.float32]:
        """Features (n, d) -> vectors before quantization (n, spaces * D)."""

    def encode(self, x: ArrayLike) -> NDArray[np.uint8]:
        """Features (n, d) -> codes (n, code_size)."""

    def tables(self, x: ArrayLike) -> NDArray[np.float32]:
        """Queries (nq, d) -> tables (nq, M, K)."""

    def code_tables(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes (n, code_size) -> tables (n, M, K) of what they decode to."""

    def decode(self, codes: ArrayLike) -> NDArray[np.float32]:
        """Codes (n, code_size) -> vectors (n, spaces * D)."""

    def corrections(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Codes (n, code_size) -> what makes their distances more exact (n,)."""


def coder_of(codec: Codec) -> Coder:
    """The coder of a codec, always the same one as long as the codec stays on its device.

    It has the weights that the codec had when it was first asked for. `Codec.encode` and the other
    methods of the codec itself compare the weights with those at each call, which takes longer than
    the tables of a query.

    Raises
    ------
    NotTrainedError
        The codec is not trained.
    """
    codec.check_trained()
    known = _KNOWN.get(codec)
    if known is None or known[0] != codec.device:
        known = _KNOWN[codec] = codec.device, codec.coder()
    return known[1]


_KNOWN: WeakKeyDictionary[Codec, tuple[torch.device, Coder]] = WeakKeyDictionary()
