"""The same answers on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq.codec.serialization import to_files
from hyperpq.index.hihpq_index import HiHPQIndex

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
