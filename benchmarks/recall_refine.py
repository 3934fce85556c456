"""Refinement beside that of faiss, and beside product quantization of as many bytes.

All methods search the real rows of `benchmarks.recall_sets` by cosine. Those with refinement rank
200 candidates of 8-byte codes again by what they keep of each row. The methods take turns, a query
at a time, so that the ratios of their times are of one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

from benchmarks.baselines import Floats, Ids
from benchmarks.recall_ours import CANDIDATES, train_ours
from benchmarks.recall_page import LONG_PQ, REFINE_FLAT
from benchmarks.recall_sets import Rows, as_compared
from hyperpq import HiHPQIndex
from hyperpq.codec.feature_codec import FeatureCodec
from hyperpq.quantizers.kmeans import import_faiss

SIZE = 8
KEPT: Literal["int8"] = "int8"
# Recipes whose codes are refined.
RECIPES = ("default", "fidelity")
# Where each dimension has 256 codewords, they are trained on so many rows, in so many steps.
SCALAR_TRAIN, SCALAR_STEPS = 2000, 10

Search = Callable[[Floats, int], Ids]


class Refinable:
    """Methods that are compared, each with its bytes a row and a search.

    Parameters
    ----------
    rows : Rows
    seed : int

    Attributes
    ----------
    methods : dict
        Bytes of a row, and the search, by name.
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        self.methods: dict[str, tuple[int, Search]] = {}
        x = as_compared(rows.real, "cosine")
        train = as_compared(rows.train, "cosine")
        for name in RECIPES:
            self._add_ours(name, x, train, seed)
        self._add_faiss(x, train)

    def _add_ours(self, name: str, x: Floats, train: Floats, seed: int) -> None:
        codec = train_ours(name, train, SIZE, "cosine", seed)
        index = HiHPQIndex.from_codec(codec, features=KEPT, device="cpu")
        index.add(x)
        kept = FeatureCodec(KEPT, index.d).size

        def refined(query: Floats, k: int) -> Ids:
            return index.search(query, k, refine=CANDIDATES)[1]

        self.methods[f"hyperpq {name}"] = SIZE, lambda query, k: index.search(query, k)[1]
        self.methods[f"hyperpq {name}, refined"] = SIZE + kept, refined

    def _add_faiss(self, x: Floats, train: Floats) -> None:
        faiss = import_faiss()
        d = x.shape[1]
        codes = faiss.IndexPQ(d, SIZE, 8)
        codes.train(train)
        codes.add(x)
        self.methods["IndexPQ"] = SIZE, lambda query, k: codes.search(query, k)[1]
        exact, bytewise = (
            faiss.IndexFlat(d),
            faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit),
        )
        bytewise.train(train)
        for name, kept in ((REFINE_FLAT, exact), ("IndexRefine, 8-bit scalars", bytewise)):
            kept.add(x)
            refined = faiss.IndexRefine(codes, kept)
            self.methods[name] = SIZE + kept.sa_code_size(), _refined_search(refined)
        long = faiss.IndexPQ(d, d, 8)
        long.pq.cp.min_points_per_centroid, long.pq.cp.niter = 1, SCALAR_STEPS
        long.train(train[:SCALAR_TRAIN])
        long.add(x)
        self.methods[LONG_PQ] = d, lambda query, k: long.search(query, k)[1]


def _refined_search(index: Any) -> Search:
    def search(query: Floats, k: int) -> Ids:
        index.k_factor = CANDIDATES / k
        found: Ids = index.search(query, k)[1]
        return found

    return search


def seconds_in_turn(
    methods: dict[str, tuple[int, Search]], query: Floats, rounds: int, k: int = 10
) -> dict[str, float]:
    """Median seconds of a query for each method; they take turns with one query at a time."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(rounds + 1):
        one = query[turn % len(query)][None]
        for name, (_, search) in methods.items():
            start = time.perf_counter()
            search(one, k)
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}
