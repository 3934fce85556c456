"""The same answers on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scan_cases import KINDS, make_tables

from hyperpq.codec.serialization import to_files
from hyperpq.codes import CodeSegment, TiledCodes, pack, row_bits, tiled_size
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.scan import prepare, reference
from hyperpq.scan.cuda import CudaScanner, memory_of, search
from hyperpq.scan.scanner import CpuScanner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(30, 64)) * 3
    return (centers[rng.integers(0, 30, 3000)] + rng.normal(size=(3000, 64))).astype(np.float32)


@pytest.mark.parametrize("metric", ["l1", "geodesic", "chord"])
def test_an_index_trained_on_a_gpu_answers_alike_on_the_cpu(x, metric, tmp_path):
    index = HiHPQIndex(64, M=4, metric=metric, device="cuda")
    index.train(x, epochs=4, warmup_epochs=1)
    index.add(x)
    index.save(tmp_path / "index")
    on_cpu = HiHPQIndex.load(tmp_path / "index", device="cpu")
    assert (on_cpu.encode(x) == index.encode(x)).mean() > 0.999
    np.testing.assert_allclose(
        on_cpu.codec.tables(x[:50]), index.codec.tables(x[:50]), rtol=1e-4, atol=1e-5
    )
    D, ids = index.search(x[:50], 20)
    other_D, other_ids = on_cpu.search(x[:50], 20)
    np.testing.assert_allclose(D, other_D, rtol=1e-4, atol=1e-4)
    assert (ids == other_ids).mean() > 0.98


def test_training_on_a_gpu_resumes(x, tmp_path):
    whole = HiHPQIndex(64, M=2, device="cuda")
    whole.train(x, epochs=3, checkpoint=tmp_path / "checkpoint")
    again = HiHPQIndex(64, M=2, device="cuda")
    again.train(x, epochs=3, checkpoint=tmp_path / "checkpoint", resume=True)
    assert to_files(again.codec) == to_files(whole.codec)


@pytest.mark.parametrize("K", [16, 256])
@pytest.mark.parametrize("nq", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_on_a_gpu_is_the_reference(monkeypatch, kind, nq, K):
    """On codes that stay there, that pass through it in pieces, and in several shares."""
    monkeypatch.setattr(search, "FEW_ROWS", 1000)
    rng = np.random.default_rng(KINDS.index(kind))
    codes = pack(rng.integers(0, K, (60_000, 9)).astype(np.uint8), 8 if K == 256 else 4)
    ids, tables = rng.permutation(60_000).astype(np.int64), make_tables(rng, kind, (nq, 9, K))
    segments = [
        CodeSegment(prepare(codes[:50_001]), ids[:50_001], row_bits(rng.random(50_001) < 0.7)),
        CodeSegment(prepare(codes[50_001:]), ids[50_001:]),
    ]
    scanners = [
        CudaScanner(["cuda"]),
        CudaScanner(["cuda"], memory=0),
        CudaScanner(["cuda:0", "cuda:0"]),
        CudaScanner(["cuda"], "torch"),
    ]
    for k in (1, 100, 20_000):
        want = reference.search_segments(tables, segments, k, threads=8)
        for scanner in scanners:
            found = scanner.search_segments(tables, segments, k)
            np.testing.assert_array_equal(found[0].view(np.int32), want[0].view(np.int32))
            np.testing.assert_array_equal(found[1], want[1])
        radius = float(want[0][0, -1])
        within = reference.range_search_segments(tables, segments, radius)
        for scanner in scanners:
            found = scanner.range_search_segments(tables, segments, radius)
            for mine, theirs in zip(found, within, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_streamed_pieces_are_not_overwritten_before_they_are_searched():
    """Pieces of 32 KiB in two buffers, many of them, beside work of another search."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1_000_000, 8)).astype(np.uint8)
    tables = rng.random((64, 8, 256)).astype(np.float32)
    segments = [CodeSegment(prepare(codes))]
    want = CpuScanner().search_segments(tables, segments, 10)
    for _ in range(3):
        found = CudaScanner(["cuda"], memory=1 << 18).search_segments(tables, segments, 10)
        np.testing.assert_array_equal(found[1], want[1])
        np.testing.assert_array_equal(found[0], want[0])


def test_an_index_on_a_gpu_searches_there(x):
    index = HiHPQIndex(64, M=4, device="cuda", features="int8")
    index.train(x, epochs=2, warmup_epochs=1)
    index.add(x, attributes={"width": np.arange(len(x)) % 100})
    index.remove_ids(np.arange(0, 900, 3))
    assert index.scanner == CudaScanner(["cuda:0"])
    memory_of("cuda:0").clear()
    asked = [{}, {"where": "width < 7"}, {"refine": "auto"}]
    on_gpu = [array for one in asked for array in index.search_similar(x[:70], 20, **one)]
    on_gpu += index.range_search(x[:70], 3.0)
    assert memory_of("cuda:0").held_bytes > 0
    index.scanner = CpuScanner()
    on_cpu = [array for one in asked for array in index.search_similar(x[:70], 20, **one)]
    on_cpu += index.range_search(x[:70], 3.0)
    for mine, theirs in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_codes_beyond_two_gigabytes():
    """Offsets of bytes are 64-bit integers; the nearest rows are the last."""
    n, size = 280_000_000, 8
    rng = np.random.default_rng(0)
    data = np.frombuffer(bytearray(rng.bytes(tiled_size(n, size))), np.uint8)
    codes = TiledCodes(data, n, size)
    tables = rng.random((5, size, 256)).astype(np.float32)
    # The last tile has fewer rows; each query finds its nearest codewords in one of them.
    left = n % 4096
    tile = data[(n - left) * size :].reshape(size, -1)
    tile[:, left - 5 : left] = tables.argmin(2).T
    want = CpuScanner().search_segments(tables, [CodeSegment(codes)], 10)
    assert want[1][:, 0].tolist() == list(range(n - 5, n))
    for nq in (5, 1):
        found = CudaScanner(["cuda"]).search_segments(tables[:nq], [CodeSegment(codes)], 10)
        np.testing.assert_array_equal(found[0], want[0][:nq])
        np.testing.assert_array_equal(found[1], want[1][:nq])


def test_an_index_whose_network_was_tuned_on_a_gpu_answers_on_a_cpu(drawn, tmp_path):
    from hyperpq.images import ImageIndex, build_index
    from hyperpq.training import FinetuneSettings

    settings = FinetuneSettings(
        rounds=2, epochs=2, batch=16, resolution=64, neighbours=4, holdout_check=False
    )
    index, report = build_index(
        drawn, tmp_path / "index", device="cuda", epochs=1, finetune=settings
    )
    assert report.finetuned is not None
    on_cpu = ImageIndex.open(tmp_path / "index", device="cpu")
    assert on_cpu.backbone.tuned == index.backbone.tuned
    assert on_cpu.backbone.device == "cpu"
    paths = on_cpu.paths()
    answers = on_cpu.query(paths, 1)
    assert [answer.results[0].path for answer in answers] == paths
    # A second tuning, of the index itself, on the GPU, too.
    assert index.finetune(settings).kept == 2
    on_cpu.refresh()
    assert on_cpu.backbone.tuned == index.backbone.tuned
    assert [answer.results[0].path for answer in on_cpu.query(paths, 1)] == paths
