"""The nearest of many columns, where PyTorch may shorten float32 numbers."""

from __future__ import annotations

import pytest
import torch

from hyperpq.geometry.nearest import nearest_columns

PRODUCT = torch.Tensor.__matmul__


def factors():
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(*shape, generator=generator) for shape in ((2, 500, 17), (2, 17, 256))
    )
    return left.double(), right.double()


@pytest.fixture
def allowed():
    """A program has allowed shorter factors."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


def test_shorter_factors_change_no_result(allowed, monkeypatch):
    """As on a GPU with TF32, whose factors have ten bits; here they have eight."""

    def shortened(a, b):
        if a.dtype == torch.float32:
            return PRODUCT(a.bfloat16().float(), b.bfloat16().float())
        return PRODUCT(a, b)

    left, right = factors()
    monkeypatch.setattr(torch.Tensor, "__matmul__", shortened)
    assert torch.equal(nearest_columns(left, right), (left @ right).argmin(-1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_with_tf32_finds_the_same(allowed):
    left, right = factors()
    found = nearest_columns(left.cuda(), right.cuda()).cpu()
    assert torch.equal(found, (left @ right).argmin(-1))
