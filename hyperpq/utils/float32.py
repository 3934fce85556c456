"""Whether PyTorch multiplies float32 numbers as they are, or shortens them to TF32 or bfloat16."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hyperpq.utils.forks import ForkSafeLock

T = TypeVar("T")

_LOCK = ForkSafeLock()
# Values of the newer setting by which no bit of a number is left out; "none" is its default.
_WHOLE = ("ieee", "none")


def multiplies_whole() -> bool:
    """Whether matrix products take all bits of float32 numbers.

    They do unless a program allows shorter ones, such as by
    ``torch.set_float32_matmul_precision("high")``, which has an effect on GPUs.
    """
    import torch

    newer = _newer_settings("matmul")
    if newer:
        return all(one.fp32_precision in _WHOLE for one in newer)
    return bool(torch.get_float32_matmul_precision() == "highest")


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Multiply and convolve all bits of float32 numbers, by deterministic algorithms of cuDNN.

    These are settings of the whole process. Of two threads at once, the one that is done first
    would restore them while the other computes, so one thread is let in at a time.
    """
    import torch

    cudnn = torch.backends.cudnn
    with _LOCK:
        flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
        newer = [(one, one.fp32_precision) for one in _newer_settings("matmul", "conv")]
        products = _readable(torch.get_float32_matmul_precision)
        convolutions = _readable(lambda: cudnn.allow_tf32)
        try:
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
            _set_older(products and "highest", None if convolutions is None else False)
            for one, _ in newer:
                if one.fp32_precision not in _WHOLE:
                    one.fp32_precision = "ieee"
            yield
        finally:
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags
            _set_older(products, convolutions)
            for one, before in newer:
                if one.fp32_precision != before:
                    one.fp32_precision = before


def _newer_settings(*operations: str) -> list[Any]:
    """What has the setting ``fp32_precision`` of some operations, since PyTorch 2.9."""
    import torch

    backends = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    found = [getattr(backend, name, None) for backend in backends for name in operations]
    return [one for one in found if hasattr(one, "fp32_precision")]


def _readable(read: Callable[[], T]) -> T | None:
    """An older setting; None where PyTorch refuses to read it, as a newer one was changed."""
    try:
        return read()
    except RuntimeError:
        return None


def _set_older(products: str | None, convolutions: bool | None) -> None:
    """Set the older settings that could be read."""
    import torch

    if products is not None:
        torch.set_float32_matmul_precision(products)
    if convolutions is not None:
        torch.backends.cudnn.allow_tf32 = convolutions
