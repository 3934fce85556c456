"""hyperpq for ann-benchmarks; `README.md` says where this folder goes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq import HiHPQIndex, index_factory

# Learning from more images takes longer and gains little; a build takes as many.
_MAX_LEARNED = 25_000

Results = list[NDArray[np.int64]]


class HyperPQ:
    """Exhaustive search of codes, and exact distances of the nearest of them if asked for.

    It has every method of `ann_benchmarks.algorithms.base.module.BaseANN` and does not derive from
    it, so that it can be imported without ann-benchmarks.

    Parameters
    ----------
    metric : {"angular", "euclidean"}
        Metric of the data set.
    method : {"fidelity", "semantic", "opq"}
        What makes the codes. ``fidelity`` and ``semantic`` are the objectives of a learned index,
        which sees directions only; ``opq`` is a rotation and plain codebooks.
    n_bytes : int
        Bytes of one code, at most one for each coordinate.
    """

    def __init__(self, metric: str, method: str, n_bytes: int) -> None:
        if metric not in ("angular", "euclidean"):
            raise NotImplementedError(f"hyperpq has no metric {metric}")
        if method not in ("fidelity", "semantic", "opq"):
            raise NotImplementedError(f"hyperpq has no method {method}")
        if metric == "euclidean" and method != "opq":
            raise NotImplementedError(f"{method} is for angular data: it does not see lengths")
        self.metric, self.method, self.n_bytes = metric, method, n_bytes
        self.candidates = 0
        self.index: HiHPQIndex | None = None
        self.vectors: NDArray[np.float32] | None = None
        self.results: Results = []

    def fit(self, X: NDArray[Any]) -> None:
        """Learn the codes from the vectors, and add these."""
        self.vectors = self._prepared(X)
        n, d = self.vectors.shape
        M = min(self.n_bytes, d)
        if self.method == "opq":
            # Codebooks need a multiple of M coordinates; the rotation leaves out the least ones.
            self.index = index_factory(d, f"OPQ{M}_{d - d % M},PQ{M}")
            self.index.train(self.vectors)
        else:
            self.index = HiHPQIndex(d, M)
            rows = np.random.default_rng(0).permutation(n)[:_MAX_LEARNED]
            self.index.train(self.vectors[np.sort(rows)], objective=self.method)
        self.index.add(self.vectors)

    def set_query_arguments(self, candidates: int) -> None:
        """Set how many of the nearest codes get exact distances; 0 if the codes have to do."""
        self.candidates = candidates

    def query(self, q: NDArray[Any], n: int) -> NDArray[np.int64]:
        """Ids of the n nearest vectors of one query, on one thread."""
        return self._search(self._prepared(q[None]), n, threads=1)[0]

    def batch_query(self, X: NDArray[Any], n: int) -> None:
        """Search for all queries at once, on all cores."""
        self.results = self._search(self._prepared(X), n, threads=None)

    def get_batch_results(self) -> Results:
        """What `batch_query` has found."""
        return self.results

    def get_memory_usage(self) -> float:
        """Kilobytes of the codes, and of the vectors if exact distances are asked for."""
        if self.index is None or self.vectors is None:
            return 0.0
        exact = self.vectors.nbytes if self.candidates else 0
        return (self.index.ntotal * self.index.code_size + exact) / 1024

    def get_additional(self) -> dict[str, Any]:
        """Bytes of one code, which are stored with the results."""
        assert self.index is not None
        return {"code_bytes": self.index.code_size}

    def done(self) -> None:
        """Free the index."""
        self.index = self.vectors = None

    def __str__(self) -> str:
        return f"hyperpq({self.method}, {self.n_bytes} bytes, {self.candidates} candidates)"

    def _prepared(self, X: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors as float32, of unit length if the metric is angular."""
        vectors = np.ascontiguousarray(X, np.float32)
        if self.metric == "angular":
            # A vector of zeros has no direction.
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            return np.divide(vectors, np.where(lengths > 0, lengths, 1), dtype=np.float32)
        return vectors

    def _search(self, queries: NDArray[np.float32], n: int, threads: int | None) -> Results:
        assert self.index is not None and self.vectors is not None
        _, ids = self.index.search(queries, max(n, self.candidates), threads=threads)
        if not self.candidates:
            return [row[row >= 0] for row in ids]
        return [
            self._nearest(query, row[row >= 0], n) for query, row in zip(queries, ids, strict=True)
        ]

    def _nearest(
        self, query: NDArray[np.float32], ids: NDArray[np.int64], n: int
    ) -> NDArray[np.int64]:
        """The n nearest of some vectors by their exact distances."""
        assert self.vectors is not None
        difference = self.vectors[ids] - query
        distances = np.einsum("ij,ij->i", difference, difference)
        return ids[np.argsort(distances, kind="stable")[:n]]
