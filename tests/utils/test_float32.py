"""Products of all bits of float32, whatever a program has allowed, by older and newer settings."""

from __future__ import annotations

import pytest
import torch

from hyperpq.utils.float32 import multiplies_whole, whole_float32

BACKENDS = torch.backends
HAS_NEWER = hasattr(BACKENDS.cuda.matmul, "fp32_precision")


def newer(value, *places):
    for place in places:
        place.fp32_precision = value


ALLOWED = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
}
if HAS_NEWER:
    ALLOWED |= {
        "products": lambda: newer("tf32", BACKENDS.cuda.matmul),
        "all": lambda: newer("tf32", BACKENDS),
        "convolutions": lambda: newer("tf32", BACKENDS.cudnn.conv),
        "whole convolutions": lambda: newer("ieee", BACKENDS.cudnn.conv),
        "products of a CPU": lambda: newer("bf16", BACKENDS.mkldnn.matmul),
    }


def readable(read):
    try:
        return read()
    except RuntimeError as error:
        return str(error)[:60]


def settings():
    """All that PyTorch says of its settings, or why it says nothing."""
    older = (
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
        lambda: BACKENDS.cudnn.allow_tf32,
    )
    flags = BACKENDS.cudnn.enabled, BACKENDS.cudnn.benchmark, BACKENDS.cudnn.deterministic
    return [*map(readable, older), *flags, *effective()]


def effective():
    if not HAS_NEWER:
        return []
    places = BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv
    return [place.fp32_precision for place in places]


@pytest.fixture(autouse=True)
def restored():
    """As PyTorch has it at first."""
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    if HAS_NEWER:
        newer("none", BACKENDS, BACKENDS.cuda.matmul, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv)


@pytest.mark.parametrize("allowed", ALLOWED)
def test_settings_are_whole_and_then_as_before(allowed):
    ALLOWED[allowed]()
    before = settings()
    with pytest.raises(KeyError), whole_float32():
        assert multiplies_whole()
        assert set(effective()) <= {"ieee", "none"}
        assert BACKENDS.cudnn.deterministic
        assert not BACKENDS.cudnn.benchmark
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("allowed", ["high", "medium", "allow_tf32", "products", "all"])
def test_shorter_products_are_noticed(allowed):
    if allowed not in ALLOWED:
        pytest.skip("PyTorch has no newer settings")
    assert multiplies_whole()
    ALLOWED[allowed]()
    assert not multiplies_whole()
