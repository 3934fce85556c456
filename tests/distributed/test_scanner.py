"""Searches by a cluster: the results of the scan here, to the last bit."""

from __future__ import annotations

import os
import shutil
import signal

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.codes import CodeSegment, TiledCodes, row_bits
from hyperpq.distributed import RayScanner
from hyperpq.errors import InvalidInputError
from hyperpq.scan.scanner import CpuScanner

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def scanner(cluster):
    with RayScanner("auto", count=2) as found:
        yield found


def segments_of(rng, sizes, code_size):
    """Segments with every kind of ids and of bits, and codes that are often the same."""
    out = []
    start = 0
    for number, n in enumerate(sizes):
        codes = TiledCodes.from_rows(rng.integers(0, 4, (n, code_size), np.uint8))
        ids = np.arange(start, start + 2 * n, 2 - number % 2)[:n]
        start += 2 * n
        bits = None if number % 3 else row_bits(rng.random(n) < 0.5)
        out.append(CodeSegment(codes, ids, bits))
    return out


def same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_results_are_those_of_the_cpu(scanner):
    here = CpuScanner()
    for sizes in ([], [1], [5000], [9000, 64, 4096, 20000], [3] * 5):
        rng = np.random.default_rng(len(sizes))
        segments = segments_of(rng, sizes, 6)
        tables = rng.random((5, 6, 256)).astype(np.float32).round(2)
        for k in (1, 10, 3000):
            expected = here.search_segments(tables, segments, k)
            same(scanner.search_segments(tables, segments, k), expected)
        for radius in (-1.0, 1.5, np.inf):
            expected = here.range_search_segments(tables, segments, radius)
            same(scanner.range_search_segments(tables, segments, radius), expected)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 24))[rng.integers(0, 20, 12000)] + rng.normal(size=(12000, 24)) / 3
    x = x.astype(np.float32)
    index = HiHPQIndex(24, M=4, objective="fidelity", device="cpu", features="float16")
    index.train(x[:2000])
    index.add(x[:10000], attributes={"half": np.arange(10000) % 2})
    path = tmp_path_factory.mktemp("vectors") / "index"
    index.save(path)
    return path, x


def searches(index, x):
    yield index.search(x[:7], 12)
    yield index.search(x[:7], 12, where="half == 1")
    yield index.search(x[:7], 12, refine=50)
    yield index.search_similar(x[:3], 5)
    yield index.range_search(x[:7], float(index.search(x[:7], 12)[0].max()))


def test_an_index_that_changes(scanner, vectors, tmp_path):
    path, x = vectors
    copies = [shutil.copytree(path, tmp_path / name) for name in ("a", "b")]
    index, plain = (HiHPQIndex.load(copy, device="cpu") for copy in copies)
    index.scanner = scanner
    for a, b in zip(searches(index, x), searches(plain, x), strict=True):
        same(a, b)
    held = sum(map(len, scanner._sent.values()))
    for one in (index, plain):
        one.remove_ids(np.arange(0, 5000, 3))
        one.add(x[10000:], attributes={"half": np.zeros(2000, int)})
    for a, b in zip(searches(index, x), searches(plain, x), strict=True):
        same(a, b)
    assert sum(map(len, scanner._sent.values())) > held
    del index, one
    scanner.search_segments(np.zeros((1, 4, 256), np.float32), [], 1)
    assert not len(scanner._sent)


def test_processes_and_machines_that_end(cluster, vectors):
    path, x = vectors
    index = HiHPQIndex.load(path, device="cpu")
    expected = index.search(x[:7], 12)
    with RayScanner("auto", count=2) as scanner:
        index.scanner = scanner
        same(index.search(x[:7], 12), expected)
        actor = scanner._pool._running[0]
        os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        same(index.search(x[:7], 12), expected)
        ray.wait([*scanner._pool._starting], timeout=120)
        same(index.search(x[:7], 12), expected)
        assert sorted(scanner._pool._running) == [0, 1]
        [node] = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        same(index.search(x[:7], 12), expected)
        assert len(scanner._pool._running) == 1
        cluster.add_node(num_cpus=1)
        ray.wait([*scanner._pool._starting], timeout=120)
        same(index.search(x[:7], 12), expected)
        assert sorted(scanner._pool._running) == [0, 1]


def test_replicas(cluster, vectors):
    path, x = vectors
    index = HiHPQIndex.load(path, device="cpu")
    expected = index.search(x[:7], 12)
    with RayScanner("auto", count=2, replicas=2) as scanner:
        index.scanner = scanner
        for _ in range(3):
            same(index.search(x[:7], 12), expected)
    with pytest.raises(InvalidInputError, match="replicas is 3"):
        RayScanner("auto", count=2, replicas=3)
