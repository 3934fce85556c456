"""A query finds the same, to the last bit, alone and among others, on any processor."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex, PQCodec
from hyperpq.geometry import GEOMETRIES
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

D_IN, K = 24, 15
RNG = np.random.default_rng(11)
CENTERS = RNG.normal(size=(40, D_IN)) * 2
X = (CENTERS[RNG.integers(0, 40, 1200)] + RNG.normal(size=(1200, D_IN))).astype(np.float32)
# The first two are rows, and the two after them are the same query.
QUERIES = np.concatenate([X[:2], X[7:8] + 1, X[7:8] + 1, X[600:620] + np.float32(0.3)])
# Metric, nbits, fields of the recipe.
KINDS = {
    "l1": ("l1", 8, {"epochs": 2, "width": 16, "subspaces": 2, "levels": (8, 4)}),
    "chord, branch": ("chord", 8, {"epochs": 1, "width": 12, "subspaces": 2, "hidden": 20}),
    "4 bits": ("geodesic", 4, {"epochs": 0}),
    "fidelity": ("l1", 8, {"epochs": 1, "objective": "fidelity"}),
    **{
        f"{geometry} {metric}": (metric, 8, {"epochs": 0, "geometry": geometry})
        for geometry in GEOMETRIES
        for metric in ("l1", "geodesic", "chord")
    },
}
PLAIN = ("plain l2", "plain ip", "plain 4 bits")


def made(kind):
    if kind in PLAIN:
        # Codewords of rows, so that some distances are zero.
        words = X[: 16 if kind == "plain 4 bits" else 256].reshape(-1, 4, D_IN // 4)
        codec = PQCodec.from_codebooks(
            words.transpose(1, 0, 2).copy(), metric="ip" if kind == "plain ip" else "l2"
        )
    else:
        metric, nbits, fields = KINDS[kind]
        codec = train_codec(
            X, M=3, nbits=nbits, metric=metric, recipe=Recipe().replace(**fields), seed=0
        )
    index = HiHPQIndex.from_codec(codec, device="cpu")
    index.add(X)
    return index


@pytest.fixture(scope="module")
def indexes():
    """Kind to index, made when it is first asked for."""

    class Indexes(dict):
        def __missing__(self, kind):
            self[kind] = made(kind)
            return self[kind]

    return Indexes()


def assert_same(found, want):
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [*KINDS, *PLAIN])
def test_a_query_alone_finds_what_it_finds_among_others(indexes, kind):
    """`D` differed in its last bits, and so did the order of near rows."""
    index = indexes[kind]
    D, I = index.search(QUERIES, K, threads=1)  # noqa: E741
    radius = np.median(D)
    lims, R, J = index.range_search(QUERIES, radius, threads=1)
    for i in range(len(QUERIES)):
        assert_same(index.search(QUERIES[i : i + 1], K, threads=1), (D[[i]], I[[i]]))
    for size in (2, 17):
        some = [
            index.search(QUERIES[i : i + size], K, threads=1) for i in range(0, len(QUERIES), size)
        ]
        assert_same((np.concatenate([s[j] for s in some]) for j in range(2)), (D, I))
    for i in (0, 2, 20):
        alone = index.range_search(QUERIES[i : i + 1], radius, threads=1)
        assert_same(alone[1:], (R[lims[i] : lims[i + 1]], J[lims[i] : lims[i + 1]]))
    assert_same((D[2], I[2]), (D[3], I[3]))


# Two threads are slow where another process keeps a core busy: a few queries are enough for them.
@pytest.mark.parametrize("kind", ["l1", "4 bits", "fidelity", "plain l2"])
def test_two_threads_find_what_one_does(indexes, kind):
    index = indexes[kind]
    D, I = index.search(QUERIES, K, threads=1)  # noqa: E741
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(index.search(QUERIES, K, threads=2), (D, I))
        for i in (0, 5):
            assert_same(index.search(QUERIES[i : i + 1], K, threads=2), (D[[i]], I[[i]]))
    finally:
        torch.set_num_threads(before)


def test_more_queries_than_a_batch(indexes):
    index, many = indexes["l1"], np.concatenate([X, QUERIES])
    D, I = index.search(many, K)  # noqa: E741
    assert_same(index.search(QUERIES, K), (D[len(X) :], I[len(X) :]))
    order = np.random.default_rng(1).permutation(len(many))
    assert_same(index.search(many[order], K), (D[order], I[order]))


PROCESSORS = {
    "plain": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "HYPERPQ_SCAN_LEVEL": "portable",
    },
    "avx2, two threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    },
    "numpy": {"HYPERPQ_SCAN_LEVEL": "numpy"},
}
SEARCH_ALONE = """
import sys
import numpy as np
from hyperpq import HiHPQIndex

queries, out = np.load(sys.argv[1] + "/queries.npy"), {}
for number in range(int(sys.argv[2])):
    index = HiHPQIndex.load(f"{sys.argv[1]}/{number}", device="cpu")
    found = [index.search(q[None], int(sys.argv[3])) for q in queries]
    out[f"D{number}"] = np.concatenate([D for D, _ in found])
    out[f"I{number}"] = np.concatenate([I for _, I in found])
np.savez(sys.argv[4], **out)
"""


@pytest.fixture(scope="module")
def stored(indexes, tmp_path_factory):
    """Copies of all indexes in directories 0, 1, ..., and the queries."""
    folder = tmp_path_factory.mktemp("stored")
    for number, kind in enumerate([*KINDS, *PLAIN]):
        indexes[kind].clone().save(folder / str(number))
    np.save(folder / "queries.npy", QUERIES)
    return folder


@pytest.mark.parametrize("processor", PROCESSORS)
def test_another_processor_finds_the_same(indexes, stored, tmp_path, processor):
    """One query at a time in a process with another instruction set, against all of them here."""
    kinds = [*KINDS, *PLAIN]
    arguments = [stored, str(len(kinds)), str(K), tmp_path / "found.npz"]
    subprocess.run(
        [sys.executable, "-c", SEARCH_ALONE, *arguments],
        check=True,
        env={**os.environ, **PROCESSORS[processor]},
    )
    with np.load(tmp_path / "found.npz") as found:
        for number, kind in enumerate(kinds):
            D, I = indexes[kind].search(QUERIES, K)  # noqa: E741
            np.testing.assert_array_equal(found[f"I{number}"], I, err_msg=kind)
            np.testing.assert_array_equal(found[f"D{number}"], D, err_msg=kind)
