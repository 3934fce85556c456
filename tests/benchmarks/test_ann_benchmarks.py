"""The module for ann-benchmarks, driven as its runner drives it, against exact neighbours."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.ann_benchmarks import module
from hyperpq.evaluation import knn

pytest.importorskip("faiss")

FOLDER = Path(module.__file__).parent
N, D, K = 900, 20, 10
METRICS = {"angular": "cosine", "euclidean": "l2"}


@pytest.fixture(scope="module")
def data():
    """Vectors and queries around some centres; lengths differ, and some vectors are 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, D))[rng.integers(0, 60, N + 30)] + 0.4 * rng.normal(size=(N + 30, D))
    x *= rng.uniform(0.5, 2, size=(len(x), 1))
    x[5] = x[700] = 0
    # As ann-benchmarks reads them from HDF5.
    return x[:N].astype(np.float32), x[N:].astype(np.float32)


def configured(kind: str) -> list[tuple[list, list]]:
    """Arguments of every definition for a metric, and its query arguments."""
    text = (FOLDER / "config.yml").read_text("utf-8")
    found = []
    for definition in yaml.safe_load(text)["float"][kind]:
        assert hasattr(module, definition["constructor"])
        assert definition["base_args"] == ["@metric"]
        assert definition["module"] == "ann_benchmarks.algorithms.hyperpq"
        for group in definition["run_groups"].values():
            [methods, sizes], [queries] = group["args"], group["query_args"]
            found += [([kind, method, size], queries) for method in methods for size in sizes]
    return found


def recall(found, want):
    return np.mean([len(set(a) & set(b)) / K for a, b in zip(found, want, strict=True)])


@pytest.mark.parametrize("metric", METRICS)
def test_driven_like_its_runner(metric, data):
    """Built once, then each query argument, single queries and batches."""
    x, queries = data
    _, want = knn(queries, x, K, metric=METRICS[metric])
    for arguments, query_arguments in configured(metric):
        if arguments[2] != 8:
            continue
        algorithm = module.HyperPQ(*arguments)
        before = algorithm.get_memory_usage()
        given = x.copy()
        algorithm.fit(given)
        np.testing.assert_array_equal(given, x)
        assert algorithm.get_memory_usage() - before == N * 8 / 1024
        recalls = []
        for candidates in query_arguments:
            algorithm.set_query_arguments(candidates)
            single = [algorithm.query(q, K) for q in queries]
            algorithm.batch_query(queries, K)
            batch = algorithm.get_batch_results()
            for one, same in zip(single, batch, strict=True):
                assert one.tolist() == same.tolist()
                assert len(one) == len(set(one.tolist())) == K
                assert one.min() >= 0 and one.max() < N
            recalls.append(recall(single, want))
            assert f"{candidates} candidates" in str(algorithm)
        assert query_arguments == [0, 100, 1000]
        # With 1,000 candidates every vector has an exact distance.
        assert 0.3 < recalls[0] < recalls[1] <= recalls[2]
        assert recalls[2] == 1
        assert algorithm.get_memory_usage() == (N * 8 + x.nbytes) / 1024
        assert algorithm.get_additional() == {"code_bytes": 8}
        algorithm.done()
        assert algorithm.get_memory_usage() == 0


def test_all_that_are_left_when_there_are_few(data):
    x, queries = data
    algorithm = module.HyperPQ("euclidean", "opq", 32)
    # A codebook wants as many vectors as codewords.
    algorithm.fit(x[:256])
    for candidates in (0, 5):
        algorithm.set_query_arguments(candidates)
        assert sorted(algorithm.query(queries[0], 300).tolist()) == list(range(256))
    # A byte for each coordinate at most.
    assert algorithm.get_additional() == {"code_bytes": D}


@pytest.mark.parametrize(
    ("metric", "method", "message"),
    [
        ("hamming", "opq", "hyperpq has no metric hamming"),
        ("euclidean", "fidelity", "fidelity is for angular data"),
        ("angular", "hnsw", "hyperpq has no method hnsw"),
    ],
)
def test_what_it_does_not_measure(metric, method, message):
    with pytest.raises(NotImplementedError, match=message):
        module.HyperPQ(metric, method, 8)


def test_it_has_the_methods_of_its_base():
    """Those of ``BaseANN``, and the one that is called if there are query arguments."""
    methods = {
        "fit": ["X"],
        "query": ["q", "n"],
        "batch_query": ["X", "n"],
        "get_batch_results": [],
        "get_memory_usage": [],
        "get_additional": [],
        "done": [],
        "set_query_arguments": ["candidates"],
    }
    for name, arguments in methods.items():
        found = inspect.signature(getattr(module.HyperPQ, name)).parameters
        assert list(found) == ["self", *arguments]
    assert module.HyperPQ.__str__ is not object.__str__
