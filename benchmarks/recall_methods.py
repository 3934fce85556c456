"""Baselines of `benchmarks.recall`: each trains, takes a database in blocks, and searches it.

Those of FAISS are the indexes of `benchmarks.baselines` with their settings. Those of ScaNN are its
asymmetric hashing with the anisotropic loss (Guo et al., ICML 2020), 8 bits a codeword, without its
tree and its reordering. They are left out where it is not installed (``pip install scann``).

=========  =========================================================================================
scann      PCA and a random rotation as in ``pca_pq``, squared distances, threshold .1
scann_dot  the same without subtracting the mean, inner products, threshold .2: what the loss was
           made for. Cosine only
=========  =========================================================================================

Recall@10 of the cosine neighbours at 8 bytes among 50,000 rows: ``scann`` .294 with the threshold
.1, .243 with .2 and .295 without; ``scann_dot`` .203, .144 with .1. On all dimensions .212 and .131
without a threshold, and less with one.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import Floats, Ids, make_index, width
from hyperpq.quantizers.kmeans import import_faiss

# Methods of FAISS whose vectors are decoded to be compared, see `benchmarks.baselines`.
DECODED = ("rq", "lsq")
# Bits of a coordinate of a query of RaBitQ. With float32 a search takes 20 times as long, and the
# recall among 10,000 rows is the same within .001.
QUERY_BITS = 8


class Codes(Protocol):
    """Codes of a growing database.

    Attributes
    ----------
    bytes : int
        Bytes of a row.
    """

    bytes: int

    def train(self, x: Floats) -> None:
        """Train on the rows of x (n, d)."""

    def add(self, x: Floats) -> None:
        """Encode the rows of x (n, d) and keep their codes."""

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows of each query (nq, d), shape (nq, k).

        By what follows the name of the method in the runs, where codes are searched in two ways.
        """


class FaissCodes:
    """Codes of an index of FAISS.

    Parameters
    ----------
    name : str
        Key of `benchmarks.baselines.FACTORY`.
    d, size, metric, seed
        As of `MakeCodes`.
    """

    def __init__(self, name: str, d: int, size: int, metric: str, seed: int) -> None:
        self._decoded = name in DECODED
        self._index = make_index(name, d, 8 * size, seed)
        if name == "rabitq":
            import_faiss().downcast_index(self._index.index).qb = QUERY_BITS
        self.bytes = self._index.sa_code_size()

    def train(self, x: Floats) -> None:
        """Train on the rows of x (n, d)."""
        self._index.train(x)

    def add(self, x: Floats) -> None:
        """Encode the rows of x (n, d) and keep their codes."""
        self._index.add(x)

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows of each query (nq, d), shape (nq, k)."""
        return {"": (self._compare if self._decoded else self._index.search)(query, k)[1]}

    def _compare(self, query: Floats, k: int) -> tuple[Floats, Ids]:
        """Compare with decoded vectors, as a search of the index does at many times the cost."""
        faiss = import_faiss()
        codes = faiss.downcast_index(self._index.index)
        for i in range(self._index.chain.size()):
            query = faiss.downcast_VectorTransform(self._index.chain.at(i)).apply(query)
        flat = faiss.IndexFlatL2(codes.d)
        flat.add(codes.reconstruct_n(0, codes.ntotal))
        found: tuple[Floats, Ids] = flat.search(query, k)
        return found


class ScannCodes:
    """Codes of ScaNN.

    ScaNN trains on rows that it encodes, so it trains again whenever it is searched. It gets as
    many rows to train on as the other methods.

    Parameters
    ----------
    compares : {"squared_l2", "dot_product"}
        How codes are compared; for inner products the mean is not subtracted.
    threshold : float
        The errors along a row count more for queries whose cosine to it is at least this.
    d, size, seed : int
        As of `MakeCodes`.
    """

    def __init__(
        self, compares: str, threshold: float, d: int, size: int, metric: str, seed: int
    ) -> None:
        faiss = import_faiss()
        self.bytes = size
        self._compares, self._threshold = compares, threshold
        w = width(8 * size)
        self._pca, self._rotation = faiss.PCAMatrix(d, w), faiss.RandomRotationMatrix(w, w)
        self._rotation.init(seed)
        self._step = w // size
        self._sample = 0
        self._blocks: list[Floats] = []

    def train(self, x: Floats) -> None:
        """Train the PCA on the rows of x (n, d)."""
        # Rows and their opposites have the mean 0.
        self._pca.train(np.concatenate([x, -x]) if self._compares == "dot_product" else x)
        self._sample = len(x)

    def add(self, x: Floats) -> None:
        """Keep the principal components of the rows of x (n, d)."""
        self._blocks.append(self._components(x))

    def search(self, query: Floats, k: int) -> dict[str, Ids]:
        """The k nearest rows of each query (nq, d), shape (nq, k)."""
        scann: Any = importlib.import_module("scann")
        rows = np.concatenate(self._blocks)
        self._blocks = [rows]
        builder = scann.scann_ops_pybind.builder(rows, k, self._compares).score_ah(
            self._step,
            anisotropic_quantization_threshold=self._threshold,
            training_sample_size=self._sample,
            hash_type="lut256",
        )
        found: NDArray[np.int32] = builder.build().search_batched(self._components(query))[0]
        return {"": found.astype(np.int64)}

    def _components(self, x: Floats) -> Floats:
        found: Floats = self._rotation.apply(self._pca.apply(x))
        return found


class MakeCodes(Protocol):
    """Creates untrained codes."""

    def __call__(self, d: int, size: int, metric: str, seed: int) -> Codes:
        """For rows of d dimensions that the metric compares, ``size`` bytes of codewords, a seed.

        The rows are scaled by `benchmarks.recall_sets.as_compared`, so few methods need the metric.
        """


BASELINES: dict[str, MakeCodes] = {
    **{name: partial(FaissCodes, name) for name in ("pq", "pca_pq", "opq", "rq", "lsq", "rabitq")},
    "scann": partial(ScannCodes, "squared_l2", 0.1),
    "scann_dot": partial(ScannCodes, "dot_product", 0.2),
}


def is_installed(name: str) -> bool:
    """Whether a baseline can be measured here."""
    return not name.startswith("scann") or importlib.util.find_spec("scann") is not None
